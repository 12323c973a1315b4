"""Analysts see whole versions that passed their gate, and nothing else."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, timedelta

import adbc_driver_manager
import psycopg
import pyarrow as pa
import pytest

from warehouse import publishing, versions
from warehouse.connections import Urls, connect, one_row, open_warehouse
from warehouse.settings import Refused, TierhouseError

DAY = date(2025, 6, 1)
OLDER, NEWER = DAY - timedelta(days=1), DAY + timedelta(days=1)
TIERS = ("gold", "silver", "silver")
WHY = (
    {"reason": "recent_spend", "effect": 1.25, "en": 'Spent 50 on "it"', "zh": "近 90 天消费 50"},
    {"reason": "last_order", "effect": 0.8, "en": "Last order 3 days ago", "zh": "3 天前下过单"},
)
OPS = ("ops.publish_log", "ops.published", "ops.gate_results")
SCORES = ("scores.customer_scores", "scores.customer_tiers", "ops.versions")


@pytest.fixture
def query(urls: Urls) -> Iterator[Callable[[str], list[tuple]]]:
    """Ask the warehouse, in which nothing is scored yet."""
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        for table in (*OPS, *SCORES):
            connection.execute(f"delete from {table}")

        def ask(text: str) -> list[tuple]:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

        yield ask


@pytest.fixture
def score(urls: Urls, query) -> Callable[..., versions.Version]:
    """Write a version of a day as `tierhouse score` does: three customers by default."""

    def write(day: date = DAY, model: str = "1", spend: tuple[float, ...] = (30.0, 20.5, 0.0)):
        version = versions.Version(day, 90, "customer_value", model, "policy", "input")
        versions.write_version(urls, version, *tables(spend))
        return version

    return write


@pytest.fixture
def gate(urls: Urls) -> Callable[[versions.Version], None]:
    """Note that a version passed."""

    def pass_gate(version):
        with connect(urls.warehouse) as connection:
            (scored_at,) = one_row(
                connection,
                "select scored_at from ops.versions where version_id = %s",
                version.version_id,
            )
        publishing.record_gate(
            urls, [], publishing.Scored(version.version_id, scored_at), passed=True
        )

    return pass_gate


def tables(spend: tuple[float, ...], tiers: tuple[str | None, ...] = TIERS):
    """The first customer has two reasons, the second one, the third none."""
    customers = [f"c{number}" for number in range(len(spend))]
    why = [json.dumps(WHY[:2]), json.dumps(WHY[:1]), "[]"]
    scores = pa.table({
        "customer_id": customers,
        "horizon_days": pa.array([90] * len(spend), pa.int32()),
        "expected_spend": spend,
        "purchase_probability": [0.5] * len(spend),
        "reasons": pa.array(why[: len(spend)], pa.string()),
    })  # fmt: skip
    drawn = pa.table({
        "customer_id": customers,
        "tier": pa.array(tiers[: len(spend)], pa.string()),
        "tier_rank": pa.array([1, 2, 2][: len(spend)], pa.int32()),
        "expected_spend": spend,
    })  # fmt: skip
    return scores, drawn


def published(query) -> list[tuple]:
    return query(
        "select customer_id, tier, expected_spend::float8, as_of_date, model_version "
        "from analytics.customer_tiers order by 1"
    )


def as_written(day: date, model: str, spend: tuple[float, ...] = (30.0, 20.5, 0.0)) -> list[tuple]:
    return [(f"c{n}", TIERS[n], spend[n], day, model) for n in range(len(spend))]


@pytest.mark.parametrize(
    "change",
    [
        {"as_of_date": NEWER},
        {"horizon_days": 30},
        {"model_name": "other"},
        {"model_version": "2"},
        {"policy_version": "other"},
        {"input_hash": "other"},
    ],
)
def test_a_version_is_named_after_everything_that_went_into_it(change):
    version = versions.Version(DAY, 90, "customer_value", "1", "policy", "input")
    assert replace(version).version_id == version.version_id
    assert replace(version, **change).version_id != version.version_id


def test_the_input_hash_follows_every_cell_and_not_the_order_of_the_rows(urls, query):
    query("drop table if exists features.customer_features")
    with pytest.raises(TierhouseError, match=f"tierhouse build --as-of {DAY}"):
        versions.input_hash(urls, DAY)
    query(
        "create table features.customer_features (customer_id text, as_of_date date, "
        "orders integer, spend numeric(14, 2))"
    )

    def hash_of(*rows: tuple, day: date = DAY) -> str:
        query("truncate features.customer_features")
        with psycopg.connect(urls.warehouse) as connection, connection.cursor() as cursor:
            cursor.executemany("insert into features.customer_features values (%s,%s,%s,%s)", rows)
        return versions.input_hash(urls, day)

    a, b = ("a", DAY, 1, 5), ("b", DAY, 2, None)
    first = hash_of(a, b)
    assert hash_of(b, a) == hash_of(a, b, ("c", NEWER, 1, 1)) == first
    others = [
        hash_of(a),
        hash_of(a, b, b),
        hash_of(("a", DAY, 2, 5), ("b", DAY, 1, None)),
        hash_of(a, ("b", DAY, 2, 0)),
        hash_of(a, ("c", DAY, 2, None)),
        hash_of(("a", DAY, 1, "5.01"), b),
    ]
    assert len({first, *others}) == 1 + len(others)
    with pytest.raises(TierhouseError, match=f"tierhouse build --as-of {OLDER}"):
        versions.input_hash(urls, OLDER)


def test_a_day_that_was_not_scored_cannot_be_published(urls, query):
    with pytest.raises(TierhouseError, match=f"tierhouse score --as-of {DAY}"):
        publishing.publish(urls, DAY, keep=8)


def test_after_its_gate_a_version_is_what_analysts_read_every_customer_once(
    urls, query, score, gate
):
    version = score()
    assert published(query) == []
    gate(version)
    assert published(query) == []
    said = publishing.publish(urls, DAY, keep=8)
    assert version.version_id in said
    assert "3 customers" in said
    assert published(query) == as_written(DAY, "1")
    assert query(
        "select tier, customers, expected_share::float8 from analytics.tier_summary order by tier"
    ) == [("gold", 1, 0.5941), ("silver", 2, 0.4059)]


def test_without_a_gate_analysts_go_on_reading_the_version_before(urls, query, score, gate):
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    score(NEWER, "2", (1.0, 2.0, 3.0))
    before = query("select * from ops.published")
    with pytest.raises(Refused, match=f"tierhouse check tiers --as-of {NEWER}"):
        publishing.publish(urls, NEWER, keep=8)
    assert query("select * from ops.published") == before
    assert published(query) == as_written(DAY, "1")


def test_a_failed_gate_is_kept_and_lets_nothing_through(urls, query, score):
    version = score().version_id
    found = {
        "stage": "tiers", "as_of_date": DAY, "version_id": version, "table_name": "customer_tiers",
        "expectation": "covers everybody", "column_name": None, "severity": "critical",
        "success": False, "observed": None,
    }  # fmt: skip
    publishing.record_gate(urls, [found], None, passed=False)
    assert query("select version_id, success from ops.gate_results") == [(version, False)]
    with pytest.raises(Refused):
        publishing.publish(urls, DAY, keep=8)


def test_publishing_twice_changes_nothing(urls, query, score, gate):
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    before = [query(f"select * from {table}") for table in OPS]
    assert "already published" in publishing.publish(urls, DAY, keep=8)
    assert [query(f"select * from {table}") for table in OPS] == before
    assert published(query) == as_written(DAY, "1")


def test_an_older_day_published_later_does_not_take_the_pointer(urls, query, score, gate):
    for day in (DAY, OLDER):
        gate(score(day))
        said = publishing.publish(urls, day, keep=8)
    assert f"go on reading {DAY}" in said
    assert published(query) == as_written(DAY, "1")
    gate(score(NEWER))
    publishing.publish(urls, NEWER, keep=8)
    assert published(query) == as_written(NEWER, "1")
    assert query("select previous_version_id is null, customers from ops.publish_log "
                 "order by published_at") == [(True, 3), (False, 3)]  # fmt: skip


def test_another_version_of_the_published_day_takes_over_after_its_own_gate(
    urls, query, score, gate
):
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    version = score(model="2", spend=(1.0, 2.0))
    with pytest.raises(Refused):
        publishing.publish(urls, DAY, keep=8)
    assert published(query) == as_written(DAY, "1")
    gate(version)
    publishing.publish(urls, DAY, keep=8)
    assert published(query) == as_written(DAY, "2", (1.0, 2.0))


def test_scoring_a_published_version_again_is_invisible(urls, query, score, gate):
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    everything = [query(f"select * from {table} order by 3") for table in SCORES[:2]]
    log = query("select * from ops.publish_log")
    score()
    assert [query(f"select * from {table} order by 3") for table in SCORES[:2]] == everything
    assert published(query) == as_written(DAY, "1")
    assert query("select * from ops.publish_log") == log


def test_a_version_scored_again_after_its_gate_has_to_pass_it_again(urls, query, score, gate):
    version = score()
    gate(version)
    score()
    with pytest.raises(Refused):
        publishing.publish(urls, DAY, keep=8)
    gate(version)
    publishing.publish(urls, DAY, keep=8)
    assert published(query) == as_written(DAY, "1")


def test_a_gate_that_looked_before_the_rows_were_written_again_does_not_count(
    urls, query, score, gate
):
    """A scoring that began before the gate and ended after it."""
    version = score()
    looked_at = publishing.newest_version(urls, DAY)
    with psycopg.connect(urls.warehouse) as publishing_elsewhere, ThreadPoolExecutor() as pool:
        publishing_elsewhere.execute("select from ops.versions for share")
        scoring = pool.submit(score)
        waiting = (
            "select 1 from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database()"
        )
        while not query(waiting):
            assert not scoring.done()
        publishing_elsewhere.rollback()
        scoring.result(timeout=30)
    publishing.record_gate(urls, [], looked_at, passed=True)
    assert publishing.newest_version(urls, DAY).version_id == version.version_id
    with pytest.raises(Refused):
        publishing.publish(urls, DAY, keep=8)


def test_a_write_that_breaks_half_way_leaves_what_was_there(urls, query, score, gate):
    """Scores go in before tiers, and a tier is missing."""
    bad = tables((7.0, 8.0), ("gold", None))
    version = versions.Version(DAY, 90, "customer_value", "1", "policy", "input")
    with pytest.raises(adbc_driver_manager.Error, match="null value"):
        versions.write_version(urls, version, *bad)
    assert [query(f"select * from {table}") for table in SCORES] == [[], [], []]

    score()
    before = [query(f"select * from {table} order by 1, 3") for table in SCORES]
    with pytest.raises(adbc_driver_manager.Error, match="null value"):
        versions.write_version(urls, version, *bad)
    assert [query(f"select * from {table} order by 1, 3") for table in SCORES] == before


def test_a_version_has_the_rows_it_was_last_written_with(urls, query, score, gate):
    """Fewer customers than before leave none of the earlier ones, nor a wrong count."""
    score()
    gate(score(spend=(4.0, 5.0)))
    assert "2 customers" in publishing.publish(urls, DAY, keep=8)
    assert published(query) == as_written(DAY, "1", (4.0, 5.0))


def test_what_analysts_read_is_never_written_again(urls, query, score, gate):
    """Same inputs, other rows: a library that changed, say. Nobody has gated these."""
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    score(spend=(999.0, 998.0, 997.0))
    assert published(query) == as_written(DAY, "1")


def test_a_gate_that_refuses_takes_back_what_it_had_passed(urls, score, gate):
    gate(score())
    publishing.record_gate(urls, [], publishing.newest_version(urls, DAY), passed=False)
    with pytest.raises(Refused):
        publishing.publish(urls, DAY, keep=8)


def test_the_reasons_of_a_published_day_are_read_as_text_and_as_rows(query, urls, score, gate):
    gate(score())
    publishing.publish(urls, DAY, keep=8)
    score(NEWER)
    assert query(
        "select customer_id, reasons_en, reasons_zh from analytics.customer_tiers order by 1"
    ) == [
        (
            "c0",
            '↑ Spent 50 on "it" · ↓ Last order 3 days ago',
            "↑ 近 90 天消费 50 · ↓ 3 天前下过单",
        ),
        ("c1", '↑ Spent 50 on "it"', "↑ 近 90 天消费 50"),
        ("c2", None, None),
    ]
    assert query("select * from analytics.customer_reasons order by 1, 2") == [
        (customer, rank, *WHY[rank - 1].values(), DAY, 90)
        for customer, rank in (("c0", 1), ("c0", 2), ("c1", 1))
    ]


def test_scores_of_an_older_tierhouse_stay_and_have_what_it_knew(
    settings, urls, query, score, gate
):
    """From before partitions, reasons and intervals: two plain tables, and a view of 11 columns."""
    version = score()
    gate(version)
    publishing.publish(urls, DAY, keep=8)
    query(
        "create table public.customer_scores as select version_id, as_of_date, customer_id, "
        "horizon_days, expected_spend, purchase_probability, model_name, model_version "
        "from scores.customer_scores"
    )
    query(
        "create table public.customer_tiers as select version_id, as_of_date, customer_id, tier, "
        "tier_rank, expected_spend, policy_version from scores.customer_tiers"
    )
    query(
        "create table public.before as select customer_id, tier, tier_rank, expected_spend, "
        "purchase_probability, horizon_days, as_of_date, model_name, model_version, "
        "policy_version, published_at from analytics.customer_tiers"
    )
    query("drop schema analytics cascade")
    query("create schema analytics")
    query("drop view ops.published_chain")
    for table in ("customer_scores", "customer_tiers"):
        query(f"drop table scores.{table}")
        query(f"alter table public.{table} set schema scores")
    query("alter table scores.customer_scores add primary key (version_id, customer_id)")
    query("alter table scores.customer_tiers add primary key (version_id, customer_id)")
    query(
        "alter table ops.versions drop column feature_version, drop column previous_version_id, "
        "drop column fencing_token, drop column run_id, drop column row_counts, "
        "drop column checksum, drop column pruned_at"
    )
    query("alter table ops.published drop column fencing_token")
    query("create view analytics.customer_tiers as select * from public.before")
    query("comment on schema ops is 'Tierhouse of old'")
    open_warehouse(settings)
    assert published(query) == as_written(DAY, "1")
    assert query(
        "select distinct purchase_probability, horizon_days, reasons_en, expected_spend_low, "
        "movement from analytics.customer_tiers"
    ) == [(0.5, 90, None, None, "new")]
    assert query("select * from analytics.customer_reasons") == []
    query("drop table public.before")
    gate(score(NEWER))
    publishing.publish(urls, NEWER, keep=8)
    assert published(query) == as_written(NEWER, "1")
    publishing.rollback(urls)
    assert published(query) == as_written(DAY, "1")


def test_every_view_and_every_column_that_people_read_says_what_it_means(query):
    assert (
        query(
            "select attrelid::regclass::text, attname from pg_attribute "
            "inner join pg_class on pg_class.oid = attrelid "
            "where relnamespace = 'analytics'::regnamespace and attnum > 0 "
            "and col_description(attrelid, attnum) is null"
        )
        == []
    )
    assert (
        query(
            "select relname from pg_class where relnamespace = 'analytics'::regnamespace "
            "and relkind = 'v' and obj_description(oid) is null"
        )
        == []
    )
