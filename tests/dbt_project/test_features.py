"""Features, labels and events of a shop with all its tables, held against an oracle without SQL."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal

import oracle
import psycopg
import pytest
import simulated
import yaml
from psycopg.rows import dict_row

from warehouse import building, contract

# Months of history; more than a year but not yet a year and a quarter; more than two years.
EARLY, BETWEEN = date(2024, 2, 29), date(2024, 8, 15)
DAY = date(2025, 6, 1)
NEXT_DAY = DAY + timedelta(days=1)
NEWEST = simulated.CLOSED
# The window of 30 days of the first is just closed; of the second, one day short.
JUST_CLOSED, NOT_CLOSED = NEWEST - timedelta(days=30), NEWEST - timedelta(days=29)
LAST = NEWEST + timedelta(days=1)
DAYS = (EARLY, BETWEEN, DAY, NEXT_DAY, JUST_CLOSED, NOT_CLOSED, LAST)
DATED = (
    "feat_customer_rfm",
    "feat_customer_behaviour",
    "feat_customer_engagement",
    "feat_customer_profile",
    "customer_labels",
)

STREAM = "select * from features.customer_events order by customer_id, position"
NETTED = (
    "select customer_id, order_date, sum(net_spend) as amount "
    "from intermediate.int_customer_days group by 1, 2"
)

Rows = list[dict]


@pytest.fixture(scope="module")
def shop() -> simulated.Shop:
    tables = simulated.shop()
    # What makes the shop worth testing is really there.
    lines = tables["order_lines"]
    assert any(line["quantity"] < 0 for line in lines)
    assert any(line["product_id"] is None for line in lines)
    assert any(line["unit_price"] == 0 for line in lines)
    assert any(line["ordered_at"].time() == time(0) for line in lines)
    assert any(line["quantity"] % 1 for line in lines)
    assert max(line["ordered_at"] for line in lines).date() == NEWEST
    assert any(event["session_id"] is None for event in tables["events"])
    assert {review["rating"] for review in tables["reviews"]} > {None, Decimal(2)}
    for table in contract.DATED:
        delays = [
            (row["known_at"] - row[contract.TABLES[table].times[0]]).days
            for row in tables[table]
            if row["known_at"]
        ]
        assert min(delays) < 0 < 30 < max(delays)
    return tables


@pytest.fixture(scope="module")
def build(urls, settings) -> Callable[..., None]:
    return lambda *days: building.build(urls, days, settings.home)


@pytest.fixture(scope="module")
def read(urls) -> Callable[[str], Rows]:
    def rows(query: str) -> Rows:
        with psycopg.connect(urls.warehouse, row_factory=dict_row) as connection:
            return connection.execute(query).fetchall()

    return rows


@pytest.fixture(scope="module")
def features(read) -> Callable[[date], Rows]:
    return lambda day: read(
        f"select * from features.customer_features where as_of_date = '{day}' order by customer_id"
    )


@dataclass(frozen=True)
class Built:
    """What one pass over all the days leaves, and what it should leave."""

    features: dict[date, Rows]
    labels: Rows
    events: Rows
    netted: Rows
    truth: oracle.Shop


@pytest.fixture(scope="module")
def built(urls, shop, build, features, read) -> Built:
    simulated.land_shop(urls.warehouse, shop)
    build(*DAYS)
    return Built(
        {day: features(day) for day in DAYS},
        read("select * from features.customer_labels order by 1, 2, 3"),
        read(STREAM),
        read(NETTED),
        oracle.Shop(simulated.read_shop(urls.warehouse)),
    )


@pytest.fixture
def landed(urls, shop, built):
    """Land another shop for a while."""

    @contextmanager
    def instead(other: simulated.Shop):
        simulated.land_shop(urls.warehouse, other)
        try:
            yield oracle.Shop(simulated.read_shop(urls.warehouse))
        finally:
            simulated.land_shop(urls.warehouse, shop)

    return instead


def test_the_unit_tests_of_the_models_pass(built, settings):
    """After a build, which leaves the tables they describe and the environment dbt reads."""
    from dbt.cli.main import dbtRunner

    models = (building.DBT_PROJECT / "models").rglob("*.yml")
    written = [yaml.safe_load(path.read_text()).get("unit_tests", []) for path in models]
    outcome = dbtRunner().invoke(
        ["test",
         "--select", "test_type:unit",
         "--project-dir", str(building.DBT_PROJECT),
         "--profiles-dir", str(building.DBT_PROJECT),
         "--target-path", str(settings.home / "dbt" / "target"),
         "--log-path", str(settings.home / "dbt" / "logs"),
         "--log-level", "none",
         "--vars", f"{{as_of_dates: ['{DAY}']}}"]
    )  # fmt: skip
    assert outcome.exception is None
    results = outcome.result.results
    assert [f"{r.node.name}: {r.message}" for r in results if r.status != "pass"] == []
    assert len(results) == sum(map(len, written)) > 0


@pytest.mark.parametrize("day", DAYS)
def test_every_feature_is_what_the_rows_of_the_shop_say(built, day):
    expected = built.truth.features(day)
    assert_same(without(built.features[day], "as_of_date"), expected, ("customer_id",))


@pytest.mark.parametrize("day", DAYS)
def test_labels_are_what_came_after(built, day):
    """Of everybody with an order before the day, those who then did nothing too."""
    expected = built.truth.labels(day)
    found = [row for row in built.labels if row["as_of_date"] == day]
    assert_same(without(found, "as_of_date"), expected, ("customer_id", "horizon_days"))


def test_labels_exist_only_where_the_window_is_closed(built):
    found = {(row["as_of_date"], row["horizon_days"]) for row in built.labels}
    closed = {(d, h) for d in DAYS for h in oracle.HORIZONS if d + timedelta(days=h) <= NEWEST}
    assert found == closed
    assert (JUST_CLOSED, 30) in closed
    assert (NOT_CLOSED, 30) not in closed


def test_the_stream_holds_every_event_in_the_order_it_became_known(built):
    assert_same(built.events, built.truth.stream(), ("customer_id", "position"))
    assert {row["kind"] for row in built.events} == set(range(1, 17))


def test_a_day_has_the_same_rows_built_twice_alone_or_with_others(built, build, features, read):
    """They are built already, with all the others; here alone, then with some others."""
    for days in ((DAY,), (NOT_CLOSED, DAY, EARLY, DAY)):
        build(*days)
        assert features(DAY) == built.features[DAY]
    labels = [row for row in built.labels if row["as_of_date"] in (DAY, EARLY)]
    query = f"select * from features.customer_labels where as_of_date in ('{DAY}', '{EARLY}')"
    assert read(f"{query} order by 1, 2, 3") == labels != []
    assert read(STREAM) == built.events


def test_a_day_that_yields_nothing_any_more_is_emptied(shop, landed, build, features, read):
    later = [line for line in shop["order_lines"] if line["ordered_at"].date() >= EARLY]
    with landed({**shop, "order_lines": later}):
        build(EARLY)
    assert features(EARLY) == []
    for table in DATED:
        query = f"select as_of_date, count(*) from features.{table} group by 1"
        counts = {row["as_of_date"]: row["count"] for row in read(query)}
        assert EARLY not in counts
        assert counts[DAY] > 0  # no other day is touched


@pytest.mark.parametrize(
    "tables",
    [
        ("order_lines",),
        ("order_lines", "customers", "reviews"),
        ("order_lines", "products", "events", "campaigns", "campaign_contacts"),
    ],
    ids=["orders only", "customers and reviews", "visits and campaigns"],
)
def test_what_a_shop_lacks_is_null_and_said(shop, landed, build, features, read, tables):
    with landed({table: shop[table] for table in tables}) as truth:
        build(DAY)
        found = features(DAY)
        assert_same(without(found, "as_of_date"), truth.features(DAY), ("customer_id",))
        events = read(STREAM)
        assert_same(events, truth.stream(), ("customer_id", "position"))
    said = {row["has_events"]: row["sessions_365d"] is None for row in found}
    assert said == {"events" in tables: "events" not in tables}
    assert {row["has_reviews"] for row in found} == {"reviews" in tables}
    assert {row["has_campaigns"] for row in found} == {"campaign_contacts" in tables}
    assert any(row["has_profile"] for row in found) == ("customers" in tables)
    assert all(row["top_category"] is None for row in found) == ("products" not in tables)


def test_netting_keeps_every_penny_of_every_customers_day(shop, built):
    """A day of which nothing is left may be gone, if nothing is what it came to."""
    came_to: dict[tuple, Decimal] = {}
    for line in shop["order_lines"]:
        day = (line["customer_id"], line["ordered_at"].date())
        amount = line["quantity"] * line["unit_price"] - (line["discount_amount"] or 0)
        came_to[day] = came_to.get(day, Decimal(0)) + amount
    netted = {(row["customer_id"], row["order_date"]): row["amount"] for row in built.netted}
    assert {key: netted.get(key, 0) for key in came_to.keys() | netted.keys()} == came_to
    assert len(netted) < len(came_to)


def without(rows: Rows, column: str) -> Rows:
    return [{name: row[name] for name in row if name != column} for row in rows]


def assert_same(found: Rows, expected: dict, key: tuple[str, ...]) -> None:
    said = oracle.differences(found, expected, key)
    assert not said, "\n".join(["", *said])
    assert expected or not found
