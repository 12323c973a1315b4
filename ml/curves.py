"""Points of the curves by which a ranking and a forecast of spend are judged. No I/O."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.backtest import Backtest

PARTS = 20  # of a gain curve: every twentieth of the customers
TENTHS = 10


class Point(NamedTuple):
    """A point of a candidate's curve of this kind, at this place along it."""

    candidate: str
    kind: str
    position: int
    x: float
    y: float


def gain(spend: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of customers and of spend at the end of each group of equal scores, from (0, 0)."""
    by_score = pd.DataFrame({"spend": spend, "one": 1.0}).groupby(-np.asarray(score)).sum().cumsum()
    total = by_score["spend"].iloc[-1] or np.nan
    return np.r_[0, by_score["one"] / len(spend)], np.r_[0, by_score["spend"] / total]


def calibration(spend: np.ndarray, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean expected and mean actual spend of each tenth of the customers, highest expected first;
    NaN where there are fewer customers than tenths."""
    tenths = np.array_split(np.argsort(-expected, kind="stable"), TENTHS)
    means = [
        [values[rows].mean() if rows.size else np.nan for rows in tenths]
        for values in (expected, spend)
    ]
    return np.array(means[0]), np.array(means[1])


def points(judged: Backtest) -> list[Point]:
    """The curves of every candidate on the newest origin: `gain` at every twentieth of the
    customers, and `calibration` by tenths, of those that expect an amount."""
    newest = judged.newest
    found = []
    for name, prediction in newest.predictions.items():
        shares = np.linspace(0, 1, PARTS + 1)
        curves = {"gain": (shares, np.interp(shares, *gain(newest.spend, prediction.score)))}
        if prediction.expected_spend is not None:
            curves["calibration"] = calibration(newest.spend, prediction.expected_spend)
        for kind, (x, y) in curves.items():
            places = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
            found += [Point(name, kind, int(n), float(x[n]), float(y[n])) for n in places]
    return found
