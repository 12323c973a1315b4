"""Training and scoring on a real warehouse and a real MLflow: what is kept, promoted, refused."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pytest
import simulated

from ml import backtest as judging
from ml import (
    cutoffs,
    horizons,
    lightgbm_hurdle,
    pipelines,
    promotion,
    reasons,
    sufficiency,
    tier_policy,
)
from ml.pipelines import backtesting, embedding, reading, registry, scoring, tracking, training
from warehouse import building, publishing, versions
from warehouse.settings import Settings, TierhouseError, ValueModel, WrongUsage

DAY = simulated.CLOSED + timedelta(days=1)
TREES = ValueModel.lightgbm_hurdle
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
            build=lambda days, horizon: building.build(urls, days, shop.home, horizon_days=horizon),
            say=lambda what: None,
        )

    return run


@pytest.fixture(scope="module")
def refused(train) -> pipelines.Trained:
    """The first training. This shop's customers order at random: there is nothing to learn."""
    yield train(DAY)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def trained(refused, shop, urls) -> pipelines.Trained:
    """What was trained is the champion, by hand."""
    pipelines.promote(shop, urls, "1")
    return refused


def champion() -> str:
    version = mlflow.MlflowClient().get_model_version_by_alias(
        pipelines.REGISTERED, pipelines.ALIAS
    )
    return str(version.version)


def registered() -> int:
    return len(mlflow.MlflowClient().search_model_versions(f"name='{pipelines.REGISTERED}'"))


def test_without_a_champion_everybody_is_scored_and_the_score_says_by_what(shop, urls):
    building.build(urls, [DAY], shop.home)
    said = pipelines.score(shop, urls, DAY, lambda what: None)
    assert "without a model, by spend_rate" in said  # MBG/NBD cannot be fitted to this shop
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        rows = pd.DataFrame(
            connection.execute(
                "select customer_id, horizon_days, expected_spend::float8, purchase_probability, "
                "reasons, expected_spend_low, model_name, model_version "
                "from scores.customer_scores order by horizon_days"
            ).fetchall()
        )
        tiered = connection.execute("select count(*) from scores.customer_tiers").fetchone()
        for table in ("scores.customer_scores", "scores.customer_tiers", "ops.versions"):
            connection.execute(f"delete from {table}")
    frame = reading.read_days(urls, [DAY])
    answer = sufficiency.predict_with(sufficiency.below_the_model(frame, 270), frame, 30)
    asked = rows[rows[1] == 30].set_index(0).loc[frame["customer_id"]]
    np.testing.assert_allclose(asked[2], answer.prediction.expected_spend, atol=0.0051)
    assert tiered == (len(frame),)
    assert set(rows[1]) == set(horizons.HORIZONS)
    assert (rows.groupby(0)[2].diff().dropna() >= 0).all()
    assert (rows.groupby(0)[3].diff().dropna() >= 0).all()
    assert rows[[4, 5]].isna().all(axis=None)
    assert set(zip(rows[6], rows[7], strict=True)) == {("spend_rate", "untrained")}


def test_too_little_history_trains_nothing_and_says_what_is_missing(train, urls):
    first = building.read_history(urls).first
    found = train(first + timedelta(days=100))
    assert found.backtest is None
    assert "100 of 180 days of orders" in " ".join(found.message.split())
    assert "`tierhouse score` does without a model" in found.message
    assert max(map(len, found.message.splitlines())) <= 80
    assert registered() == 0


def test_settings_that_were_surely_better_before_the_judged_windows_are_used(shop, urls):
    def tune(day: date) -> str:
        return pipelines.tune(
            shop,
            urls,
            day,
            seconds=None,
            trials=2,
            build=lambda days, horizon: building.build(urls, days, shop.home, horizon_days=horizon),
            say=lambda what: None,
        )

    default = lightgbm_hurdle.Config(), "default"
    assert "2 trials" in tune(DAY)
    first = building.read_history(urls).first
    oldest = min(cutoffs.test_origins(DAY, first, 30))
    assert training._settings_of_trees(30, oldest) == default  # chance teaches nothing
    (run,) = mlflow.search_runs(
        experiment_names=[pipelines.TUNINGS],
        filter_string="tags.tuned = 'true'",
        output_format="list",
    )
    client = mlflow.MlflowClient()
    found = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/tuned.json")
    won = {**found, "gain_low": 0.001, "config": {**found["config"], "num_leaves": 7}}
    client.log_dict(run.info.run_id, won, "tuned.json")
    config, where_from = training._settings_of_trees(30, oldest)
    assert (config.num_leaves, where_from) == (7, f"tuned in run {run.info.run_id}")
    seen = date.fromisoformat(found["not_after"]) - timedelta(days=1)
    assert training._settings_of_trees(30, seen) == default
    assert training._settings_of_trees(90, oldest) == default
    client.delete_run(run.info.run_id)


