"""Training and scoring on a real warehouse and a real MLflow: what is kept, promoted, refused."""

from collections.abc import Callable
from datetime import date, timedelta

import mlflow
import numpy as np
import pandas as pd
import psycopg
import pytest
import simulated

from ml import pipelines
from warehouse import building
from warehouse.settings import Settings, TierhouseError, WrongUsage

DAY = simulated.CLOSED + timedelta(days=1)
MODEL = f"models:/{pipelines.REGISTERED}@{pipelines.ALIAS}"


@pytest.fixture(scope="module")
def shop(settings, urls) -> Settings:
    """The simulated shop's last nine months; a horizon that leaves few days to build."""
    lines = simulated.order_lines()
    since = pd.Timestamp(simulated.CLOSED) - pd.Timedelta(days=270)
    simulated.land(urls.warehouse, lines[lines["ordered_at"] >= since])
    return settings.model_copy(update={"horizon_days": 30})


@pytest.fixture(scope="module")
def train(shop, urls) -> Callable[..., pipelines.Trained]:
    def run(day: date, max_age_days: int | None = None) -> pipelines.Trained:
        return pipelines.train(
            shop,
            urls,
            day,
            max_age_days,
            build=lambda days: building.build(urls, days, shop.home),
            say=lambda what: None,
        )

    return run


@pytest.fixture(scope="module")
def trained(train) -> pipelines.Trained:
    yield train(DAY)
    mlflow.set_tracking_uri(None)


def champion() -> str:
    version = mlflow.MlflowClient().get_model_version_by_alias(
        pipelines.REGISTERED, pipelines.ALIAS
    )
    return str(version.version)


def versions() -> int:
    return len(mlflow.MlflowClient().search_model_versions(f"name='{pipelines.REGISTERED}'"))


def test_without_a_champion_scoring_says_to_train(shop, urls):
    with pytest.raises(TierhouseError, match=f"tierhouse train --as-of {DAY}"):
        pipelines.score(shop, urls, DAY, lambda what: None)


def test_a_history_too_short_to_judge_a_model_is_wrong_usage_and_registers_nothing(train, urls):
    first = building.read_history(urls).first
    for day in (first, first + timedelta(days=40)):
        with pytest.raises(WrongUsage, match=str(first)):
            train(day)
    assert versions() == 0


def test_what_training_made_is_the_champion_and_says_what_it_knows(trained, shop):
    assert trained.backtest is not None
    assert "is the champion" in trained.message
    version = mlflow.MlflowClient().get_model_version_by_alias(
        pipelines.REGISTERED, pipelines.ALIAS
    )
    assert version.tags["as_of_date"] == DAY.isoformat()
    assert version.tags["horizon_days"] == str(shop.horizon_days)
    run = mlflow.get_run(version.run_id)
    assert run.data.params["as_of_date"] == DAY.isoformat()
    assert run.inputs.dataset_inputs[0].dataset.digest
    pooled = trained.backtest.pooled[pipelines.MODEL]
    assert run.data.metrics["normalized_gini"] == pytest.approx(pooled["normalized_gini"])


