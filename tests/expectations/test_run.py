"""A gate that cannot answer is shut, and what it says holds no row of a table."""

import dataclasses
import json
import tempfile
import time

import pytest
from shops import DAY, VERSION

from expectations import run
from expectations.report import GateError


@pytest.fixture(autouse=True)
def _shop(grocery):
    return grocery


def test_a_table_that_is_not_built_names_the_command_that_builds_it(url, grocery):
    grocery.execute("drop table features.customer_features")
    with pytest.raises(GateError, match=r"customer_features.*run `tierhouse build --as-of DAY`"):
        run.validate(url, "features", DAY.isoformat(), None)


def test_an_expectation_that_breaks_shuts_the_gate(url, grocery):
    """A missing column, and a row that the SQL trips over, are never taken for no failure."""
    grocery.execute("alter table raw.order_lines rename quantity to amount")
    with pytest.raises(GateError, match="order_lines"):
        run.validate(url, "raw", None, None)

    grocery.execute("alter table raw.order_lines rename amount to quantity")
    grocery.execute("alter table raw.order_lines alter quantity type text")
    with pytest.raises(GateError, match="order_lines") as shut:
        run.validate(url, "raw", None, None)
    assert "\n" not in str(shut.value)  # the statement stays out of the message


def test_a_bound_on_a_fact_that_is_not_measured_shuts_the_gate(url, monkeypatch):
    (table,) = run.STAGES["raw"]
    unmeasured = dataclasses.replace(table, facts=lambda scope, columns: "select 1 as row_count")
    monkeypatch.setitem(run.STAGES, "raw", (unmeasured,))
    with pytest.raises(GateError, match="stays shut"):
        run.validate(url, "raw", None, None)


def test_a_warehouse_that_does_not_answer_is_named_without_its_password():
    with pytest.raises(GateError, match=r"127\.0\.0\.1:9 did not answer") as shut:
        run.validate("postgresql://somebody:hunter2@127.0.0.1:9/nowhere", "raw", None, None)
    assert "hunter2" not in str(shut.value)


@pytest.mark.parametrize(
    ("stage", "day", "version"),
    [
        ("raw", "2026-01-05' or true --", None),
        ("raw", "05.01.2026", None),
        ("features", None, None),
        ("tiers", "2026-01-05", None),
        ("tiers", "2026-01-05", "0123456789abcdef'; drop schema raw; --"),
        ("tiers", "2026-01-05", VERSION + "\n"),
        ("marts", "2026-01-05", None),
    ],
)
def test_what_is_no_day_version_or_stage_reaches_no_sql(url, stage, day, version):
    with pytest.raises(GateError):
        run.validate(url, stage, day, version)


def test_results_hold_numbers_about_populations_and_no_row(url, grocery):
    grocery.execute("update raw.order_lines set customer_id = 'canary@example.org'")
    report = run.validate(url, "raw", DAY.isoformat(), None)
    assert report.refused
    assert "canary" not in repr(report) + report.summary() + repr(report.rows())
    for row in report.rows():
        assert isinstance(json.loads(row["observed"]), int | float)


def test_the_summary_names_expectation_table_fact_bound_and_value_with_the_critical_first(
    url, grocery
):
    grocery.execute("update raw.order_lines set customer_id = 'None', product_id = null")
    grocery.execute("update raw.order_lines set product_id = 'p' where source_row % 3 = 0")
    summary = run.validate(url, "raw", DAY.isoformat(), None).summary()
    assert (
        "order_lines.largest_customer_share (expect_column_max_to_be_between): "
        "expected at most 0.5, observed 1.0." in summary
    )
    assert summary.startswith("The raw gate of 2026-01-05 refused: [critical]")
    assert "\n" not in summary
    assert summary.index("[critical]") < summary.index("[warning]")


def test_an_empty_table_is_told_in_one_finding(url, grocery):
    grocery.execute("truncate raw.order_lines")
    report = run.validate(url, "raw", DAY.isoformat(), None)
    assert report.refused
    assert report.summary().count("[") == 1
    assert "row_count" in report.summary()


def test_a_gate_writes_nothing_and_leaves_no_connection(url, grocery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sessions = "select count(*) from pg_stat_activity where datname = current_database()"
    before = grocery.execute(sessions).fetchone()
    report = run.validate(url, "tiers", DAY.isoformat(), VERSION)
    assert report.results
    assert list(tmp_path.iterdir()) == []
    patience = time.monotonic() + 5  # a closed session ends a moment later
    while grocery.execute(sessions).fetchone() != before and time.monotonic() < patience:
        time.sleep(0.05)
    assert grocery.execute(sessions).fetchone() == before
