"""What a gate found. Numbers about populations only: no result holds a row of a table."""

import json
from dataclasses import dataclass
from datetime import date


class GateError(Exception):
    """The gate could not be run, so nothing may pass it. The message names what to do next."""


@dataclass(frozen=True)
class Result:
    """One expectation's verdict.

    `column` names the fact that was judged, `observed` is a number, a text for
    numbers that JSON has not (NaN, Infinity) or None when there was nothing to measure.
    """

    table_name: str
    expectation: str
    column: str
    severity: str
    success: bool
    expected: str
    observed: float | int | str | None
    note: str

    def describe(self) -> str:
        seen = "nothing to measure" if self.observed is None else self.observed
        finding = (
            f"{self.table_name}.{self.column} ({self.expectation}): "
            f"expected {self.expected}, observed {seen}"
        )
        return f"{finding}. {self.note}" if self.note else f"{finding}."


@dataclass(frozen=True)
class Report:
    """Every result of one stage, in the order of the suites."""

    stage: str
    as_of_date: date | None
    version_id: str | None
    results: tuple[Result, ...]

    @property
    def refused(self) -> bool:
        """True when a critical expectation failed: nothing downstream may be published."""
        return any(result.severity == "critical" for result in self.failures)

    @property
    def failures(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if not result.success)

    def rows(self) -> list[dict[str, object]]:
        """Rows for ops.gate_results, keyed by its columns; `observed` is JSON text."""
        return [
            {
                "stage": self.stage,
                "as_of_date": self.as_of_date,
                "version_id": self.version_id,
                "table_name": result.table_name,
                "expectation": result.expectation,
                "column_name": result.column,
                "severity": result.severity,
                "success": result.success,
                "observed": json.dumps(result.observed, allow_nan=False),
            }
            for result in self.results
        ]

    def summary(self) -> str:
        """One paragraph: the verdict, then each failure with what was expected and seen.

        An empty table fails everything asked of it; only its row count is worth reading.
        """
        day = f" of {self.as_of_date}" if self.as_of_date else ""
        gate = f"The {self.stage} gate{day}"
        if not self.failures:
            return f"{gate} passed: all {len(self.results)} expectations hold."
        empty = {r.table_name for r in self.failures if r.column == "row_count"}
        told = [r for r in self.failures if r.table_name not in empty or r.column == "row_count"]
        told.sort(key=lambda result: result.severity != "critical")
        verdict = "refused" if self.refused else "passed with warnings"
        return f"{gate} {verdict}: " + " ".join(
            f"[{result.severity}] {result.describe()}" for result in told
        )