def test_training_needs_no_git(shop, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert pipelines._tags(shop, DAY, 90)["git_commit"] == "unknown"


def test_every_model_and_baseline_is_a_run_and_a_row_of_the_scoreboard(trained, urls):
    runs = mlflow.search_runs(experiment_names=[pipelines.REGISTERED])
    judged = trained.backtest
    assert set(runs["tags.model"].dropna()) == set(judged.pooled)
    with psycopg.connect(urls.warehouse) as connection:
        found = connection.execute(
            "select candidate, as_of_date, metric, value from scores.model_metrics"
        ).fetchall()
    expected = [(None, judged.pooled), *((o.as_of_date, o.models) for o in judged.origins)]
    assert {(name, day, metric): value for name, day, metric, value in found} == {
        (name, day, metric): value
        for day, models in expected
        for name, metrics in models.items()
        for metric, value in metrics.items()
        if np.isfinite(value)
    }


def test_the_tiers_of_the_held_out_window_hold_each_of_its_customers_once(trained, urls):
    newest = trained.backtest.newest
    assert newest.as_of_date <= DAY - timedelta(days=30)
    with psycopg.connect(urls.warehouse) as connection:
        customers, spend, expected = connection.execute(
            "select sum(customers), sum(realised_spend)::float8, sum(expected_spend)::float8 "
            "from scores.tier_evaluation"
        ).fetchone()
    assert customers == newest.customer_id.size
    assert spend == pytest.approx(newest.spend.sum(), abs=0.05)
    predicted = newest.predictions[pipelines.MODEL].expected_spend
    assert expected == pytest.approx(predicted.sum(), abs=0.05)


def test_no_artifact_of_a_model_is_a_pickle_or_holds_a_customer(trained, shop):
    artifacts = shop.home / "mlflow" / "artifacts"
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    assert {"purchase.txt", "amount.txt", "model.json", "MLmodel"} <= {f.name for f in files}
    plain = {".txt", ".json", ".yaml", ".yml", ".md", ".png", ".py"}
    assert {f.name for f in files if f.suffix not in plain} <= {"MLmodel", ".gitignore"}
    for file in files:
        content = file.read_bytes()
        assert "input_example" not in file.name
        assert not content.startswith(b"\x80")  # how a pickle begins, whatever its name
        if file.suffix != ".png" and "code" not in file.relative_to(artifacts).parts:
            assert b'"c7"' not in content


def test_scores_are_what_the_stored_champion_predicts_for_everybody_of_the_day(trained, shop, urls):
    building.build(urls, [DAY], shop.home)
    said = pipelines.score(shop, urls, DAY, lambda what: None)
    with psycopg.connect(urls.warehouse) as connection:
        rows = connection.execute(
            "select customer_id, scores.expected_spend::float8, purchase_probability, "
            "horizon_days, model_version, tier_rank, version_id, tiers.expected_spend::float8 "
            "from scores.customer_scores as scores "
            "join scores.customer_tiers as tiers using (version_id, customer_id)"
        ).fetchall()
        day = connection.execute(
            "select * from features.customer_features where as_of_date = %s", [DAY]
        )
        frame = pd.DataFrame(day.fetchall(), columns=[column.name for column in day.description])
    frame = frame.set_index("customer_id")
    found = pd.DataFrame(rows).set_index(0)
    model = mlflow.pyfunc.load_model(MODEL)
    learned = model.metadata.get_input_schema().input_names()
    inputs = frame[[name for name in learned if name != "as_of_date"]].astype(float)
    expected = model.predict(inputs.assign(as_of_date=pd.Timestamp(DAY)))

    assert found.index.is_unique
    assert set(found.index) == set(expected.index)
    expected = expected.loc[found.index]
    np.testing.assert_allclose(found[1], expected["expected_spend"], atol=0.0051)
    np.testing.assert_allclose(found[2], expected["purchase_probability"], rtol=1e-12)
    assert set(found[3]) == {30}
    assert set(found[4]) == {champion()}
    assert (found[1] == found[7]).all()
    assert found.sort_values(1, ascending=False)[5].is_monotonic_increasing
    assert set(found[5]) == {1, 2, 3, 4}
    (version,) = set(found[6])
    assert version in said


def test_scoring_again_writes_the_same_rows(trained, shop, urls):
    building.build(urls, [DAY], shop.home)
    query = "select * from scores.customer_tiers order by version_id, customer_id"
    found = []
    for _ in range(2):
        pipelines.score(shop, urls, DAY, lambda what: None)
        with psycopg.connect(urls.warehouse) as connection:
            found.append(connection.execute(query).fetchall())
    assert found[0] == found[1] != []


def test_a_fresh_champion_is_kept(trained, train):
    before = champion(), versions()
    for days_later in (0, 7):
        again = train(DAY + timedelta(days=days_later), max_age_days=7)
        assert again.backtest is None
        assert "fresh enough" in again.message
    assert (champion(), versions()) == before


@pytest.mark.parametrize(("days_later", "max_age_days"), [(8, 7), (-1, 7), (0, None)])
def test_a_stale_champion_one_of_a_later_day_or_no_age_at_all_means_training(
    trained, shop, urls, days_later, max_age_days
):
    class Builds(Exception):
        pass

    def build(days):
        raise Builds

    day = DAY + timedelta(days=days_later)
    with pytest.raises(Builds):
        pipelines.train(shop, urls, day, max_age_days, build=build, say=lambda what: None)


def test_a_model_of_an_earlier_day_is_registered_and_does_not_become_champion(trained, train):
    before = champion(), versions()
    earlier = train(DAY - timedelta(days=30))
    assert "stays champion" in earlier.message
    assert (champion(), versions()) == (before[0], before[1] + 1)


def test_a_day_before_the_champion_was_trained_is_refused(trained, shop, urls):
    earlier = DAY - timedelta(days=1)
    with pytest.raises(TierhouseError, match="would know the future"):
        pipelines.score(shop, urls, earlier, lambda what: None)
    with psycopg.connect(urls.warehouse) as connection:
        assert connection.execute(
            "select count(*) from ops.versions where as_of_date = %s", [earlier]
        ).fetchone() == (0,)


def test_a_day_that_is_not_built_is_not_scored(trained, shop, urls):
    with pytest.raises(TierhouseError, match=f"tierhouse build --as-of {DAY + timedelta(days=9)}"):
        pipelines.score(shop, urls, DAY + timedelta(days=9), lambda what: None)