def decisions(urls) -> list[tuple]:
    with psycopg.connect(urls.warehouse) as connection:
        return connection.execute(
            "select verdict, model_version, champion_before, as_of_date, reasons, numbers "
            "from ops.promotions order by promotion_id"
        ).fetchall()


def verdict_of(version: str) -> tuple[str, str]:
    """The tag and the note."""
    found = mlflow.MlflowClient().get_model_version(pipelines.REGISTERED, version)
    note = mlflow.artifacts.load_text(f"runs:/{found.run_id}/verdict.md")
    return found.tags["verdict"], note


def test_a_refused_model_is_registered_without_the_alias_and_its_verdict_is_kept(
    refused, shop, urls
):
    assert "The gate refused it" in refused.message
    assert "`tierhouse score` does without a model" in refused.message
    assert "`tierhouse promote 1`" in refused.message
    ((verdict, version, before, day, why, numbers),) = decisions(urls)
    assert (verdict, version, before, day) == ("refused", "1", None, DAY)
    assert why in refused.message
    metrics = refused.backtest.pooled[TREES]
    gini = numbers["metrics"]["normalized_gini"]
    assert gini["challenger"] == metrics["normalized_gini"]
    assert gini["baseline"] > 0
    coverage = numbers["metrics"]["coverage"]["challenger"]
    assert 0.5 < coverage == refused.backtest.pooled[TREES]["coverage"] <= 1
    assert sum(tier["realised_share"] for tier in numbers["tiers"]) == pytest.approx(1)
    tag, note = verdict_of("1")
    assert tag == "refused"
    assert why in note
    with pytest.raises(mlflow.MlflowException):
        champion()
    with pytest.raises(WrongUsage, match=r"no champion to go back from.* 1 \(as of"):
        pipelines.rollback(shop, urls)


def test_a_version_that_is_not_there_is_wrong_usage_with_what_there_is(refused, shop, urls):
    for version in ("77", "latest"):
        with pytest.raises(WrongUsage, match=rf"no version {version} .* 1 \(as of {DAY}\)"):
            pipelines.promote(shop, urls, version)


def test_what_a_person_promotes_is_the_champion_and_says_what_it_knows(trained, shop, urls):
    assert trained.backtest is not None
    assert champion() == "1"
    assert decisions(urls)[1] == ("promoted", "1", None, DAY, "by hand", {})
    assert "nothing changed" in pipelines.promote(shop, urls, "1")
    assert len(decisions(urls)) == 2
    version = mlflow.MlflowClient().get_model_version_by_alias(
        pipelines.REGISTERED, pipelines.ALIAS
    )
    assert version.tags["as_of_date"] == DAY.isoformat()
    assert version.tags["horizon_days"] == str(shop.horizon_days)
    run = mlflow.get_run(version.run_id)
    assert run.data.params["as_of_date"] == DAY.isoformat()
    assert run.inputs.dataset_inputs[0].dataset.digest
    pooled = trained.backtest.pooled[TREES]
    assert run.data.metrics["normalized_gini"] == pytest.approx(pooled["normalized_gini"])


def test_training_shows_what_the_model_looks_at(trained):
    version = mlflow.MlflowClient().get_model_version_by_alias(
        pipelines.REGISTERED, pipelines.ALIAS
    )
    logged = mlflow.MlflowClient().list_artifacts(version.run_id, "figures")
    assert {file.path.removeprefix("figures/") for file in logged if file.file_size} >= {
        "feature_importance.png", "reasons_importance.png", "dependence.png",
        "high_value_roc.png", "high_value_confusion.png", "gain_curve.png",
    }  # fmt: skip


def test_a_version_has_its_card_with_the_board_and_its_limits(trained):
    version = mlflow.MlflowClient().get_model_version(pipelines.REGISTERED, "1")
    card = version.description
    assert card == mlflow.artifacts.load_text(f"runs:/{version.run_id}/model_card.md")
    best = trained.backtest.best_baseline["normalized_gini"]
    board = trained.backtest.pooled
    assert f"| {board[TREES]['normalized_gini']:.3f} (" in card
    assert f"| {best} {board[best]['normalized_gini']:.3f} |" in card
    assert "365 days from windows of 180" in card
    assert "It has seen no season twice." in card


