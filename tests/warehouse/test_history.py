"""What a few days leave behind: changes, migrations, movements; also when a day is taken back."""

from collections.abc import Callable, Iterator
from datetime import date, timedelta

import psycopg
import pytest
import small_versions

from warehouse import publishing, versions
from warehouse.connections import Urls
from warehouse.settings import Refused

DAY = [date(2025, 6, 1) + timedelta(days=number) for number in range(6)]


@pytest.fixture
def query(urls: Urls) -> Iterator[Callable[[str], list[tuple]]]:
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        small_versions.empty(connection)
        yield lambda text: connection.execute(text.encode()).fetchall()


@pytest.fixture
def publish(urls: Urls, query) -> Callable[..., versions.Version]:
    def run(day: date, keep: int = 8, **tiers: str) -> versions.Version:
        spend = {"gold": 100.0, "silver": 10.0}
        version = small_versions.write_gated(
            urls, day, {c: (t, spend[t]) for c, t in tiers.items()}
        )
        said = publishing.publish(urls, day, keep, run_id="by hand")
        assert "is published" in said
        return version

    return run


@pytest.fixture
def three_days(publish) -> list[versions.Version]:
    """a falls and rises again, b stays, c comes on the second day."""
    return [
        publish(DAY[0], a="gold", b="silver"),
        publish(DAY[1], a="silver", b="silver", c="silver"),
        publish(DAY[2], a="gold", b="silver", c="silver"),
    ]


HISTORY = (
    "select customer_id, tier, valid_from, valid_to, movement "
    "from analytics.customer_tier_history order by 1, 3"
)
MIGRATIONS = (
    "select as_of_date, previous_tier, tier, customers, share_of_previous::float8 "
    "from analytics.tier_migrations order by 1, 2 nulls first, 3"
)
FIRST_TWO = [
    ("a", "gold", DAY[0], DAY[1], "new"),
    ("a", "silver", DAY[1], None, "down from gold"),
    ("b", "silver", DAY[0], None, "new"),
    ("c", "silver", DAY[1], None, "new"),
]


def test_the_history_is_one_row_per_stay_and_the_days_between_cost_nothing(query, three_days):
    assert query(HISTORY) == [
        ("a", "gold", DAY[0], DAY[1], "new"),
        ("a", "silver", DAY[1], DAY[2], "down from gold"),
        ("a", "gold", DAY[2], None, "up from silver"),
        ("b", "silver", DAY[0], None, "new"),
        ("c", "silver", DAY[1], None, "new"),
    ]
    assert query("select count(*) from scores.tier_changes") == [(5,)]


def test_every_customer_of_the_day_before_is_in_one_migration(query, three_days):
    assert query(MIGRATIONS) == [
        (DAY[0], None, "gold", 1, 0.5),
        (DAY[0], None, "silver", 1, 0.5),
        (DAY[1], None, "silver", 1, 1.0),
        (DAY[1], "gold", "silver", 1, 1.0),
        (DAY[1], "silver", "silver", 1, 1.0),
        (DAY[2], "silver", "gold", 1, 0.3333),
        (DAY[2], "silver", "silver", 2, 0.6667),
    ]
    assert query(
        "select tier, customers, customers_up, customers_down, customers_new, customers_change "
        "from analytics.tier_summary order by tier"
    ) == [("gold", 1, 1, 0, 0, None), ("silver", 2, 0, 0, 0, -1)]


def test_a_customer_page_says_how_long_and_whence(query, three_days):
    assert query(
        "select customer_id, movement, previous_tier, tier_since, days_in_tier "
        "from analytics.customer_360 order by 1"
    ) == [
        ("a", "up from silver", "silver", DAY[2], 0),
        ("b", "stayed", "silver", DAY[0], 2),
        ("c", "stayed", "silver", DAY[1], 1),
    ]


def test_a_day_taken_back_has_never_been(urls, query, three_days):
    assert str(DAY[1]) in publishing.rollback(urls)
    assert query(HISTORY) == FIRST_TWO
    assert max(day for day, *_ in query(MIGRATIONS)) == DAY[1]
    publishing.rollback(urls)
    assert query(HISTORY) == [
        ("a", "gold", DAY[0], None, "new"),
        ("b", "silver", DAY[0], None, "new"),
    ]
    with pytest.raises(Refused, match="no earlier version"):
        publishing.rollback(urls)


