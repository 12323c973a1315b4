"""Scored days on a real warehouse and a real MLflow: segments are written with the version and
kept by the next, and a policy's overrides and caps come as far as analysts."""

from datetime import date, timedelta

import mlflow
import numpy as np
import pandas as pd
import psycopg
import pytest
import simulated

from expectations import run
from ml import pipelines, segments
from ml.pipelines import segmenting
from warehouse import building, publishing
from warehouse.settings import Settings

LATER = simulated.CLOSED + timedelta(days=1)
DAY = LATER - timedelta(days=7)
SAVED, ENDED = "5a" * 16, "ed" * 16  # the two who bought for least, under pseudonyms for overrides
TABLES = ("customer_segments", "segment_profiles", "segment_evidence")


@pytest.fixture(scope="module")
def shop(settings, urls) -> Settings:
    """Two days of a shop that has no model; the first one is scored and published."""
    lines = simulated.order_lines()
    since = pd.Timestamp(simulated.CLOSED) - pd.Timedelta(days=270)
    lines = simulated.with_amounts(lines[lines["ordered_at"] >= since])
    bought = lines[lines["is_kept"]].groupby("customer_id")["amount"].sum().astype(float)
    least = bought.nsmallest(2).index
    names = dict(zip(least, (SAVED, ENDED), strict=True))
    lines["customer_id"] = lines["customer_id"].replace(names)
    simulated.land(urls.warehouse, lines)
    building.build(urls, [DAY, LATER], settings.home)
    score(settings, urls, DAY)
    scored = publishing.newest_version(urls, DAY)
    publishing.record_gate(urls, [], scored, passed=True)
    publishing.publish(urls, DAY, keep=8)
    yield settings
    mlflow.set_tracking_uri(None)


def score(settings: Settings, urls, day: date) -> None:
    pipelines.score(settings, urls, day, lambda what: None)


def rows(urls, table: str, day: date) -> pd.DataFrame:
    with psycopg.connect(urls.warehouse) as connection:
        found = connection.execute(
            f"select {table}.* from scores.{table} join ops.versions using (version_id) "
            f"where versions.as_of_date = %s order by 1, 2, 3",
            [day],
        )
        return pd.DataFrame(found.fetchall(), columns=[one.name for one in found.description])


def test_everybody_of_the_day_has_the_group_of_the_features_and_one_segment(shop, urls):
    found = rows(urls, "customer_segments", DAY).set_index("customer_id")
    with psycopg.connect(urls.warehouse) as connection:
        features = dict(
            connection.execute(
                "select customer_id, rfm_segment from features.customer_features "
                "where as_of_date = %s",
                [DAY],
            ).fetchall()
        )
    assert found["rfm_segment"].to_dict() == features
    assert set(found["as_of_date"]) == {DAY}
    profiles = rows(urls, "segment_profiles", DAY).set_index("segment")
    assert len(profiles) >= segments.Config().fewest
    assert profiles["customers"].to_dict() == found["segment"].value_counts().to_dict()


def test_the_evidence_names_what_was_tried_and_chosen_and_mlflow_has_it(shop, urls):
    evidence = rows(urls, "segment_evidence", DAY)
    (chosen,) = evidence[evidence["chosen"]].itertuples()
    assert len(evidence) == 12
    assert evidence[["silhouette", "gap", "stability"]].notna().all(axis=None)
    assert evidence["agreement"].isna().all()
    runs = mlflow.search_runs(experiment_names=[segmenting.SEGMENTS], output_format="list")
    run = next(run for run in runs if run.data.tags["as_of_date"] == DAY.isoformat())
    assert run.data.params == {"method": chosen.method, "segments": str(chosen.segments)}
    assert run.data.metrics["silhouette"] == pytest.approx(chosen.silhouette)
    files = mlflow.MlflowClient().list_artifacts(run.info.run_id, "figures")
    assert [file.path for file in files if file.file_size] == ["figures/segments.png"]