def test_training_needs_no_git(shop, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert tracking.tags_of(shop, DAY, 90)["git_commit"] == "unknown"


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
            "from scores.tier_evaluation where as_of_date = %s",
            [newest.as_of_date],
        ).fetchone()
        windows = connection.execute(
            "select as_of_date, sum(customers), sum(buyers) > 0, sum(expected_buyers) > 0, "
            "sum(truly_top) <= min(customers) filter (where tier_rank = 1), count(*) "
            "from scores.tier_evaluation group by 1 order by 1"
        ).fetchall()
    assert windows == [
        (origin.as_of_date, origin.customers, True, True, True, 4)
        for origin in trained.backtest.origins
    ]
    (run,) = mlflow.search_runs(
        experiment_names=[pipelines.REGISTERED],
        filter_string="attributes.run_name LIKE 'train %'",
        output_format="list",
        max_results=1,
    )
    assert {"top_tier_capture", "top_tier_f1", "tier_1_lift"} <= set(run.data.metrics)
    assert customers == newest.customer_id.size
    assert spend == pytest.approx(newest.spend.sum(), abs=0.05)
    predicted = newest.predictions[TREES].expected_spend
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
            "select customer_id, scores.expected_spend::float8, scores.purchase_probability, "
            "scores.horizon_days, model_version, tier_rank, version_id, "
            "tiers.expected_spend::float8, "
            "scores.expected_spend_low::float8, scores.expected_spend_high::float8, "
            "scores.next_order_date - scores.as_of_date, churn_probability, "
            "scores.high_value_probability "
            "from scores.customer_scores as scores "
            "join scores.customer_tiers as tiers using (version_id, customer_id) "
            "where scores.horizon_days = 30"
        ).fetchall()
        outlook = pd.DataFrame(
            connection.execute(
                "select customer_id, horizon_days, expected_spend::float8, purchase_probability, "
                "expected_spend_low, high_value_probability, next_order_date, reasons "
                "from scores.customer_scores order by horizon_days"
            ).fetchall()
        )
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
    assert found[[8, 9]].notna().all(axis=None)
    np.testing.assert_allclose(found[8], expected["expected_spend_low"], atol=0.0051)
    np.testing.assert_allclose(found[9], expected["expected_spend_high"], atol=0.0051)
    assert set(found[3]) == {30}
    assert set(found[4]) == {champion()}
    assert (found[1] == found[7]).all()
    assert found.sort_values(1, ascending=False)[5].is_monotonic_increasing
    assert set(found[5]) == {1, 2, 3, 4}
    (version,) = set(found[6])
    assert version in said
    np.testing.assert_allclose(found[10].astype(float), expected["next_order_days"])
    assert (found[11] == 1 - found[2]).all()
    np.testing.assert_allclose(found[12], expected["high_value_probability"], rtol=1e-12)

    others = outlook[outlook[1] != 30]
    assert others[[4, 5, 6, 7]].isna().all(axis=None)
    assert set(outlook[1]) == set(horizons.HORIZONS)
    for days, rows in outlook.set_index(0).groupby(1):
        told = expected.loc[rows.index]
        np.testing.assert_allclose(rows[2], told[f"expected_spend_{days}d"], atol=0.0051)
        np.testing.assert_allclose(rows[3], told[f"purchase_probability_{days}d"], rtol=1e-12)


def test_everybody_has_the_reasons_that_the_champions_own_trees_give(
    trained, shop, urls, monkeypatch
):
    """Found part by part, they are those of the whole day."""
    building.build(urls, [DAY], shop.home)
    monkeypatch.setattr(reasons, "ROWS_AT_ONCE", 30)
    pipelines.score(shop, urls, DAY, lambda what: None)
    monkeypatch.undo()
    with psycopg.connect(urls.warehouse) as connection:
        stored = dict(
            connection.execute(
                "select customer_id, reasons from scores.customer_scores where horizon_days = 30"
            ).fetchall()
        )
    frame = reading.read_days(urls, [DAY])
    files = Path(mlflow.artifacts.download_artifacts(MODEL))
    model = horizons.from_files(files / "data" / "model").asked
    families = reasons.read_families()
    found = reasons.top_reasons(frame, reasons.effects(model, frame, families), families)
    expected = pd.DataFrame({
        "customer_id": np.repeat(frame["customer_id"], np.diff(found.offsets)),
        "reason": found.family, "en": found.text_en, "zh": found.text_zh,
        "effect": found.effect,
    })  # fmt: skip

    assert stored.keys() == set(frame["customer_id"])
    assert len(frame) > 60
    assert max(len(why) for why in stored.values()) == 3
    rows = [
        (customer, why["reason"], why["en"], why["zh"], why["effect"])
        for customer in frame["customer_id"]
        for why in stored[customer]
    ]
    columns = list(zip(*rows, strict=True))
    for place, name in enumerate(("customer_id", "reason", "en", "zh")):
        assert list(columns[place]) == list(expected[name])
    np.testing.assert_allclose(columns[4], expected["effect"], rtol=1e-3)


