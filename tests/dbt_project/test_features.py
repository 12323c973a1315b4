"""The features of a day, on a simulated shop whose truth is known without any SQL of ours."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd
import psycopg
import pytest
import simulated
import yaml
from psycopg.rows import dict_row

from warehouse import building

DAY = date(2025, 6, 1)
NEXT_DAY = DAY + timedelta(days=1)
EARLY = date(2024, 5, 17)  # less than a year of history
HORIZONS = (30, 90, 180)
NEWEST = simulated.CLOSED
# The window of 30 days of the first is just closed; of the second, one day short.
JUST_CLOSED, NOT_CLOSED = NEWEST - timedelta(days=30), NEWEST - timedelta(days=29)
DAYS = (EARLY, DAY, NEXT_DAY, JUST_CLOSED, NOT_CLOSED)
CENT = Decimal("0.01")

Rows = list[dict]


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    frame = simulated.with_amounts(simulated.order_lines())
    # What makes the shop worth testing is really there.
    assert (frame["amount"] < 0).any()
    assert frame["order_id"].str.startswith("C").any()
    assert (frame.groupby("customer_id")["day"].nunique() == 1).any()
    assert (frame["ordered_at"].dt.time == time(0)).any()
    assert frame["day"].max() == NEWEST
    return frame


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
    """What one pass over all the days leaves."""

    features: dict[date, Rows]
    labels: Rows
    netted: Rows


@pytest.fixture(scope="module")
def built(urls, lines, build, features, read) -> Built:
    simulated.land(urls.warehouse, lines)
    build(*DAYS)
    return Built(
        {day: features(day) for day in DAYS},
        read("select * from features.customer_labels order by 1, 2, 3"),
        read(
            "select customer_id, order_date, sum(order_total) as amount "
            "from intermediate.int_orders_netted group by 1, 2"
        ),
    )


@pytest.fixture
def landed(urls, lines, built):
    """Land other lines for a while."""

    @contextmanager
    def instead(other: pd.DataFrame):
        simulated.land(urls.warehouse, other)
        try:
            yield
        finally:
            simulated.land(urls.warehouse, lines)

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


def test_nothing_on_or_after_a_day_changes_a_cell_of_it(lines, landed, build, features, built):
    """Rows of the day and later are appended, corrected and deleted, also from its first instant.

    The day after sees each of the three, so the check would see them had they leaked.
    """
    midnight = datetime.combine(DAY, time())
    on_the_day = lines[lines["day"] == DAY]
    deleted, corrected = sorted(set(on_the_day["customer_id"]))[:2]
    later = lines["day"] >= DAY
    known = sorted(set(lines.loc[~later, "customer_id"]) - set(on_the_day["customer_id"]))
    appending, returning = known[:2]

    changed = lines[~(later & (lines["customer_id"] == deleted))].copy()
    at = changed["ordered_at"] >= midnight
    changed.loc[at, "discount_amount"] = Decimal("0.123456")
    changed.loc[at & (changed["customer_id"] == corrected), "quantity"] += 1000
    order = lines.iloc[0]
    mine = lines[~later & (lines["customer_id"] == returning) & lines["is_kept"]].iloc[-1]
    extra = pd.DataFrame([
        # An order at the first instant, of somebody known and of a stranger.
        {**order, "customer_id": appending, "order_id": "new", "ordered_at": midnight},
        {**order, "customer_id": "stranger", "order_id": "new too", "ordered_at": midnight},
        # A return of what was bought before, and one more line of that very order.
        {**mine, "order_id": "back", "ordered_at": midnight, "quantity": -mine["quantity"]},
        {**mine, "line_number": 99, "ordered_at": midnight + timedelta(days=3)},
        # The newest order of the shop.
        {**order, "order_id": "last", "ordered_at": midnight + timedelta(days=400)},
    ]).assign(source_row=0)  # fmt: skip
    with landed(pd.concat([changed, extra])):
        build(DAY, NEXT_DAY)

    assert features(DAY) == built.features[DAY]
    before, after = (
        {row["customer_id"]: row["monetary_total"] for row in rows}
        for rows in (built.features[NEXT_DAY], features(NEXT_DAY))
    )
    seen = {c for c in before.keys() | after.keys() if before.get(c) != after.get(c)}
    assert seen >= {deleted, corrected, appending, returning, "stranger"}


def test_a_day_has_the_same_rows_built_twice_alone_or_with_others(built, build, features, read):
    """They are built already, with all the others; here alone, then with some others."""
    for days in ((DAY,), (NOT_CLOSED, DAY, EARLY, DAY)):
        build(*days)
        assert features(DAY) == built.features[DAY]
    labels = [row for row in built.labels if row["as_of_date"] in (DAY, EARLY)]
    query = f"select * from features.customer_labels where as_of_date in ('{DAY}', '{EARLY}')"
    assert read(f"{query} order by 1, 2, 3") == labels != []


def test_a_day_that_yields_nothing_any_more_is_emptied(lines, landed, build, features, read):
    with landed(lines[lines["day"] >= EARLY]):
        build(EARLY)
    assert features(EARLY) == []
    tables = ("feat_customer_rfm", "feat_customer_behaviour", "customer_labels")
    for table in tables:
        query = f"select as_of_date, count(*) from features.{table} group by 1"
        counts = {row["as_of_date"]: row["count"] for row in read(query)}
        assert EARLY not in counts
        assert counts[DAY] > 0  # no other day is touched


def test_labels_exist_only_where_the_window_is_closed(built):
    found = {(row["as_of_date"], row["horizon_days"]) for row in built.labels}
    closed = {(d, h) for d in DAYS for h in HORIZONS if d + timedelta(days=h) <= NEWEST}
    assert found == closed
    assert (JUST_CLOSED, 30) in closed
    assert (NOT_CLOSED, 30) not in closed


def test_labels_are_what_came_after(built, lines):
    """Of everybody with an order before the day, those who then did nothing too."""
    for day, horizon in {(row["as_of_date"], row["horizon_days"]) for row in built.labels}:
        end = day + timedelta(days=horizon)
        window = lines[(lines["day"] >= day) & (lines["day"] < end)]
        spend = window.groupby("customer_id")["amount"].sum()
        orders = window[window["is_kept"]].groupby("customer_id")["order_id"].nunique()
        customers = set(lines.loc[(lines["day"] < day) & lines["is_kept"], "customer_id"])
        expected = {c: (cents(spend.get(c, 0)), orders.get(c, 0)) for c in customers}
        best = sorted((s for s, _ in expected.values()), reverse=True)
        threshold = best[int(np.ceil(len(best) / 10)) - 1]

        found = [
            row
            for row in built.labels
            if (row["as_of_date"], row["horizon_days"]) == (day, horizon)
        ]
        assert {row["customer_id"]: (row["spend"], row["orders"]) for row in found} == expected
        for row in found:
            assert row["is_purchased"] == (row["orders"] > 0) != row["is_churned"]
            assert row["is_high_value"] == (row["spend"] > 0 and row["spend"] >= threshold)


@pytest.mark.parametrize("day", DAYS)
def test_recency_counts_and_spend_are_what_the_lines_say(built, lines, day):
    past = lines[lines["day"] < day]
    kept = past[past["is_kept"]]
    by_customer = kept.groupby("customer_id")
    expected = pd.DataFrame({
        "recency_days": by_customer["day"].max().map(lambda last: (day - last).days),
        "tenure_days": by_customer["day"].min().map(lambda first: (day - first).days),
        "frequency_orders": by_customer["order_id"].nunique(),
        "monetary_total": past.groupby("customer_id")["amount"].sum().map(cents),
    })  # fmt: skip
    expected = expected.loc[sorted(kept["customer_id"].unique())]
    for n in (30, 90, 180, 365):
        recent = past[past["day"] >= day - timedelta(days=n)]
        spend = recent.groupby("customer_id")["amount"].sum().map(cents)
        expected[f"spend_{n}d"] = spend.reindex(expected.index, fill_value=cents(0))
        orders = recent[recent["is_kept"]].groupby("customer_id")["order_id"].nunique()
        expected[f"orders_{n}d"] = orders.reindex(expected.index, fill_value=0)

    found = pd.DataFrame(built.features[day]).set_index("customer_id")
    for column in expected:
        assert found[column].to_dict() == expected[column].to_dict(), column


def test_last_years_window_is_known_only_after_a_year(built, lines):
    assert {row["spend_same_window_last_year_90d"] for row in built.features[EARLY]} == {None}
    began = DAY - timedelta(days=365)
    window = lines[(lines["day"] >= began) & (lines["day"] < began + timedelta(days=90))]
    spend = window.groupby("customer_id")["amount"].sum()
    for row in built.features[DAY]:
        expected = cents(spend.get(row["customer_id"], 0))
        assert row["spend_same_window_last_year_90d"] == expected


def test_netting_keeps_every_penny_of_every_customers_day(built, lines):
    """A day of which nothing is left may be gone, if nothing is what it came to."""
    came_to = lines.groupby(["customer_id", "day"])["amount"].sum().to_dict()
    netted = {(row["customer_id"], row["order_date"]): row["amount"] for row in built.netted}
    assert {key: netted.get(key, 0) for key in came_to.keys() | netted.keys()} == came_to
    assert len(netted) < len(came_to)


def cents(amount: Decimal | int) -> Decimal:
    """As PostgreSQL rounds a numeric: half away from zero."""
    return Decimal(amount).quantize(CENT, ROUND_HALF_UP)
