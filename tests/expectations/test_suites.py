"""Each corruption is caught by the expectation that is there for it; healthy shops by none."""

import bounds
import pytest
from shops import DAY, EARLIER, VERSION

from expectations import run

TODAY = f"as_of_date = date '{DAY}'"
CLOSED = f"as_of_date = date '{EARLIER}'"

# stage: (what went wrong, its SQL, the fact that shows it, severity)
RAW = {
    "nothing was loaded": ("truncate raw.order_lines", "row_count", "critical"),
    "the newest files are missing": (
        f"delete from raw.order_lines where ordered_at >= date '{DAY}' - 25",
        "days_since_newest_order",
        "warning",
    ),
    "no file came for six weeks": (
        f"delete from raw.order_lines where ordered_at >= date '{DAY}' - 42",
        "days_since_newest_order",
        "critical",
    ),
    "the newest month was loaded by a quarter": (
        f"delete from raw.order_lines where ordered_at >= date '{DAY}' - 28 and source_row % 4 > 0",
        "newest_28_days_to_usual",
        "warning",
    ),
    "the newest month broke off": (
        "delete from raw.order_lines "
        f"where ordered_at >= date '{DAY}' - 28 and source_row % 40 > 0",
        "newest_28_days_to_usual",
        "critical",
    ),
    "a file in between is missing": (
        "delete from raw.order_lines where ordered_at between '2025-05-01' and '2025-07-01'",
        "thinnest_28_days_to_usual",
        "warning",
    ),
    "guests share one id": (
        "update raw.order_lines set customer_id = 'guest' where source_row % 3 = 0",
        "largest_customer_share",
        "warning",
    ),
    "a missing id was given a name": (
        "update raw.order_lines set customer_id = 'None' where source_row % 3 > 0",
        "largest_customer_share",
        "critical",
    ),
    "a month came in another currency": (
        "update raw.order_lines set unit_price = unit_price * 10 "
        "where date_trunc('month', ordered_at) = '2025-06-01'",
        "oddest_month_price_factor",
        "warning",
    ),
    "a month came in cents": (
        "update raw.order_lines set unit_price = unit_price * 100 "
        "where date_trunc('month', ordered_at) = '2025-12-01'",
        "oddest_month_price_factor",
        "critical",
    ),
    "a month came in hundreds": (
        "update raw.order_lines set unit_price = unit_price / 100 "
        "where date_trunc('month', ordered_at) = '2025-12-01'",
        "oddest_month_price_factor",
        "critical",
    ),
    "the sign of the quantity is lost": (
        "update raw.order_lines set quantity = -quantity where source_row % 3 > 0",
        "paid_line_share",
        "critical",
    ),
    "most lines lost their product": (
        "update raw.order_lines set product_id = null where source_row % 3 > 0",
        "productless_line_share",
        "warning",
    ),
}
# One of each of the gate's tables; test_feature_gates.py has them all.
FEATURES = {
    "the amounts are in cents": (
        "update features.customer_features set monetary_total = monetary_total * 100 "
        f"where {TODAY}",
        "order_value_to_day_before",
        "critical",
    ),
    "a column is null for everybody": (
        f"update features.customer_features set order_gap_mean_days = null where {TODAY}",
        "order_gap_mean_days_filled",
        "critical",
    ),
}
LABELS = {
    "who bought nothing has no label": (
        "delete from features.customer_labels where horizon_days = 90 and customer_id like '%1%'",
        "customers_without_label",
        "critical",
    ),
}
EVENTS = {
    "a row is known on its own day": (
        "update features.customer_events set known_on = event_date "
        "where customer_id = 'household-1'",
        "rows_known_too_early",
        "critical",
    ),
}
SCORES = {
    "nothing was scored": ("truncate scores.customer_scores", "row_count", "critical"),
    "a customer was not scored": (
        "delete from scores.customer_scores where customer_id = 'household-1'",
        "customers_without_score",
        "critical",
    ),
    "somebody unknown was scored": (
        "update scores.customer_scores set customer_id = 'nobody' "
        "where customer_id = 'household-1'",
        "scores_without_customer",
        "critical",
    ),
    "a probability is negative": (
        "update scores.customer_scores set purchase_probability = -0.01 "
        "where customer_id = 'household-1'",
        "smallest_purchase_probability",
        "critical",
    ),
    "a probability is above one": (
        "update scores.customer_scores set purchase_probability = 1.01 "
        "where customer_id = 'household-1'",
        "largest_purchase_probability",
        "critical",
    ),
    "a probability is not a number": (
        "update scores.customer_scores set purchase_probability = 'NaN' "
        "where customer_id = 'household-1'",
        "largest_purchase_probability",
        "critical",
    ),
    "all probabilities are alike": (
        "update scores.customer_scores set purchase_probability = 0.3",
        "distinct_purchase_probability",
        "critical",
    ),
    "an expected spend is negative": (
        "update scores.customer_scores set expected_spend = -1 where customer_id = 'household-1'",
        "smallest_expected_spend",
        "critical",
    ),
    "an expected spend is not a number": (
        "update scores.customer_scores set expected_spend = 'NaN' "
        "where customer_id = 'household-1'",
        "largest_expected_spend",
        "critical",
    ),
    "an expected spend is infinite": (
        "alter table scores.customer_scores alter expected_spend type numeric; "
        "update scores.customer_scores set expected_spend = 'Infinity' "
        "where customer_id = 'household-1'",
        "largest_expected_spend",
        "critical",
    ),
    "all expected spends are alike": (
        "update scores.customer_scores set expected_spend = 30",
        "distinct_expected_spend",
        "critical",
    ),
    "the total is ten times the last window's": (
        "update scores.customer_scores set expected_spend = expected_spend * 10",
        "most_expected_to_last_spend",
        "warning",
    ),
    "the total is a tenth of the last window's": (
        "update scores.customer_scores set expected_spend = expected_spend / 10",
        "least_expected_to_last_spend",
        "warning",
    ),
}
TIERS = {
    "nobody has a tier": ("truncate scores.customer_tiers", "row_count", "critical"),
    "a scored customer has no tier": (
        "delete from scores.customer_tiers where customer_id = 'household-1'",
        "customers_without_tier",
        "critical",
    ),
    "the tiers are of other scores": (
        "update scores.customer_tiers set expected_spend = expected_spend + 1",
        "tiers_without_score",
        "critical",
    ),
    "the last tier is missing": (
        f"update scores.customer_tiers set drawn_tier_rank = 2 where tier_rank = 3 and {TODAY}",
        "missing_tiers",
        "critical",
    ),
    "the best tier is missing": (
        f"update scores.customer_tiers set drawn_tier_rank = 2 where tier_rank = 1 and {TODAY}",
        "missing_tiers",
        "critical",
    ),
    "one tier holds everybody": (
        "update scores.customer_tiers set tier_rank = 1", "largest_tier_share", "critical",
    ),
    "the tiers are upside down": (
        "update scores.customer_tiers set drawn_tier_rank = 4 - tier_rank",
        "tiers_out_of_order",
        "critical",
    ),
    "a customer is in another tier for no reason": (
        "update scores.customer_tiers set tier_rank = 1 where customer_id = 'household-1'",
        "unexplained_tiers",
        "critical",
    ),
}  # fmt: skip
SEGMENTS = {
    "nobody has a segment": ("truncate scores.customer_segments", "row_count", "critical"),
    "a customer has no segment": (
        "delete from scores.customer_segments where customer_id = 'household-1'",
        "customers_without_segment",
        "critical",
    ),
    "somebody unknown is in a segment": (
        "update scores.customer_segments set customer_id = 'nobody' "
        "where customer_id = 'household-1'",
        "segments_without_customer",
        "critical",
    ),
    "a customer is in two segments": (
        "insert into scores.customer_segments "
        "select version_id, as_of_date, customer_id, 'rare' from scores.customer_segments "
        "where segment = 'regular' and customer_id like '%1'",
        "repeated_customers",
        "critical",
    ),
    "a customer's name is lost": (
        "update scores.customer_segments set customer_id = null where customer_id = 'household-1'",
        "repeated_customers",
        "critical",
    ),
    "a segment is of another version": (
        f"update scores.customer_segments set segment = 'old' where {TODAY} and segment = 'rare'",
        "unknown_segments",
        "critical",
    ),
    "a customer's segment is lost": (
        "update scores.customer_segments set segment = null where customer_id = 'household-1'",
        "unknown_segments",
        "critical",
    ),
    "the profiles are of other customers": (
        "update scores.segment_profiles set customers = customers + 1 where segment = 'rare'",
        "miscounted_segments",
        "critical",
    ),
    "a segment that is told of holds nobody": (
        f"insert into scores.segment_profiles values ('{VERSION}', 'empty', 7)",
        "miscounted_segments",
        "critical",
    ),
    "the names stand for other customers than before": (
        f"update scores.segment_evidence set agreement = 0.1 where version_id = '{VERSION}'",
        "agreement_with_before",
        "warning",
    ),
}