def test_the_names_that_sentences_say_are_read_with_the_features_and_are_none(
    trained, shop, urls, tmp_path
):
    building.build(urls, [DAY], shop.home)
    texts = scoring._texts_of(reasons.read_families())
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        for name in ("Tea", None):  # this shop has no categories
            connection.execute(
                "update features.feat_customer_behaviour set top_category = %s", [name]
            )
            reading.spill_day(urls, DAY, tmp_path / "day.arrow", [*texts, "not_there"])
            frame = pd.concat(reading.parts(tmp_path / "day.arrow"), ignore_index=True)
            assert frame["top_category"].fillna("").eq(name or "").all()
    assert list(frame.drop(columns=texts)) == list(reading.read_days(urls, [DAY]))


def test_scoring_again_writes_the_same_rows(trained, shop, urls):
    building.build(urls, [DAY], shop.home)
    query = (
        "select tiers, scores from scores.customer_tiers as tiers "
        "join scores.customer_scores as scores using (version_id, customer_id) "
        "order by customer_id, scores.horizon_days"
    )
    found = []
    for _ in range(2):
        pipelines.score(shop, urls, DAY, lambda what: None)
        with psycopg.connect(urls.warehouse) as connection:
            found.append(connection.execute(query).fetchall())
    assert found[0] == found[1] != []


def test_a_fresh_champion_is_kept(trained, train):
    before = champion(), registered()
    for days_later in (0, 7):
        again = train(DAY + timedelta(days=days_later), max_age_days=7)
        assert again.backtest is None
        assert "fresh enough" in again.message
    assert (champion(), registered()) == before


@pytest.mark.parametrize(("days_later", "max_age_days"), [(8, 7), (-1, 7), (0, None)])
def test_a_stale_champion_one_of_a_later_day_or_no_age_at_all_means_training(
    trained, shop, urls, days_later, max_age_days
):
    class Builds(Exception):
        pass

    def build(days, horizon):
        raise Builds

    day = DAY + timedelta(days=days_later)
    with pytest.raises(Builds):
        pipelines.train(shop, urls, day, max_age_days, build=build, say=lambda what: None)


def test_a_model_of_an_earlier_day_is_registered_and_does_not_become_champion(trained, train, urls):
    before = champion(), registered()
    earlier = train(DAY - timedelta(days=30))
    assert "Version 1 stays champion" in earlier.message
    assert (champion(), registered()) == (before[0], before[1] + 1)
    verdict, version, standing, _, why, numbers = decisions(urls)[-1]
    assert (verdict, version, standing) == ("refused", "2", "1")
    assert f"knows more, up to {DAY}" in why
    assert set(numbers["champion_judged"].values()) == {"refit"}
    gini = numbers["metrics"]["normalized_gini"]
    assert gini["champion"] == gini["challenger"]
    assert gini["gain_over_champion_low"] == gini["gain_over_champion_high"] == 0


def test_what_the_gate_passes_is_the_champion_until_it_is_rolled_back(trained, train, shop, urls):
    client = mlflow.MlflowClient()
    if registered() == 1:
        train(DAY - timedelta(days=30))
    standing = client.get_model_version(pipelines.REGISTERED, "1")
    passed = promotion.Verdict((), {"metrics": {}, "tiers": []})
    said = registry.promote_if_passed(urls, "2", DAY, standing, passed)
    assert said == " and is the champion."
    assert champion() == "2"
    assert verdict_of("2")[0] == "promoted"
    assert decisions(urls)[-1][:3] == ("promoted", "2", "1")

    # Judged against version 1, which is the champion no longer.
    said = registry.promote_if_passed(urls, "1", DAY, standing, passed)
    assert "Version 2 stays champion" in said
    assert champion() == "2"

    assert "Version 1 " in pipelines.rollback(shop, urls)
    assert champion() == "1"
    assert decisions(urls)[-1][:3] == ("rolled back", "1", "2")
    with pytest.raises(WrongUsage, match="Version 1 is the first champion"):
        pipelines.rollback(shop, urls)
    assert champion() == "1"


