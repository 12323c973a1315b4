"""How a prediction is judged, with bootstrap intervals. Pure numpy.

Every metric is written for weighted customers: `weights` has shape (customers, draws), column 0 is
all ones (the point estimate) and the others hold how often a bootstrap resample drew each customer.
One code path therefore gives the estimate and its interval, and two predictions judged with the
same weights are paired.

Customers with equal scores count as if they stood in every possible order: a constant score has a
capture of exactly 10 %, whatever order the customers arrive in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Draws = dict[str, Array]

# The column "better" points to: +1 more is better, -1 less is better, 0 closer to 1 is better.
DIRECTIONS: Mapping[str, int] = {
    "spearman": 1,
    "normalized_gini": 1,
    "auroc_active": 1,
    "capture_top10": 1,
    "sum_ratio": 0,
    "mae": -1,
    "rmse": -1,
    "decile_mape": -1,
    "average_precision": 1,
    "precision": 1,
    "recall": 1,
    "f1": 1,
    "ece": -1,
}
TOP_SHARE = 0.10
OPERATING_POINT = 0.5  # whoever is as likely to buy as this is called a buyer
CONFUSION = ("true_positives", "false_positives", "false_negatives", "true_negatives")
DECILES = 10


@dataclass(frozen=True)
class Prediction:
    """What a model says of n customers, in the order of the frame it was given.

    score: (n,) higher is worth more; any scale. expected_spend: (n,) in the shop's currency over
    the horizon, or None where the model only ranks. purchase_probability: (n,) of at least one
    order in the horizon, or None.
    """

    score: Array
    expected_spend: Array | None = None
    purchase_probability: Array | None = None

    def __post_init__(self) -> None:
        for name in ("score", "expected_spend", "purchase_probability"):
            values = getattr(self, name)
            if values is None:
                continue
            if values.shape != self.score.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must hold one finite number for each of {self.score.size} customers"
                )


@dataclass(frozen=True)
class Outcome:
    """What came after: spend (n,) net of returns, purchased (n,) at least one order."""

    spend: Array
    purchased: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "spend", np.asarray(self.spend, dtype=float))
        object.__setattr__(self, "purchased", np.asarray(self.purchased, dtype=float))
        if self.spend.ndim != 1 or self.spend.shape != self.purchased.shape or not self.spend.size:
            raise ValueError(
                "spend and purchased must be two columns of the same customers, at least one"
            )


class _Ranking:
    """Customers in ascending order of a score, equal scores gathered into groups."""

    def __init__(self, score: Array, weights: Array) -> None:
        self.order = np.argsort(score, kind="stable")
        ordered = score[self.order]
        starts = np.r_[True, ordered[1:] != ordered[:-1]]
        self.starts = np.flatnonzero(starts)
        self.group_of = np.empty(score.size, dtype=np.intp)
        self.group_of[self.order] = np.cumsum(starts) - 1
        self.rows = self.total(weights)  # (groups, draws)
        self.rows_through = np.cumsum(self.rows, axis=0)

    def total(self, values: Array) -> Array:
        """Sum of values (n, draws) in each group: (groups, draws)."""
        if self.starts.size == self.order.size:
            return values[self.order]
        return np.add.reduceat(values[self.order], self.starts, axis=0)

    def best_first(self, values: Array) -> tuple[Array, Array]:
        """Cumulated rows and values of the groups, best group first: two (groups, draws)."""
        return np.cumsum(self.rows[::-1], axis=0), np.cumsum(self.total(values)[::-1], axis=0)


def _midranks(ranking: _Ranking) -> Array:
    return (ranking.rows_through - ranking.rows / 2)[ranking.group_of]


def _correlation(a: Array, b: Array, weights: Array) -> Array:
    n = weights.sum(axis=0)
    a = a - (weights * a).sum(axis=0) / n
    b = b - (weights * b).sum(axis=0) / n
    weighted = weights * a
    spread = (weighted * a).sum(axis=0) * (weights * b * b).sum(axis=0)
    return _ratio((weighted * b).sum(axis=0), np.sqrt(spread))


def _ratio(numerator: Array, denominator: Array) -> Array:
    return np.divide(
        numerator,
        denominator,
        out=np.full(np.shape(numerator), np.nan),
        where=np.abs(denominator) > 1e-12,
    )


def _gini(ranking: _Ranking, spend: Array) -> Array:
    """2 x mean of the cumulative share of spend, best score first, minus 1 (`spend` is weighted,
    (n, draws)).

    Over that of the perfect order it is the normalised Gini of Google's lifetime_value project
    (Wang, Liu & Miao 2019, "A deep probabilistic model for customer lifetime value prediction").
    """
    value = ranking.total(spend)[::-1]
    rows = ranking.rows[::-1]
    before = np.cumsum(value, axis=0) - value
    area = (rows * before + value * (rows + 1) / 2).sum(axis=0)
    return 2 * _ratio(area, rows.sum(axis=0) * value.sum(axis=0)) - 1


def _through(ranking: _Ranking, values: Array, shares: Array) -> Array:
    """Sum of weighted values in the best `shares` of the rows: (shares, draws)."""
    rows, cumulated = ranking.best_first(values)
    count = rows[-1]
    found = np.empty((shares.size, count.size))
    for draw in range(count.size):
        wanted = shares * count[draw]
        found[:, draw] = np.interp(wanted, np.r_[0, rows[:, draw]], np.r_[0, cumulated[:, draw]])
    return found


def _auroc(ranking: _Ranking, positives: Array) -> Array:
    """Chance that a buyer scores higher than a non-buyer, ties half."""
    positive = ranking.total(positives)
    negative = ranking.rows - positive
    negative_below = np.cumsum(negative, axis=0) - negative
    won = (positive * (negative_below + negative / 2)).sum(axis=0)
    return _ratio(won, positive.sum(axis=0) * negative.sum(axis=0))


def _average_precision(ranking: _Ranking, positives: Array) -> Array:
    rows, found = ranking.best_first(positives)
    precision = np.divide(found, rows, out=np.zeros_like(found), where=rows > 0)
    gained = np.diff(found, axis=0, prepend=0)
    return _ratio((gained * precision).sum(axis=0), found[-1])


def _confusion(probability: Array, positives: Array, weights: Array) -> Draws:
    """How many were called buyers and bought, and so on: a (draws,) for each of CONFUSION."""
    called = probability >= OPERATING_POINT
    hits = positives[called].sum(axis=0)
    false_alarms = weights[called].sum(axis=0) - hits
    misses = positives[~called].sum(axis=0)
    rest = weights[~called].sum(axis=0) - misses
    return dict(zip(CONFUSION, (hits, false_alarms, misses, rest), strict=True))


def _ece(probability: Array, purchased: Array, weights: Array, bins: int = 10) -> Array:
    """Expected calibration error over bins of equal width (Naeini et al., 2015)."""
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    error = weights * (probability - purchased)[:, None]
    by_bin = np.zeros((bins, weights.shape[1]))
    np.add.at(by_bin, bin_of, error)
    return np.abs(by_bin).sum(axis=0) / weights.sum(axis=0)


def _decile_mape(ranking: _Ranking, predicted: Array, actual: Array) -> Array:
    shares = np.arange(1, DECILES + 1) / DECILES
    in_decile = [
        np.diff(_through(ranking, v, shares), axis=0, prepend=0) for v in (predicted, actual)
    ]
    off = np.abs(_ratio(in_decile[0] - in_decile[1], in_decile[1]))
    known = np.isfinite(off)
    return _ratio(np.where(known, off, 0).sum(axis=0), known.sum(axis=0).astype(float))


def resample_weights(customers: int, resamples: int, seed: int) -> Array:
    """(customers, 1 + resamples): a column of ones, then how often each resample drew each
    customer."""
    rng = np.random.default_rng(seed)
    weights = np.ones((customers, 1 + resamples))
    for draw in range(1, 1 + resamples):
        weights[:, draw] = np.bincount(rng.integers(0, customers, customers), minlength=customers)
    return weights


class Judge:
    """Judges predictions of the same customers on the same resamples.

    What depends on the outcome alone (its ranks, the perfect order) is worked out once.
    """

    def __init__(self, outcome: Outcome, weights: Array) -> None:
        self.outcome = outcome
        self.weights = weights
        self.spend = weights * outcome.spend[:, None]
        self.positives = weights * outcome.purchased[:, None]
        perfect = _Ranking(outcome.spend, weights)
        self.actual_ranks = _midranks(perfect)
        self.perfect_gini = _gini(perfect, self.spend)
        self.actual_sum = self.spend.sum(axis=0)

    def draws(self, prediction: Prediction) -> Draws:
        """Every metric as (draws,), the sums that pooled ratios are made of, and the counts of
        CONFUSION.

        spearman, normalized_gini and capture_top10 judge `score`; auroc_active judges
        `purchase_probability` where there is one, else `score`; average_precision, ece, and at the
        operating point precision, recall, f1 and CONFUSION judge `purchase_probability`; the errors
        judge `expected_spend`. What cannot be had is NaN.
        """
        weights = self.weights
        rows = weights.sum(axis=0)
        unknown = np.full(rows.shape, np.nan)
        by_score = _Ranking(prediction.score, weights)
        captured = _through(by_score, self.spend, np.array([TOP_SHARE]))[0]
        found = {
            "spearman": _correlation(_midranks(by_score), self.actual_ranks, weights),
            "normalized_gini": _ratio(_gini(by_score, self.spend), self.perfect_gini),
            "capture_top10": _ratio(captured, self.actual_sum),
            "predicted_sum": unknown,
            "actual_sum": self.actual_sum,
        }
        found = {**dict.fromkeys((*DIRECTIONS, *CONFUSION), unknown), **found}
        probability = prediction.purchase_probability
        by_activity = by_score if probability is None else _Ranking(probability, weights)
        found["auroc_active"] = _auroc(by_activity, self.positives)
        if probability is not None:
            found["average_precision"] = _average_precision(by_activity, self.positives)
            found["ece"] = _ece(probability, self.outcome.purchased, weights)
            found |= _confusion(probability, self.positives, weights)
            hits, false_alarms, misses, _ = (found[count] for count in CONFUSION)
            found["precision"] = _ratio(hits, hits + false_alarms)
            found["recall"] = _ratio(hits, hits + misses)
            found["f1"] = _ratio(2 * hits, 2 * hits + false_alarms + misses)
        expected = prediction.expected_spend
        if expected is not None:
            by_spend = by_score if expected is prediction.score else _Ranking(expected, weights)
            predicted = weights * expected[:, None]
            error = (expected - self.outcome.spend)[:, None]
            found["predicted_sum"] = predicted.sum(axis=0)
            found["sum_ratio"] = _ratio(found["predicted_sum"], self.actual_sum)
            found["mae"] = (weights * np.abs(error)).sum(axis=0) / rows
            found["rmse"] = np.sqrt((weights * error**2).sum(axis=0) / rows)
            found["decile_mape"] = _decile_mape(by_spend, predicted, self.spend)
        return found


def goodness(metric: str, values: Array) -> Array:
    """The metric turned so that more is better: of sum_ratio, minus its distance from 1."""
    direction = DIRECTIONS[metric]
    return values * direction if direction else -np.abs(values - 1)


def interval(draws: Array, level: float = 0.90) -> tuple[float, float]:
    """Percentile interval of the resamples draws[1:]; NaN where the metric is not to be had."""
    drawn = draws[1:][np.isfinite(draws[1:])]
    if not drawn.size:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
