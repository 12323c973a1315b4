"""Ninety per cent prediction intervals of a window's spend, by split conformal prediction.

A closed window that the model had not seen says how far spend lies from what was expected, as the
ratio actual / expected (Vovk, Gammerman & Shafer, "Algorithmic learning in a random world", 2005;
Lei, G'Sell, Rinaldo, Tibshirani & Wasserman, JASA 113, 2018; scores that are normalised by the
prediction: Papadopoulos, Gammerman & Vovk 2008). Ratios of small and of great customers differ, so
each tenth of customers by expected spend has quantiles of its own (Mondrian bins: Vovk,
"Conditional validity of inductive conformal predictors", ACML 2012). Between the bins the ends are
joined by lines, and they never fall while expected spend rises.

Spend has an atom at 0, which is why this is own code: symmetric intervals reach below 0, and
two-sided ones keep half of the misses for where nobody is. Here whoever may not buy, with a chance
of more than half of the misses, has a lower end of 0, and all misses are left above. Those who are
all but sure to buy have as many misses on either side.

What is exchangeable, and what is not. The promise holds for customers drawn from the same windows;
the next window is another season. What a season does to the total is left to the model, which
corrects the expected spend for it, so every window is set to its own total first and only the
ratios carry over. An interval therefore says how far one customer may be off, and not that the
whole shop is 20 % above its forecast: sums of ends are no interval of a sum. Several windows
together are steadier than one; `windows_to_use` says which.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from ml.metrics import COVERAGE

Array = np.ndarray
Frame = pd.DataFrame

BINS = 10
MIN_ROWS = 50  # in a bin; with fewer the twentieth is one customer or two
SMALLEST = 1e-9  # of the mean expected spend; whoever is expected to spend nothing has a ratio too


@dataclass(frozen=True)
class Curve:
    """The ends by expected spend: straight lines between the knots, and from the outer knots on
    the same share of expected spend.

    Raises ValueError where the columns are no such lines.
    """

    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        columns = [np.asarray(getattr(self, field.name), dtype=float) for field in fields(self)]
        expected, low, high = columns
        if (
            not expected.size
            or any(c.shape != expected.shape or not np.isfinite(c).all() for c in columns)
            or (np.diff(expected, prepend=0) <= 0).any()
            or (low > high).any()
        ):
            raise ValueError(
                "an interval's curve needs as many low and high ends as expected values, these "
                "rising from above 0, and no low end above its high end; fit the intervals again"
            )


@dataclass(frozen=True)
class Intervals:
    """level: share of customers whose spend the interval holds.

    may_not_buy: of customers whose chance not to buy is above (1 - level) / 2; sure_to_buy: of the
    others. One of the two may be None, where there were too few such customers to learn from; the
    other then stands for both.
    """

    level: float
    may_not_buy: Curve | None
    sure_to_buy: Curve | None


def windows_to_use(learned_from: Mapping[date, int], now: int) -> list[date]:
    """Which closed windows to learn intervals from, newest first.

    learned_from: by first day of a closed window, from how many training windows its model learned;
    now: from how many the model learned whose predictions get the intervals. The newest window is
    always there. An older one is left out where its model learned from less than half as many: it
    was further off than today's model is, and the interval would be too wide. Raises ValueError
    where there is no window.
    """
    if not learned_from:
        raise ValueError("intervals need a closed window that the model had not seen")
    newest, *older = sorted(learned_from, reverse=True)
    return [newest, *(day for day in older if 2 * learned_from[day] >= now)]


def held_out_coverage(told: Frame, horizon_days: int) -> float:
    """Share of the newest window's customers whose spend lies in intervals learned from the windows
    that had closed by its first day; NaN where none had, or too few customers are in them.

    told: of customers and windows that the model had not seen, expected_spend,
    purchase_probability, spend and as_of_date, the window's first day.
    """
    day = pd.to_datetime(told["as_of_date"])
    is_newest = (day == day.max()).to_numpy()
    had_closed = (day + pd.Timedelta(days=horizon_days) <= day.max()).to_numpy()
    columns = ("expected_spend", "purchase_probability", "spend", "as_of_date")
    try:
        learned = fit(*(told.loc[had_closed, name].to_numpy() for name in columns))
    except ValueError:
        return math.nan
    expected, probability, actual, _ = (told.loc[is_newest, name].to_numpy() for name in columns)
    low, high = predict(learned, expected, probability)
    return float(((low <= actual) & (actual <= high)).mean())


def fit(
    expected: Array,
    probability: Array,
    actual: Array,
    windows: Array | None = None,
    level: float = COVERAGE,
) -> Intervals:
    """Learn from closed windows that the model had not seen when it predicted them.

    expected (n,) spend, 0 or more; probability (n,) of at least one order; actual (n,) spend net of
    returns; windows (n,) anything that tells the windows apart, such as their first day, None where
    it is one. Each window is there with all customers, or a random part of them. The order of the
    rows changes nothing. Raises ValueError where the columns are not that, where a window has no
    spend, and where there are fewer than 50 customers (more at a level above .96).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    expected, probability, actual = _columns(
        expected=expected, probability=probability, actual=actual
    )
    _check(expected, probability)
    rows = _fewest(level)
    if expected.size < rows:
        raise ValueError(
            f"intervals of {level:.0%} need {rows} customers of a closed window at least, and "
            f"there are {expected.size}; use a day with more customers, or a lower level"
        )
    expected = _set_to_totals(expected, actual, windows)
    sure = _sure(probability, level)
    curves = [
        _curve(expected[chosen], actual[chosen], level, atom) if chosen.sum() >= rows else None
        for chosen, atom in ((~sure, True), (sure, False))
    ]
    if curves == [None, None]:  # two groups that are large enough together
        curves[0] = _curve(expected, actual, level, atom=True)
    return Intervals(level, *curves)