def test_a_champion_of_other_settings_is_fitted_anew_for_every_window(trained, shop, urls):
    """The stored champion beside a challenger that only says that its settings are others."""
    version = mlflow.MlflowClient().get_model_version(pipelines.REGISTERED, "1")
    stored = registry.readable(version)
    asked = stored.asked
    other = replace(asked, config=replace(asked.config, seed=asked.config.seed + 1))
    board = trained.backtest
    days = {o.as_of_date for o in board.origins}.union(*(o.training_cutoffs for o in board.origins))
    frame = reading.read_days(urls, sorted(days))
    labels = reading.closed_labels(urls, frame, 30)
    origins = [origin.as_of_date for origin in board.origins]
    kind = training._Kind(TREES, asked.config, None, lambda what: None)
    judged = training._judge(kind, frame, labels, origins, 30, pipelines.read_policy(shop))
    found = training._judge_champion(
        version, stored, replace(stored, models={30: other}), kind, judged, frame, labels
    )
    assert found.version == "1"
    own = board.pooled[TREES]
    assert found.metrics["normalized_gini"] == own["normalized_gini"]
    assert found.gain["normalized_gini_gain_low"] == 0


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


def judged_by(shop, urls, chosen: list[str], label_share: float = 1.0) -> judging.Backtest:
    return pipelines.backtest(
        shop,
        urls,
        [simulated.CLOSED - timedelta(days=150)],  # three cutoffs before it
        30,
        chosen,
        build=lambda days, horizon: building.build(urls, days, shop.home, horizon_days=horizon),
        say=lambda what: None,
        label_share=label_share,
    )


def test_what_reads_the_events_is_judged_where_it_is_asked_for_and_nowhere_else(shop, urls):
    models, baselines, on_events = backtesting._candidates([])
    assert {*models, *baselines} == {*judging.MODELS, *judging.BASELINES}
    assert on_events == []
    with pytest.raises(WrongUsage, match=r"no model perceptron.*transformer_scratch, hybrid"):
        judged_by(shop, urls, ["perceptron"])
    judged = judged_by(shop, urls, ["transformer", "hybrid", "recency"])
    assert list(judged.pooled) == ["recency", "transformer", "hybrid"]
    for name in ("transformer", "hybrid"):
        assert 0.2 < judged.pooled[name]["sum_ratio"] < 5
        assert judged.pooled[name]["auroc_high_value"] > 0
        assert "spearman_gain_low" in judged.pooled[name]
    fitted = judged.newest.fitted["hybrid"]
    assert "frequency_orders" in fitted.trees.features
    assert fitted.network.config.network.encoder == "transformer"


def test_a_share_of_the_labels_is_a_parameter_of_the_run(shop, urls):
    judged_by(shop, urls, ["lightgbm_hurdle", "mean"], label_share=0.5)
    runs = mlflow.search_runs(experiment_names=[pipelines.BACKTESTS], output_format="list")
    shares = [run.data.params["label_share"] for run in runs if "label_share" in run.data.params]
    assert shares.count("0.5") == 1