CORRUPTIONS = [
    pytest.param(stage, day, table, *corruption, id=f"{table}: {name}")
    for stage, day, table, corruptions in (
        ("raw", DAY, "order_lines", RAW),
        ("features", DAY, "customer_features", FEATURES),
        ("features", EARLIER, "customer_labels", LABELS),
        ("features", DAY, "customer_events", EVENTS),
        ("tiers", DAY, "customer_scores", SCORES),
        ("tiers", DAY, "customer_tiers", TIERS),
        ("tiers", DAY, "customer_segments", SEGMENTS),
    )
    for name, corruption in corruptions.items()
]


@pytest.mark.parametrize(("stage", "day", "table", "sql", "fact", "severity"), CORRUPTIONS)
def test_a_corruption_is_caught_by_its_expectation(
    url, grocery, stage, day, table, sql, fact, severity
):
    grocery.execute(sql)
    report = run.validate(url, stage, day.isoformat(), VERSION)
    assert (table, fact, severity) in {
        (failure.table_name, failure.column, failure.severity) for failure in report.failures
    }, report.summary()
    assert report.refused or severity == "warning"


@pytest.mark.parametrize("kind", ["grocery", "gift_wholesale"])
@pytest.mark.parametrize(
    ("stage", "day"),
    [
        ("raw", None),
        ("raw", EARLIER),
        ("raw", DAY),
        ("features", EARLIER),
        ("features", DAY),
        ("tiers", DAY),
    ],
)
def test_a_healthy_shop_raises_no_alarm(request, url, kind, stage, day):
    request.getfixturevalue(kind)
    report = run.validate(url, stage, day and day.isoformat(), VERSION)
    assert report.failures == (), report.summary()
    assert not report.refused


