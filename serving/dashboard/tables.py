"""How columns read in the pages' tables: headings, numbers, and which columns where."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from serving.columns import KINDS
from serving.texts import Say

TIERS = (
    "tier", "customers", "customers_change", "expected_spend", "expected_share",
    "purchase_probability_mean", "evaluated_expected_share", "evaluated_realised_share",
)  # fmt: skip
CUSTOMERS = (
    "customer_id", "tier", "movement", "days_in_tier", "expected_spend", "expected_spend_low",
    "expected_spend_high", "purchase_probability", "churn_probability", "next_order_date",
    "segment", "top_category", "country",
)  # fmt: skip
EVALUATION = (
    "as_of_date", "tier", "customers", "expected_spend", "realised_spend", "share", "lift",
    "precision", "recall", "f1",
)  # fmt: skip
GATES = ("stage", "as_of_date", "holding", "failing", "warnings", "checked_at")
SEGMENTS = ("segment", "customers", "share", "expected_spend", "expected_share", "description")
FAILING = (
    "severity", "stage", "table_name", "column_name", "expectation", "observed", "as_of_date",
)  # fmt: skip
QUARANTINE = ("table_name", "reason", "rows")
FACTS = ("fact", "value")
FRESHNESS = ("table_name", "is_stale", "age_hours", "deadline_hours", "as_of_date", "updated_at")
PUBLISH_LOG = (
    "published_at", "action", "as_of_date", "version_id", "previous_version_id", "customers",
    "run_id",
)  # fmt: skip
FORMATS = {"count": "%,d", "money": "%,.0f", "share": "percent", "number": "%.3f"}


def show(frame: pd.DataFrame, columns: Sequence[str], say: Say, **options: Any) -> Any:
    """A table with these of its columns, as far as it has them; what was selected in it."""
    shown = [name for name in columns if name in frame]
    return st.dataframe(
        frame[shown],
        hide_index=True,
        placeholder="–",
        column_config={name: _heading(name, say) for name in shown},
        **options,
    )


def _heading(name: str, say: Say) -> Any:
    """Streamlit's column_config."""
    if name in KINDS:
        return st.column_config.NumberColumn(say(name), format=FORMATS[KINDS[name]])
    if name in ("checked_at", "updated_at", "published_at"):
        return st.column_config.DatetimeColumn(say(name), format="YYYY-MM-DD HH:mm")
    return st.column_config.Column(say(name))