def test_a_hybrid_goes_before_the_gate_scores_and_is_loaded_by_its_alias(
    trained, shop, urls, monkeypatch
):
    all_origins = cutoffs.test_origins
    monkeypatch.setattr(cutoffs, "test_origins", lambda *asked: all_origins(*asked)[:1])
    reads_events = shop.model_copy(update={"value_model": ValueModel.hybrid})

    def train(settings: Settings) -> pipelines.Trained:
        return pipelines.train(
            settings, urls, DAY, None, build=lambda days, horizon: None, say=lambda what: None
        )

    before = champion()
    found = train(reads_events)
    assert {"lightgbm_hurdle", "hybrid", "spend_rate"} <= found.backtest.pooled.keys()
    assert "a hybrid, is registered. The gate refused it: " in found.message
    verdict, version, standing, _, why, numbers = decisions(urls)[-1]
    assert (verdict, standing, champion()) == ("refused", before, before)
    assert "not surely above that of the trees on the features alone" in why  # chance has no order
    gini = numbers["metrics"]["normalized_gini"]
    assert gini["gain_over_simpler_low"] < 0

    pipelines.promote(shop, urls, version)
    try:
        building.build(urls, [DAY], shop.home)
        pipelines.score(shop, urls, DAY, lambda what: None)
        with psycopg.connect(urls.warehouse) as connection:
            rows = connection.execute(
                "select customer_id, expected_spend::float8 from scores.customer_scores "
                "where horizon_days = 30 and model_version = %s order by customer_id",
                [version],
            ).fetchall()
        events = reading.read_arrow(
            urls.warehouse,
            "select * from features.customer_events where known_on <= $1::date "
            'order by customer_id collate "C", position',
            [DAY.isoformat()],
        )
        frame = reading.read_days(urls, [DAY])
        served = mlflow.pyfunc.load_model(MODEL).predict({"customers": frame, "events": events})
        expected = served.set_axis(frame["customer_id"])["expected_spend"]
        assert [customer for customer, _ in rows] == sorted(expected.index)
        np.testing.assert_allclose(
            [spend for _, spend in rows], expected[[customer for customer, _ in rows]], atol=0.0051
        )

        # The trees may take over from it: it is judged beside them as the champion that it is.
        train(shop)
        verdict, _, standing, _, _, numbers = decisions(urls)[-1]
        assert standing == version
        assert numbers["metrics"]["normalized_gini"]["champion"] == gini["challenger"]
        assert "gain_over_simpler" not in numbers["metrics"]["normalized_gini"]
    finally:
        pipelines.promote(shop, urls, before)


@pytest.fixture(scope="module")
def embedded(shop, urls) -> str:
    """What the first embedding of the day says."""
    building.build(urls, [DAY], shop.home)
    return embed(shop, urls, DAY)


def embed(shop, urls, day: date, max_age_days: int | None = None) -> str:
    return pipelines.embed(
        shop,
        urls,
        day,
        max_age_days,
        build=lambda days, horizon: building.build(urls, days, shop.home, horizon_days=horizon),
        say=lambda what: None,
    )


def embeddings_of(urls, day: date) -> list[tuple]:
    with psycopg.connect(urls.warehouse) as connection:
        return connection.execute(
            "select * from scores.customer_embeddings where as_of_date = %s order by customer_id",
            [day],
        ).fetchall()


def test_embedding_a_day_again_writes_the_same_rows_with_the_same_version(embedded, shop, urls):
    found = embeddings_of(urls, DAY)
    customers = reading.read_days(urls, [DAY])["customer_id"]
    assert [row[1] for row in found] == sorted(customers)
    assert {(len(row[2]), row[3]) for row in found} == {(64, "1")}
    assert f"{len(found)} customers of {DAY}" in embedded
    assert embed(shop, urls, DAY, max_age_days=0) == embedded
    assert embeddings_of(urls, DAY) == found


def test_the_stored_sequence_model_answers_from_its_files_alone_and_is_no_pickle(embedded, urls):
    files = Path(mlflow.artifacts.download_artifacts(f"models:/{pipelines.SEQUENCE}/1"))
    data = {file.suffix for file in (files / "data").rglob("*") if file.is_file()}
    assert data == {".json", ".safetensors"}
    events = reading.read_arrow(
        urls.warehouse,
        "select * from features.customer_events where known_on <= $1::date "
        'order by customer_id collate "C", position',
        [DAY.isoformat()],
    )
    model = mlflow.pyfunc.load_model(f"models:/{pipelines.SEQUENCE}/1")
    frame = reading.read_days(urls, [DAY])
    answered = model.predict({"customers": frame, "events": events}).sort_values("customer_id")
    stored = np.array([row[2] for row in embeddings_of(urls, DAY)])
    np.testing.assert_allclose(np.stack(answered["embedding"]), stored, atol=1e-6)
    assert answered["purchase_probability"].between(0, 1).all()


def test_the_curves_of_a_training_and_what_it_cost_the_machine_are_kept(embedded):
    (run,) = mlflow.search_runs(experiment_names=[pipelines.SEQUENCE], output_format="list")
    client = mlflow.MlflowClient()
    for stage in ("pretraining", "fine_tuning"):
        names = ("loss", "learning_rate", "examples_per_second")
        curves = [client.get_metric_history(run.info.run_id, f"{stage}_{n}") for n in names]
        steps = [[point.step for point in curve] for curve in curves]
        assert steps[0] == steps[1] == steps[2] == list(range(1, 1 + len(steps[0])))
        loss, rate, speed = ([point.value for point in curve] for curve in curves)
        assert loss[-1] < loss[0] and min(speed) > 0
        assert rate[-1] < max(rate)
    assert client.get_metric_history(run.info.run_id, "fine_tuning_validation_loss")
    assert client.get_metric_history(run.info.run_id, "fine_tuning_loss_spend")


