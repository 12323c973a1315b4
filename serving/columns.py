"""What the columns of the analysts' views are, so that every page writes them alike."""

import math
from typing import Any, Literal

Kind = Literal["count", "money", "share", "number"]

KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            "customers", "customers_change", "customers_up", "customers_down", "customers_new",
            "days_in_tier", "rows", "holding", "failing", "warnings", "segments",
        ),
        "count",
    ),
    **dict.fromkeys(
        (
            "expected_spend", "expected_spend_low", "expected_spend_high", "realised_spend",
            "spend_at_risk", "previous_expected_spend", "mae", "age_hours", "deadline_hours",
        ),
        "money",
    ),
    **dict.fromkeys(
        (
            "customer_share", "expected_share", "share", "share_of_previous",
            "purchase_probability", "purchase_probability_mean", "churn_probability",
            "high_value_probability", "evaluated_expected_share", "evaluated_realised_share",
            "precision", "recall", "f1", "raising_share",
        ),
        "share",
    ),
    **dict.fromkeys(
        (
            "lift", "effect", "normalized_gini", "capture_top10", "spearman", "auroc_active",
            "sum_ratio",
        ),
        "number",
    ),
}  # fmt: skip
FORMATS: dict[Kind, str] = {"count": ",.0f", "money": ",.0f", "share": ".1%", "number": ".3f"}


def written(name: str, value: Any) -> str:
    """A value of this column as people write it; nothing is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return format(float(value), FORMATS[KINDS[name]]) if name in KINDS else str(value)