def test_tiers_that_were_held_and_those_from_before_there_was_a_hold_pass_the_gate(url, grocery):
    grocery.execute(
        "update scores.customer_tiers set tier_rank = 1, decided_by = 'hysteresis' "
        "where tier_rank = 2 and customer_id < 'household-3'"
    )
    assert run.validate(url, "tiers", DAY.isoformat(), VERSION).failures == ()
    grocery.execute(
        "update scores.customer_tiers set tier_rank = drawn_tier_rank, drawn_tier_rank = null, "
        "decided_by = null, measure = null"
    )
    assert run.validate(url, "tiers", DAY.isoformat(), VERSION).failures == ()


@pytest.mark.parametrize("method", ["threshold", "rfm"])
def test_borders_in_money_and_groups_by_scores_may_hold_nobody(url, grocery, method):
    grocery.execute(
        "insert into ops.policies select 'policy', jsonb_build_object('method', %s::text)", [method]
    )
    grocery.execute(
        "update scores.customer_tiers set tier_rank = 2, drawn_tier_rank = 2 "
        f"where tier_rank = 3 and {TODAY}"
    )
    assert run.validate(url, "tiers", DAY.isoformat(), VERSION).failures == ()


def test_every_expectation_has_a_corruption_that_it_catches():
    """Of the features gate test_feature_gates.py says so."""
    caught = {(table, fact, severity) for stage, _, table, _, fact, severity in
              (param.values for param in CORRUPTIONS) if stage != "features"}  # fmt: skip
    declared = {
        (table.name, expectation.column, expectation.severity.value)
        for stage in ("raw", "tiers")
        for table in run.STAGES[stage]
        for expectation in table.suite([]).expectations
    }
    assert declared == caught


def test_the_faults_of_the_features_are_judged_as_the_gate_judges_them(url, grocery):
    """test_feature_gates.py asks without Great Expectations."""
    for sql in (
        "update features.customer_features set weekend_order_share = 'NaN', rfm_segment = null",
        "update features.feat_customer_rfm set recency_days = 7 where as_of_date > '2026-01-01'",
        "delete from features.customer_labels where horizon_days = 30",
        "update features.customer_events set seconds_since_last = null",
    ):
        grocery.execute(sql)
    for day in (EARLIER, DAY):
        report = run.validate(url, "features", day.isoformat(), VERSION)
        assert report.refused
        for table in {result.table_name for result in report.results}:
            assert bounds.broken(grocery, table, day) == {
                (failure.column, failure.severity)
                for failure in report.failures
                if failure.table_name == table
            }


def test_every_suite_starts_with_a_critical_row_count_and_bears_its_tables_name():
    for table in (table for tables in run.STAGES.values() for table in tables):
        suite = table.suite([])
        assert suite.name == table.name
        assert suite.expectations[0].column == "row_count"
        assert suite.expectations[0].severity.value == "critical"