def test_why_a_customer_is_seen_so_is_said_for_the_version_that_embedded_them(embedded, shop, urls):
    customer = embeddings_of(urls, DAY)[0][1]
    found = pipelines.explain(shop, urls, customer, 4, None, lambda what: None)
    assert 1 <= len(found.occasions) <= 4
    assert found.occasions["text_en"].str.contains(" for .*(?:ago|yesterday)$", regex=True).all()
    assert found.together.shape == (1,)
    every = pipelines.explain(shop, urls, customer, 1_000, DAY, lambda what: None).occasions
    with psycopg.connect(urls.warehouse) as connection:
        known = connection.execute(
            "select count(*) from features.customer_events where customer_id = %s "
            "and known_on <= %s",
            [customer, DAY],
        ).fetchone()
    assert every["events"].sum() == min(known[0], 128)
    with pytest.raises(TierhouseError, match=r"'nobody' is neither a pseudonym"):
        pipelines.explain(shop, urls, "nobody", 4, None, lambda what: None)


def test_a_version_that_knows_later_days_or_another_horizon_embeds_no_earlier_one(embedded):
    newest = embedding._newest_sequence
    assert newest(DAY, 30, None) == newest(DAY + timedelta(days=9), 30, 9) == "1"
    assert newest(DAY - timedelta(days=1), 30, None) is None
    assert newest(DAY, 90, None) is None
    assert newest(DAY, 30, None, "base") is None
    assert newest(DAY + timedelta(days=9), 30, 8) is None


def test_a_day_that_is_not_built_is_not_embedded(embedded, shop, urls):
    with pytest.raises(TierhouseError, match=f"tierhouse build --as-of {DAY + timedelta(days=9)}"):
        embed(shop, urls, DAY + timedelta(days=9))