def predict(intervals: Intervals, expected: Array, probability: Array) -> tuple[Array, Array]:
    """The lower and the upper end of each customer's spend, both (n,), from expected (n,) spend and
    probability (n,) of at least one order.

    The lower end is exactly 0 where the customer may not buy. The upper end is never below the
    expected spend: from 0 to 0 would be right for whoever buys with a chance below 1 - level, and
    would read as a mistake beside what they are expected to spend. Such customers are therefore
    held more often than promised, as they are by every interval with 0 in it. A customer's ends do
    not depend on who else is in the columns. Raises ValueError where they are no expected spend and
    chances.
    """
    expected, probability = _columns(expected=expected, probability=probability)
    _check(expected, probability)
    sure = _sure(probability, intervals.level)
    low, high = np.zeros((2, expected.size))
    for chosen, own, other in (
        (~sure, intervals.may_not_buy, intervals.sure_to_buy),
        (sure, intervals.sure_to_buy, intervals.may_not_buy),
    ):
        curve = own or other
        if curve is None:
            raise ValueError("the intervals hold no curve; fit them again")
        low[chosen], high[chosen] = (
            _along(expected[chosen], curve.expected, ends) for ends in (curve.low, curve.high)
        )
    high = np.maximum(high, expected)
    return np.where(sure, np.minimum(low, high), 0.0), high


def to_json(intervals: Intervals) -> dict[str, Any]:
    """Plain numbers for json.dumps."""
    return asdict(intervals)


def from_json(said: dict[str, Any]) -> Intervals:
    """What `to_json` gave. Raises ValueError where it is something else."""
    try:
        curves = {
            name: None
            if said[name] is None
            else Curve(**{k: tuple(v) for k, v in said[name].items()})
            for name in ("may_not_buy", "sure_to_buy")
        }
        return Intervals(float(said["level"]), **curves)
    except (KeyError, TypeError, AttributeError) as wrong:
        raise ValueError(f"these are no intervals ({wrong}); fit them again") from wrong


def _columns(**columns: Array) -> tuple[Array, ...]:
    found = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    shape = found["expected"].shape
    for name, values in found.items():
        if values.ndim != 1 or values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} must hold one finite number for each of the same customers")
    return tuple(found.values())


