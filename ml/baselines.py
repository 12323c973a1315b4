"""What a model must beat: rules that anybody can write in a line of SQL.

All have the interface of the models: fit(frame, labels, horizon_days) -> model, predict(model,
frame) -> Prediction. Nothing is clipped: a customer who returned more than they bought has a
negative last spend.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pandas as pd

from ml.metrics import Prediction

Frame = pd.DataFrame


class Estimator(NamedTuple):
    """A way to learn from closed windows and to predict the next one.

    fit(frame, labels, horizon_days) -> model; frame and labels are row by row the same customers
    and days. The labels may be of shorter windows than the horizon (their column horizon_days).
    """

    fit: Callable[[Frame, Frame, int], Any]
    predict: Callable[[Any, Frame], Prediction]


def _money(values: pd.Series) -> Prediction:
    spend = values.to_numpy(dtype=float)
    return Prediction(score=spend, expected_spend=spend)


def _fit_mean(frame: Frame, labels: Frame, horizon_days: int) -> float:
    learned_days = labels["horizon_days"].iloc[0] if "horizon_days" in labels else horizon_days
    return float(labels["spend"].mean() * horizon_days / learned_days)


def _predict_mean(mean: float, frame: Frame) -> Prediction:
    return _money(pd.Series(mean, index=frame.index))


def _fit_last_window_spend(frame: Frame, labels: Frame, horizon_days: int) -> tuple[str, float]:
    """The spend_<n>d column nearest to the horizon (as a ratio), and what scales it to the
    horizon."""
    windows = [int(found[1]) for c in frame if (found := re.fullmatch(r"spend_(\d+)d", str(c)))]
    if not windows:
        raise ValueError("last_window_spend needs a column spend_<n>d, and the frame has none")
    days = min(windows, key=lambda n: max(n / horizon_days, horizon_days / n))
    return f"spend_{days}d", horizon_days / days


def _predict_last_window_spend(model: tuple[str, float], frame: Frame) -> Prediction:
    column, scale = model
    return _money(frame[column].astype(float) * scale)


def _predict_spend_rate(horizon_days: int, frame: Frame) -> Prediction:
    """Past spend per day of tenure, over the horizon.

    Tenure counts as at least the horizon: a customer of three days is expected to spend again what
    they spent so far, not thirty times that.
    """
    tenure_days = frame["tenure_days"].clip(lower=horizon_days)
    return _money(frame["monetary_total"].astype(float) / tenure_days * horizon_days)


def _ranked_by(column: str, sign: int = 1) -> Estimator:
    def fit(frame: Frame, labels: Frame, horizon_days: int) -> None:
        return None

    def predict(model: None, frame: Frame) -> Prediction:
        return Prediction(score=sign * frame[column].to_numpy(dtype=float))

    return Estimator(fit, predict)


BASELINES: Mapping[str, Estimator] = {
    "mean": Estimator(_fit_mean, _predict_mean),
    "last_window_spend": Estimator(_fit_last_window_spend, _predict_last_window_spend),
    "spend_rate": Estimator(lambda frame, labels, horizon_days: horizon_days, _predict_spend_rate),
    "order_count": _ranked_by("frequency_orders"),
    "recency": _ranked_by("recency_days", sign=-1),
    "rfm_score": _ranked_by("rfm_score"),
}