def test_look_alikes_are_the_same_with_pgvector_and_without(embedded, urls):
    found = embeddings_of(urls, DAY)
    vectors = np.array([row[2] for row in found], dtype=float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = [row[1] for row in found[::40]]

    def answers() -> list[pd.DataFrame]:
        return [pipelines.look_alikes(urls, one, 7, DAY) for one in asked]

    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        query = "select 1 from pg_extension where extname = 'vector'"
        if connection.execute(query).fetchone() is None:
            pytest.skip("this server has no pgvector")
        with_it = answers()
        connection.execute("drop extension vector")
        without = answers()
        connection.execute("create extension vector")
    for place, (quick, exact) in enumerate(zip(with_it, without, strict=True)):
        pd.testing.assert_frame_equal(quick, exact)
        distance = np.delete(1 - vectors @ vectors[40 * place], 40 * place)
        np.testing.assert_allclose(exact["distance"], np.sort(distance)[:7], atol=1e-7)
        assert asked[place] not in set(exact["customer_id"])


def test_look_alikes_take_the_newest_day_and_the_shops_own_identifier(embedded, urls):
    customer = embeddings_of(urls, DAY)[0][1]
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute(
            "insert into pii.customer_ids values (%s, '17850'), ('gone', '17851')", [customer]
        )
    found = pipelines.look_alikes(urls, "17850.0", 1000, None)
    pd.testing.assert_frame_equal(found, pipelines.look_alikes(urls, customer, 1000, DAY))
    assert len(found) == len(embeddings_of(urls, DAY)) - 1
    with pytest.raises(TierhouseError, match=r"'nobody' is neither a pseudonym.*tierhouse lookup"):
        pipelines.look_alikes(urls, "nobody", 5, None)
    with pytest.raises(TierhouseError, match=f"Customer 17851 has no embedding of {DAY}"):
        pipelines.look_alikes(urls, "17851", 5, None)
    with pytest.raises(TierhouseError, match=r"no embeddings of 2020-01-01.*--as-of 2020-01-01"):
        pipelines.look_alikes(urls, customer, 5, date(2020, 1, 1))


def test_a_days_report_is_one_run_whose_files_are_replaced(shop, urls, tmp_path):
    page = tmp_path / "2025-06-08.html"
    for text in ("first", "second"):
        page.write_text(text)
        pipelines.keep_report(shop, urls, date(2025, 6, 8), [page])
    found = mlflow.search_runs(experiment_names=[pipelines.REPORTS], output_format="list")
    (run,) = found
    assert run.data.tags["as_of_date"] == "2025-06-08"
    kept = mlflow.artifacts.download_artifacts(run_id=run.info.run_id, dst_path=str(tmp_path / "a"))
    assert [file.read_text() for file in Path(kept).iterdir()] == ["second"]


def publish_as(urls, day: date, tier: str, rank: int) -> str:
    """A published day on which all customers of DAY stood in this tier."""
    frame = reading.read_days(urls, [DAY])
    customers = pa.array(frame["customer_id"], pa.string())
    n = len(customers)
    scores = pa.table({
        "customer_id": customers,
        "horizon_days": pa.array(np.full(n, 30, np.int32)),
        "expected_spend": np.arange(n, dtype=float),
        "purchase_probability": np.full(n, 0.5),
        "reasons": pa.nulls(n, pa.string()),
    })  # fmt: skip
    held = pa.table({
        "customer_id": customers,
        "tier": pa.array([tier] * n),
        "tier_rank": pa.array(np.full(n, rank, np.int32)),
        "expected_spend": np.arange(n, dtype=float),
    })  # fmt: skip
    version = versions.Version(day, 30, "by hand", "1", "policy", "input")
    versions.write_version(urls, version, scores, held)
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute("delete from ops.published")
        connection.execute(
            "insert into ops.published (version_id) values (%s)", [version.version_id]
        )
    return version.version_id


def test_tiers_are_held_against_the_published_ones_of_an_earlier_day(trained, shop, urls):
    building.build(urls, [DAY], shop.home)
    before = publish_as(urls, DAY - timedelta(days=1), "bronze", 4)
    pipelines.score(shop, urls, DAY, lambda what: None)
    version = publishing.newest_version(urls, DAY).version_id
    with psycopg.connect(urls.warehouse) as connection:
        (previous, method), *_ = connection.execute(
            "select previous_version_id, policy ->> 'hysteresis' from ops.versions "
            "join ops.policies using (policy_version) where version_id = %s",
            [version],
        ).fetchall()
        rows = connection.execute(
            "select distinct tier, drawn_tier = 'bronze', decided_by, previous_tier, "
            "tier_since, past_border_since from scores.customer_tiers where version_id = %s",
            [version],
        ).fetchall()
    assert previous == before
    assert method is not None
    yesterday = DAY - timedelta(days=1)
    assert set(rows) == {
        ("bronze", True, "measure", "bronze", yesterday, None),
        ("bronze", False, "hysteresis", "bronze", yesterday, DAY),
    }


def test_a_policy_is_tried_on_the_published_day_and_nothing_is_written(shop, urls):
    building.build(urls, [DAY], shop.home)
    publish_as(urls, DAY, "gold", 2)
    with psycopg.connect(urls.warehouse) as connection:
        before = connection.execute("select * from scores.customer_tiers order by 1, 3").fetchall()
    tiers = [tier_policy.Tier(name="gold", share=0.25), tier_policy.Tier(name="rest", share=0.75)]
    trial = pipelines.try_policy(urls, tier_policy.make_policy(tiers))
    assert trial is not None
    customers = len(reading.read_days(urls, [DAY]))
    (gold, in_gold, came, published, _), (rest, in_rest, *_) = trial.tiers
    assert (gold, rest, in_gold + in_rest, published) == ("gold", "rest", customers, customers)
    assert (came, trial.moved) == (0, in_rest)
    by_orders = tier_policy.make_policy(tiers, measures=["frequency_orders", "expected_spend"])
    assert pipelines.try_policy(urls, by_orders) is not None
    who = "0" * 32
    overridden = {"customer": who, "tier": "gold", "until": DAY}
    for said, refusal in (
        ({"overrides": [overridden]}, f"overrides {who}, and no customer has this pseudonym"),
        ({"horizon_days": 33}, "a horizon of 33 days, and scores have 30"),
        ({"measures": ["high_value_probability"]}, "measures high_value_probability"),
    ):
        with pytest.raises(WrongUsage, match=refusal):
            pipelines.try_policy(urls, tier_policy.make_policy(tiers, **said))
    with psycopg.connect(urls.warehouse) as connection:
        after = connection.execute("select * from scores.customer_tiers order by 1, 3").fetchall()
    assert after == before
