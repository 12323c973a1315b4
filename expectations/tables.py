"""What a gate needs to know about a table beside its suite."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

import great_expectations as gx
from great_expectations.expectations.core.expect_column_max_to_be_between import (
    ExpectColumnMaxToBeBetween,
)
from great_expectations.expectations.core.expect_column_min_to_be_between import (
    ExpectColumnMinToBeBetween,
)
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

Columns = Sequence[str]
Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Scope:
    """The part of the tables that a gate looks at. Both values are checked before they get here."""

    day: date | None = None
    version_id: str | None = None

    @property
    def date_literal(self) -> str:
        """The day as an SQL literal; made from a `date`, never from text that somebody typed."""
        if self.day is None:
            raise ValueError("this table is gated by day")
        return f"date '{self.day.isoformat()}'"


@dataclass(frozen=True, eq=False)
class Table:
    """A gated table.

    `facts` is the SQL that describes the scope's population in exactly one row: its `row_count`,
    shares, ratios to the day before. `suite` holds bounds for those facts. Both are given the
    table's columns.

    One row, because Great Expectations reads the whole result of a query to learn its columns
    (measured: a million lines fetched to no end), and because one pass then answers everything.
    `needs` names the tables that the SQL reads, its own first, and the command that makes each.
    `is_optional` lets a day without rows go unasked.
    """

    name: str
    suite: Callable[[Columns], gx.ExpectationSuite]
    facts: Callable[[Scope, Columns], str]
    needs: Mapping[str, str]
    is_optional: bool = False

    @property
    def full_name(self) -> str:
        return next(iter(self.needs))


def visible(scope: Scope, time: str) -> str:
    """The SQL condition on a raw row that the day sees: it happened before, and came by then.

    What the shop's first daily delivery brought is its history, as for the features.
    """
    return (
        f"({time} < {scope.date_literal} and (known_at is null "
        f"or known_at < {scope.date_literal} + 1 or known_at < (select "
        f"cast(min(delivered_at) as date) + 1 from ops.files where is_daily)))"
    )


def rows_outside(column: str, low: float, high: float) -> str:
    """The SQL aggregate that counts the values that are not within the bounds; NaN is not."""
    return f"count(*) filter (where {column} not between {low:g} and {high:g})"


def at_least(fact: str, bound: float, severity: Severity, note: str) -> Expectation:
    """A fact that is null, because there was nothing to measure, fails its bound."""
    return ExpectColumnMinToBeBetween(
        column=fact, min_value=bound, severity=FailureSeverity(severity), notes=note
    )


def more_than(fact: str, bound: float, severity: Severity, note: str) -> Expectation:
    return ExpectColumnMinToBeBetween(
        column=fact,
        min_value=bound,
        strict_min=True,
        severity=FailureSeverity(severity),
        notes=note,
    )


def at_most(fact: str, bound: float, severity: Severity, note: str) -> Expectation:
    return ExpectColumnMaxToBeBetween(
        column=fact, max_value=bound, severity=FailureSeverity(severity), notes=note
    )


def has_rows(note: str) -> Expectation:
    """The first expectation of every suite: most bounds hold of nothing at all."""
    return at_least("row_count", 1, "critical", note)
