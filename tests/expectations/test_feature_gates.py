"""Each fault planted in the features, labels or events breaks the bound that is there for it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
import shops
import yaml
from bounds import TABLES, broken, columns, facts
from shops import DAY, EARLIER, PUBLISHED

from expectations import events, features, labels

TODAY = f"as_of_date = date '{DAY}'"
SOME = "customer_id in ('household-1', 'household-11')"
# 45 of the 60.
MANY = "cast(split_part(customer_id, '-', 2) as integer) < 45"
ONE = "customer_id = 'household-1'"

# What went wrong: (its SQL, the fact that shows it, severity).
FEATURES = {
    "the day is empty": (
        f"delete from features.customer_features where {TODAY}", "row_count", "critical",
    ),
    "the day was built half": (
        f"delete from features.customer_features where {TODAY} and customer_id like '%1%'",
        "customers_to_usual",
        "critical",
    ),
    "the customers got other identifiers": (
        "insert into features.customer_features (customer_id, as_of_date) "
        f"select customer_id || '-' || copy, date '{DAY}' from features.customer_features "
        f"cross join generate_series(1, 3) as copy where as_of_date = '{EARLIER}'",
        "customers_to_usual",
        "warning",
    ),
    "a family has not all customers": (
        f"delete from features.customer_features where {TODAY} and {ONE}",
        "customers_lost_in_join",
        "critical",
    ),
    "all amounts are zero": (
        "update features.customer_features set monetary_total = 0", "total_spend", "critical",
    ),
    "the amounts are in cents": (
        "update features.customer_features set monetary_total = monetary_total * 100 "
        f"where {TODAY}",
        "order_value_to_day_before",
        "critical",
    ),
    "the amounts are in hundreds": (
        "update features.customer_features set monetary_total = monetary_total / 100 "
        f"where {TODAY}",
        "order_value_to_day_before",
        "critical",
    ),
    "one customer holds everything": (
        f"update features.customer_features set monetary_total = 1e7 where {ONE}",
        "largest_customer_share",
        "warning",
    ),
    "everybody bought last on the same day": (
        "update features.customer_features set recency_days = 7",
        "spread_of_recency_days",
        "critical",
    ),
    "everybody is in one segment": (
        "update features.customer_features set rfm_segment = 'champions'",
        "has_several_rfm_segments",
        "warning",
    ),
    "lines were counted as orders": (
        "update features.customer_features set frequency_orders = frequency_orders * 30",
        "mean_frequency_orders",
        "warning",
    ),
    "orders were not counted": (
        "update features.customer_features set frequency_orders = 0",
        "mean_frequency_orders",
        "warning",
    ),
    "an order came after the day was built": (
        "insert into raw.order_lines (customer_id, ordered_at, quantity, unit_price) "
        f"values ('household-1', date '{DAY}' - 9, 1, 12)",
        "spend_missing_from_raw",
        "critical",
    ),
    "an order is gone since": (
        f"delete from raw.order_lines where ordered_at > date '{DAY}' - 60 and {ONE}",
        "spend_missing_from_raw",
        "critical",
    ),
    "a customer is gone since": (
        f"delete from raw.order_lines where {ONE}", "customers_without_lines", "critical",
    ),
    "many buyers are no customers": (
        f"delete from features.feat_customer_rfm where {TODAY} and customer_id like '%-_'; "
        f"delete from features.feat_customer_rfm where {TODAY} and customer_id like '%1%'",
        "paying_customer_share",
        "critical",
    ),
    "a join multiplies lines": (
        f"update features.customer_features set lines_per_order = lines_per_order * 1.1 "
        f"where {SOME}",
        "line_share",
        "critical",
    ),
    "most lines are in no order": (
        "update features.customer_features set lines_per_order = lines_per_order / 3",
        "line_share",
        "warning",
    ),
    "a view was not counted": (
        "update features.customer_features set views_365d = views_365d - 1 "
        f"where {TODAY} and {ONE}",
        "views_365d_missing_from_raw",
        "critical",
    ),
    "the events of a day came after it was built": (
        "insert into raw.events (customer_id, occurred_at, event_type) "
        f"values ('household-1', date '{DAY}' - 1, 'view')",
        "views_365d_missing_from_raw",
        "critical",
    ),
    "a review was not counted": (
        "update features.customer_features set reviews_total = 0",
        "reviews_total_missing_from_raw",
        "critical",
    ),
    "a contact was counted twice": (
        "update features.customer_features set contacts_365d = contacts_365d + 1 "
        f"where {TODAY} and {ONE}",
        "contacts_365d_missing_from_raw",
        "critical",
    ),
    "ages are years of birth": (
        "update features.customer_features set age_years = 1970",
        "odd_age_share",
        "warning",
    ),
    **{
        f"the typical {column} is {name}": (
            f"update features.feat_customer_rfm set {column} = {column} {change} where {TODAY}",
            f"{column}_median_to_day_before",
            "critical",
        )
        for column in features.MEDIANS
        for name, change in (("twentyfold", "* 20"), ("a fortieth", "/ 40"))
    },
    **{
        f"{column} is the same for {name}": (
            "update features.feat_customer_rfm set "
            f"{'tenure_days' if column == 'first_order_date' else column} = 9 "
            f"where {TODAY} and {who}",
            f"{column}_shift",
            severity,
        )
        for column in features.SHIFTS
        for name, who, severity in (
            ("everybody", "true", "critical"), ("many", MANY, "warning"),
        )
        if severity == "warning" or features.SHIFTS[column][1] is not None
    },
}  # fmt: skip
LABELS = {
    "a window has no labels": (
        "delete from features.customer_labels where horizon_days = 30",
        "missing_horizons",
        "critical",
    ),
    "a window was labelled before it closed": (
        "insert into features.customer_labels "
        "select customer_id, as_of_date, 180, spend, is_purchased, is_high_value "
        "from features.customer_labels where horizon_days = 90",
        "open_horizons",
        "critical",
    ),
    "who bought nothing has no label": (
        "delete from features.customer_labels where horizon_days = 90 and customer_id like '%1%'",
        "customers_without_label",
        "critical",
    ),
    "somebody unknown has a label": (
        f"insert into features.customer_labels values ('nobody', '{EARLIER}', 90, 0, false, false)",
        "labels_without_customer",
        "critical",
    ),
    "nobody bought in a window": (
        "update features.customer_labels set is_purchased = false where horizon_days = 30",
        "smallest_buyer_share",
        "warning",
    ),
    "returns outweigh sales": (
        "update features.customer_labels set spend = -spend where horizon_days = 30",
        "smallest_spend",
        "warning",
    ),
    "buyers left again": (
        "update features.customer_labels set is_purchased = false "
        f"where horizon_days = 90 and {SOME}",
        "smallest_growth_of_buyers",
        "critical",
    ),
    "nobody is of high value": (
        "update features.customer_labels set is_high_value = false where horizon_days = 90",
        "smallest_high_value_share",
        "critical",
    ),
    "every buyer is of high value": (
        "update features.customer_labels set is_high_value = is_purchased where horizon_days = 90",
        "largest_high_value_share",
        "warning",
    ),
    "a return came after the labels were built": (
        "insert into raw.order_lines (customer_id, ordered_at, quantity, unit_price) "
        f"values ('household-1', date '{EARLIER}' + 40, -1, 12)",
        "spend_missing_from_raw",
        "critical",
    ),
    "the window holds a day too many": (
        "update features.customer_labels set spend = spend + 1 where horizon_days = 90",
        "spend_missing_from_raw",
        "critical",
    ),
}
EVENTS = {
    "nothing was known": ("truncate features.customer_events", "row_count", "critical"),
    "a row is missing": (
        f"delete from features.customer_events where {ONE} and kind = 1",
        "rows_missing_from_raw",
        "critical",
    ),
    "a row of the raw tables came since": (
        "insert into raw.campaign_contacts (customer_id, contacted_at, clicked_at) "
        f"values ('household-1', date '{DAY}' - 9, date '{DAY}' - 8)",
        "rows_missing_from_raw",
        "critical",
    ),
    "a row is known on its own day": (
        f"update features.customer_events set known_on = event_date where {ONE}",
        "rows_known_too_early",
        "critical",
    ),
    "time runs backwards": (
        f"update features.customer_events set seconds_since_last = -1 where {ONE}",
        "negative_waits",
        "critical",
    ),
    "nobody waited": (
        "update features.customer_events set seconds_since_last = null where position = 2",
        "missing_waits",
        "critical",
    ),
    "the newest events are missing": (
        f"delete from features.customer_events where known_on = date '{DAY}' and kind > 2",
        "newest_day_to_quietest",
        "warning",
    ),
    "old days came again": (
        f"update features.customer_events set known_on = date '{DAY}' "
        f"where event_date between date '{DAY}' - 200 and date '{DAY}' - 40 and kind = 1",
        "newest_day_to_busiest",
        "warning",
    ),
    "few of the newest products have a category": (
        "update features.customer_events set category_code = 0 "
        f"where known_on = date '{DAY}' and {MANY}",
        "category_share_to_usual",
        "warning",
    ),
    "the newest products have no category": (
        f"update features.customer_events set category_code = 0 where known_on = date '{DAY}'",
        "category_share_to_usual",
        "critical",
    ),
}
FAULTS = [
    pytest.param(table, day, *fault, id=f"{table}: {name}")
    for table, day, faults in (
        ("customer_features", DAY, FEATURES),
        ("customer_labels", EARLIER, LABELS),
        ("customer_events", DAY, EVENTS),
    )
    for name, fault in faults.items()
]


@pytest.fixture(scope="module")
def opened(urls) -> Iterator[psycopg.Connection]:
    with psycopg.connect(urls.warehouse) as connection:
        shops.open_shop(connection, shops.grocery_lines(), is_online=True)
        connection.commit()
        yield connection
        connection.rollback()


@pytest.fixture
def shop(opened) -> Iterator[psycopg.Connection]:
    """A healthy shop, and healthy again for the next test."""
    with opened.transaction(force_rollback=True):
        yield opened


@pytest.mark.parametrize(("table", "day", "sql", "fact", "severity"), FAULTS)
def test_a_planted_fault_breaks_its_bound(shop, table, day, sql, fact, severity):
    assert (fact, severity) not in broken(shop, table, day)
    shop.execute(sql)
    assert (fact, severity) in broken(shop, table, day)


def impossible() -> Iterator[tuple[str, str]]:
    """A value on either side of each range, and what is no number where the type has that."""
    for column, (low, high) in features.RANGES.items():
        yield column, f"{low} - 1"
        yield column, f"{high} + 1"
        if shops.FEATURES[column][0] == "double precision":
            yield column, "'NaN'"


@pytest.mark.parametrize(("column", "value"), impossible())
def test_one_value_that_cannot_be_breaks_the_bound_of_its_column_and_no_other(shop, column, value):
    shop.execute(
        f"update features.customer_features set {column} = {value} where {TODAY} and {ONE}"
    )
    outside = {
        fact for fact, _ in broken(shop, "customer_features", DAY) if fact.endswith("_outside")
    }
    assert outside == {f"{column}_outside"}


@pytest.mark.parametrize("measure", features.WINDOWS)
def test_a_window_that_holds_more_than_a_longer_one_breaks_its_bound(shop, measure):
    windows = features.WINDOWS[measure]
    for shorter, longer in zip(("0", *windows), windows, strict=False):
        with shop.transaction(force_rollback=True):
            shop.execute(
                f"update features.customer_features set {longer} = {shorter} - 1 "
                f"where {TODAY} and {ONE}"
            )
            nested = {
                fact
                for fact, _ in broken(shop, "customer_features", DAY)
                if fact.endswith("_not_nested")
            }
        assert nested == {f"{measure}_not_nested"}


def test_a_column_that_lost_its_values_breaks_its_bound_and_no_other(shop):
    """A column that was empty the day before cannot lose any."""
    row = shop.execute(
        "select "
        + ", ".join(f"count({column}) * 10 >= count(*)" for column in shops.FEATURES)
        + f" from features.customer_features where as_of_date = '{PUBLISHED}'"
    ).fetchone()
    for column, had_values in zip(shops.FEATURES, row, strict=True):
        with shop.transaction(force_rollback=True):
            shop.execute(f"update features.customer_features set {column} = null where {TODAY}")
            emptied = {
                fact
                for fact, _ in broken(shop, "customer_features", DAY)
                if fact.endswith("_filled")
            }
        assert emptied == ({f"{column}_filled"} if had_values else set()), column


@pytest.mark.parametrize("column", events.RANGES)
def test_a_code_that_cannot_be_breaks_the_bound_of_its_column_and_no_other(shop, column):
    low, high = events.RANGES[column]
    for value in (low - 1, high + 1, "null"):
        with shop.transaction(force_rollback=True):
            shop.execute(
                f"update features.customer_events set {column} = {value} "
                f"where {ONE} and occurred_at = (select max(occurred_at) "
                f"from features.customer_events where {ONE} and known_on <= date '{DAY}')"
            )
            outside = {
                fact
                for fact, _ in broken(shop, "customer_events", DAY)
                if fact.endswith("_outside")
            }
            assert outside == {f"{column}_outside"}


def test_every_bound_has_a_fault_that_breaks_it(shop):
    planted = {(table, fact, severity) for table, _, _, fact, severity in
               (fault.values for fault in FAULTS)}  # fmt: skip
    declared = {
        (name, expectation.column, expectation.severity.value)
        for name, table in TABLES.items()
        for expectation in table.suite(columns(shop, table)).expectations
        if not expectation.column.endswith(("_outside", "_not_nested", "_filled"))
    }
    # An empty labels table is asked nothing: its row count stands for the form.
    assert declared - planted == {("customer_labels", "row_count", "critical")}


def shift(then: np.ndarray, now: np.ndarray) -> float:
    """The population stability index, by tenths of `then`, with half a customer in each bin."""
    edges = np.quantile(then, np.arange(1, 10) / 10, method="inverted_cdf")
    bins = [np.searchsorted(edges, values, side="right") for values in (then, now)]
    used = np.union1d(*bins)
    counts = [np.array([(found == bin).sum() for bin in used]) + 0.5 for found in bins]
    p, q = (count / count.sum() for count in counts)
    return float(np.sum((p - q) * np.log(p / q)))


@pytest.mark.parametrize("column", ["recency_days", "frequency_orders", "monetary_total"])
def test_a_shift_is_the_population_stability_index(shop, column):
    shop.execute(
        f"update features.feat_customer_rfm set {column} = {column} * 1.5 "
        f"where {TODAY} and customer_id like '%1%'"
    )
    then, now = (
        np.array(
            shop.execute(
                f"select cast({column} as double precision) from features.feat_customer_rfm "
                f"where as_of_date = '{day}'"
            ).fetchall()
        ).ravel()
        for day in (PUBLISHED, DAY)
    )
    assert facts(shop, "customer_features", DAY)[f"{column}_shift"] == pytest.approx(
        shift(then, now)
    )
    assert shift(then, now) > 0


@pytest.mark.parametrize(
    "sql",
    [
        "truncate ops.published",
        f"update ops.versions set as_of_date = date '{DAY}' - 32",
        f"update ops.versions set as_of_date = date '{DAY}' + 1",
        f"update ops.versions set as_of_date = date '{DAY}' - 1",  # never built, or no more
        f"delete from features.feat_customer_rfm where as_of_date = '{PUBLISHED}' "
        "and customer_id like '%1%'",  # fewer than fill ten bins
    ],
)
def test_without_a_published_day_to_compare_with_nothing_has_shifted(shop, sql):
    shop.execute(f"update features.feat_customer_rfm set monetary_total = 9 where {TODAY}")
    shop.execute(sql)
    seen = facts(shop, "customer_features", DAY)
    assert {seen[f"{column}_shift"] for column in features.SHIFTS} == {0}


def test_one_day_that_was_built_half_does_not_make_the_next_look_too_large(shop):
    shop.execute(
        f"insert into features.feat_customer_rfm select customer_id, date '{DAY}' - 2 "
        f"from features.feat_customer_rfm where as_of_date = '{PUBLISHED}'"
    )
    shop.execute(
        "insert into features.feat_customer_rfm (customer_id, as_of_date) "
        f"values ('household-1', date '{DAY}' - 1)"
    )
    assert facts(shop, "customer_features", DAY)["customers_to_usual"] == 1


def test_what_was_delivered_after_the_day_is_not_missed(shop):
    """A row of before the day that came later is for later days."""
    shop.execute(
        "insert into raw.order_lines (customer_id, ordered_at, quantity, unit_price, known_at) "
        f"values ('household-1', date '{DAY}' - 9, 1, 12, date '{DAY}' + 1)"
    )
    shop.execute(
        "insert into raw.events (customer_id, occurred_at, event_type, known_at) "
        f"values ('household-1', date '{DAY}' - 9, 'view', date '{DAY}' + 1)"
    )
    for table in ("customer_features", "customer_events"):
        assert broken(shop, table, DAY) == set()
    shop.execute(
        f"update raw.order_lines set known_at = date '{DAY}' + time '23:00' "
        "where known_at is not null"
    )
    assert broken(shop, "customer_features", DAY) == {("spend_missing_from_raw", "critical")}
    assert broken(shop, "customer_events", DAY) == {("rows_missing_from_raw", "critical")}


def test_customers_of_no_order_are_nobodys_features(shop):
    """Who only looks around is in the stream, and in raw, and no customer yet."""
    shop.execute(
        "insert into raw.events (customer_id, occurred_at, event_type) "
        f"values ('passer-by', date '{DAY}' - 9, 'view')"
    )
    assert broken(shop, "customer_features", DAY) == set()


def test_the_horizons_are_those_of_the_models():
    project = yaml.safe_load(
        (Path(__file__).parents[2] / "dbt_project" / "dbt_project.yml").read_text()
    )
    assert tuple(project["vars"]["horizons"]) == labels.HORIZONS