def test_analysts_read_the_segments_of_the_published_day_and_their_shares(shop, urls):
    with psycopg.connect(urls.warehouse) as connection:
        summary = connection.execute(
            "select segment, customers, share, expected_spend, expected_share, as_of_date "
            "from analytics.segment_summary"
        ).fetchall()
        expected = connection.execute(
            "select customer_segments.segment, sum(expected_spend) "
            "from scores.customer_segments "
            "join analytics.customer_tiers using (customer_id) "
            "where customer_segments.as_of_date = %s group by 1",
            [DAY],
        ).fetchall()
        undescribed = connection.execute(
            "select attname from pg_attribute "
            "where attrelid = 'analytics.segment_summary'::regclass and attnum > 0 "
            "and col_description(attrelid, attnum) is null"
        ).fetchall()
    assert {row[0]: row[3] for row in summary} == dict(expected)
    assert float(sum(row[2] for row in summary)) == pytest.approx(1, abs=0.001)
    assert float(sum(row[4] for row in summary)) == pytest.approx(1, abs=0.001)
    assert {row[5] for row in summary} == {DAY}
    assert undescribed == []


def test_what_is_read_back_of_a_version_puts_everybody_where_they_were(shop, urls):
    version = publishing.newest_version(urls, DAY).version_id
    definition = segmenting._read_definition(urls, version)
    with psycopg.connect(urls.warehouse) as connection:
        found = connection.execute(
            f"select customer_id, {', '.join(definition.traits)} from features.customer_features "
            f"where as_of_date = %s",
            [DAY],
        ).fetchall()
    frame = pd.DataFrame(found, columns=["customer_id", *definition.traits])
    again = segments.segment(frame, definition)
    names = np.array(definition.names)[again.place]
    written = rows(urls, "customer_segments", DAY).set_index("customer_id")["segment"]
    assert not again.is_new
    assert (written.loc[frame["customer_id"]].to_numpy() == names).all()


def test_the_next_day_keeps_the_segments_of_the_published_one(shop, urls):
    score(shop, urls, LATER)
    before, now = (rows(urls, "segment_profiles", day) for day in (DAY, LATER))
    assert set(now["segment"]) == set(before["segment"])
    by_name = before.set_index("segment")
    for profile in now.itertuples():
        assert profile.centre == by_name.loc[profile.segment, "centre"]
        assert profile.scale == by_name.loc[profile.segment, "scale"]
    (chosen,) = rows(urls, "segment_evidence", LATER).itertuples()
    assert (chosen.method, chosen.chosen) == (segments.KEPT, True)
    both = [rows(urls, "customer_segments", day) for day in (DAY, LATER)]
    joined = both[0].merge(both[1], on="customer_id")
    expected = segments.agreement(joined["segment_x"].to_numpy(), joined["segment_y"].to_numpy())
    assert 0.5 < expected < 1
    assert chosen.agreement == pytest.approx(expected)


def test_scoring_again_writes_the_same_segments(shop, urls):
    score(shop, urls, LATER)
    first = [rows(urls, table, LATER) for table in TABLES]
    score(shop, urls, LATER)
    for table, was in zip(TABLES, first, strict=True):
        pd.testing.assert_frame_equal(rows(urls, table, LATER), was)


def test_overrides_and_caps_are_in_the_tiers_that_analysts_read(shop, urls, tmp_path):
    """One override holds to the day, the other one ended the day before."""
    file = tmp_path / "tiers.yml"
    file.write_text(
        "tiers:\n"
        "  - {name: gold, share: 0.2, most_customers: 9}\n"
        "  - {name: rest, share: 0.8}\n"
        "overrides:\n"
        f"  - {{customer: {SAVED}, tier: gold, until: {LATER}}}\n"
        f"  - {{customer: {ENDED}, tier: gold, until: {LATER - timedelta(days=1)}}}\n"
    )
    score(shop.model_copy(update={"tier_policy": file}), urls, LATER)
    scored = publishing.newest_version(urls, LATER)
    gate = run.validate(urls.warehouse, "tiers", LATER.isoformat(), scored.version_id)
    assert not gate.refused, gate.summary()
    publishing.record_gate(urls, [], scored, passed=True)
    publishing.publish(urls, LATER, keep=8)
    with psycopg.connect(urls.warehouse) as connection:
        found = connection.execute(
            "select customer_id, drawn_tier, tier, decided_by from analytics.customer_tiers "
            "where as_of_date = %s order by expected_spend desc, customer_id",
            [LATER],
        ).fetchall()
    by_customer = {customer: said for customer, *said in found}
    assert by_customer[SAVED] == ["rest", "gold", "override"]
    assert by_customer[ENDED] == ["rest", "rest", "measure"]
    others = [said for customer, said in by_customer.items() if customer != SAVED]
    drawn = round(0.2 * len(found))
    assert others == [
        *[["gold", "gold", "measure"]] * 8,
        *[["gold", "rest", "cap"]] * (drawn - 8),
        *[["rest", "rest", "measure"]] * (len(others) - drawn),
    ]