def test_a_day_taken_back_is_published_again_after_being_scored_again(
    urls, query, publish, three_days
):
    """And the day after it is drawn after what analysts read, not after what was taken back."""
    before = query(HISTORY)
    publishing.rollback(urls)
    with pytest.raises(Refused, match="Score the day again"):
        publishing.publish(urls, DAY[2], keep=8)
    again = publish(DAY[2], a="gold", b="silver", c="silver")
    assert again == three_days[2]
    assert query(HISTORY) == before
    publishing.rollback(urls)
    other = publish(DAY[3], a="silver", b="gold", c="silver")
    assert other.previous_version_id == three_days[1].version_id
    assert query(HISTORY) == [
        ("a", "gold", DAY[0], DAY[1], "new"),
        ("a", "silver", DAY[1], None, "down from gold"),
        ("b", "silver", DAY[0], DAY[3], "new"),
        ("b", "gold", DAY[3], None, "up from silver"),
        ("c", "silver", DAY[1], None, "new"),
    ]


def test_what_was_scored_before_a_rollback_is_stale(urls, three_days):
    small_versions.write_gated(urls, DAY[3], {"a": ("gold", 100.0)})
    publishing.rollback(urls)
    with pytest.raises(Refused, match="began before"):
        publishing.publish(urls, DAY[3], keep=8)


def test_an_older_run_never_overwrites_a_newer_one(urls, query, publish, three_days):
    """Two scorings of a day: the one that began first, and is written last, is refused."""
    slow = versions.begin(urls, DAY[3])
    newer = publish(DAY[3], a="gold", b="gold")
    tables = small_versions.tables(urls, DAY[3], {"a": ("silver", 1.0)}, slow.previous_version_id)
    version = versions.Version(
        DAY[3], 90, "customer_value", "2", "policy", "input", slow.previous_version_id
    )
    versions.write_version(urls, version, *tables, fencing_token=slow.fencing_token)
    small_versions.gate(urls, version)
    with pytest.raises(Refused, match="something newer"):
        publishing.publish(urls, DAY[3], keep=8)
    with pytest.raises(Refused, match="began later"):
        versions.write_version(urls, newer, *tables, fencing_token=slow.fencing_token)
    assert query("select distinct version_id from analytics.customer_tiers") == [
        (newer.version_id,)
    ]


def test_rows_that_changed_after_the_gate_are_not_published(urls, query, three_days):
    version = small_versions.write_gated(urls, DAY[3], {"a": ("gold", 100.0), "b": ("gold", 1.0)})
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute(
            "update scores.customer_tiers set tier = 'silver' "
            "where version_id = %s and customer_id = 'b'",
            [version.version_id],
        )
    with pytest.raises(Refused, match="not those that were scored"):
        publishing.publish(urls, DAY[3], keep=8)


def test_old_rows_go_and_the_history_stays(urls, query, publish, three_days):
    for number in (3, 4, 5):
        publish(DAY[number], keep=2, a="gold" if number % 2 else "silver", b="silver")
    assert query("select distinct as_of_date from scores.customer_tiers order by 1") == [
        (DAY[4],), (DAY[5],),
    ]  # fmt: skip
    assert len(query(HISTORY)) == 7
    assert query("select count(*) from ops.versions where pruned_at is null") == [(2,)]
    publishing.rollback(urls)
    with pytest.raises(Refused, match="dropped as too old"):
        publishing.rollback(urls)


def test_every_move_is_in_the_log(urls, query, three_days):
    publishing.rollback(urls, "taken back by hand")
    assert query(
        "select as_of_date, customers, action, run_id from analytics.publish_log "
        "order by published_at"
    ) == [
        (DAY[0], 2, "publish", "by hand"),
        (DAY[1], 3, "publish", "by hand"),
        (DAY[2], 3, "publish", "by hand"),
        (DAY[1], 3, "rollback", "taken back by hand"),
    ]
    assert query(
        "select distinct model_version, policy_version, input_hash, "
        "row_counts ->> 'customer_scores' = customers::text, length(checksum) "
        "from ops.publish_log"
    ) == [("1", "policy", "input", True, 16)]


def test_a_table_is_stale_when_its_deadline_has_passed(query, three_days, urls):
    assert query("select table_name, is_stale from analytics.freshness") == [
        ("customer_tiers", False)
    ]
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute("update ops.versions set scored_at = scored_at - interval '30 hours'")
    assert query(
        "select table_name, as_of_date, round(age_hours), is_stale from analytics.freshness"
    ) == [("customer_tiers", DAY[2], 30, True)]