def _check(expected: Array, probability: Array) -> None:
    if (expected < 0).any():
        raise ValueError(f"{int((expected < 0).sum())} of {expected.size} expect to spend below 0")
    if ((probability < 0) | (probability > 1)).any():
        raise ValueError("probability must lie between 0 and 1")


def _sure(probability: Array, level: float) -> Array:
    """Who is so sure to buy that not buying is no more than half of the misses."""
    return probability >= 1 - (1 - level) / 2


def _fewest(level: float) -> int:
    """Rows of a bin in which the rank of both ends is still the rank of a row."""
    return max(MIN_ROWS, math.ceil(2 / (1 - level)))


def _set_to_totals(expected: Array, actual: Array, windows: Array | None) -> Array:
    """Expected spend that adds up to the actual spend in every window."""
    windows = np.zeros(expected.size, dtype=int) if windows is None else np.asarray(windows)
    if windows.shape != expected.shape:
        raise ValueError("windows must name the window of each of the same customers")
    expected = np.maximum(expected, SMALLEST * expected.mean())
    adjusted = np.empty(expected.size)
    for window in np.unique(windows):
        rows = windows == window
        spent, said = math.fsum(actual[rows]), math.fsum(expected[rows])
        if spent <= 0 or said <= 0:
            raise ValueError(
                f"the {int(rows.sum())} customers of a window spent {spent:.2f} and were expected "
                f"to spend {said:.2f}: intervals need a window with spend"
            )
        adjusted[rows] = expected[rows] * (spent / said)
    return adjusted


def _curve(expected: Array, actual: Array, level: float, atom: bool) -> Curve:
    """The ends of one group. atom: its lower end is 0."""
    order = np.argsort(expected, kind="stable")
    expected, actual = expected[order], actual[order]
    starts = _starts(expected, _fewest(level))
    at, low, high = [], [], []
    for start, end in zip(starts, [*starts[1:], expected.size], strict=True):
        ends = _quantiles(actual[start:end] / expected[start:end], level, atom)
        at.append(float(expected[start:end].mean()))
        low.append(at[-1] * ends[0])
        high.append(at[-1] * ends[1])
    lower, upper = (isotonic_regression(ends).x for ends in (low, high))
    lower = np.minimum(lower, upper)  # rounding must not turn them over
    return Curve(tuple(at), tuple(lower.tolist()), tuple(upper.tolist()))


def _starts(ordered: Array, rows: int) -> list[int]:
    """First row of each bin: equal shares of the rows, each with `rows` at least and equal values
    together."""
    starts, bins = [0], min(BINS, ordered.size // rows)
    for i in range(1, bins):
        start = int(np.searchsorted(ordered, ordered[i * ordered.size // bins]))
        if start - starts[-1] >= rows:
            starts.append(start)
    return starts


def _quantiles(ratios: Array, level: float, atom: bool) -> tuple[float, float]:
    """The ends that hold `level` of one customer more, who is drawn from where these came from.

    With an atom the lower end is 0. Misses that are not below the lower end are left above; whoever
    returned more than they bought is below 0, and is made up for as far as half of the misses go.
    """
    ordered, half = np.sort(ratios), (1 - level) / 2
    ranks = ordered.size + 1
    low = 0.0 if atom else float(ordered[math.floor(ranks * half + 1e-9) - 1])
    below = int((ordered < low).sum()) + (not atom)
    highest = min(_up(ranks * level) + below, _up(ranks * (1 - half)))
    return low, max(low, float(ordered[highest - 1]))


def _up(rank: float) -> int:
    """The next whole rank; 90.00000000000001 is 90."""
    return math.ceil(rank - 1e-9)


def _along(expected: Array, at: Sequence[float], ends: Sequence[float]) -> Array:
    found = np.interp(expected, at, ends)
    for outside, knot, end in (
        (expected < at[0], at[0], ends[0]),
        (expected > at[-1], at[-1], ends[-1]),
    ):
        if end > 0:  # below 0 the end stays where it is, or it would fall
            found = np.where(outside, expected * (end / knot), found)
    return found
