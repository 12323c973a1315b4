"""How a prediction is judged, with bootstrap intervals. Pure numpy.

Every metric is written for weighted customers: `weights` has shape (customers, draws), column 0 is
all ones (the point estimate) and the others hold how often a bootstrap resample drew each customer.
One code path therefore gives the estimate and its interval, and two predictions judged with the
same weights are paired.

Customers with equal scores count as if they stood in every possible order: a constant score has a
capture of exactly 10 %, whatever order the customers arrive in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

Array = np.ndarray
Draws = dict[str, Array]

# The column "better" points to: +1 more is better, -1 less is better, 0 closer to its target.
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
    "auroc_high_value": 1,
    "average_precision_high_value": 1,
    "precision_high_value": 1,
    "recall_high_value": 1,
    "f1_high_value": 1,
    "coverage": 0,
    "interval_width": -1,
}
COVERAGE = 0.90  # share of customers whose spend their prediction interval promises to hold
TARGETS: Mapping[str, float] = {"sum_ratio": 1.0, "coverage": COVERAGE}
TOP_SHARE = 0.10
OPERATING_POINT = 0.5  # whoever is as likely to buy as this is called a buyer
CONFUSION = ("true_positives", "false_positives", "false_negatives", "true_negatives")
CONFUSION_HIGH_VALUE = tuple(f"{count}_high_value" for count in CONFUSION)
DECILES = 10


@dataclass(frozen=True)
class Prediction:
    """What a model says of n customers, in the order of the frame it was given.

    score: (n,) higher is worth more; any scale. ranking: (n,) what orders customers by how much
    they will have spent when most will have spent nothing (`with_the_silent_tied`), or None where
    `score` does that too.
    expected_spend: (n,) in the shop's currency over
    the horizon, or None where the model only ranks. purchase_probability: (n,) of at least one
    order in the horizon, or None. high_value_probability: (n,) of standing in the top decile of
    spend of the horizon, or None. low, high: (n,) ends of the interval that holds the spend of
    COVERAGE of the customers, both or neither.
    """

    score: Array
    expected_spend: Array | None = None
    purchase_probability: Array | None = None
    high_value_probability: Array | None = None
    low: Array | None = None
    high: Array | None = None
    ranking: Array | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            name, values = field.name, getattr(self, field.name)
            if values is None:
                continue
            if values.shape != self.score.shape or not np.isfinite(values).all():
                raise ValueError(
                    f"{name} must hold one finite number for each of {self.score.size} customers"
                )
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends: give both low and high, or neither")
        if self.low is not None and self.high is not None and (self.low > self.high).any():
            raise ValueError("low must not be above high")

    @property
    def high_value_score(self) -> Array:
        """(n,) what says who will be of high value: the probability of it, where the model only
        ranks its score."""
        probability = self.high_value_probability
        return self.score if probability is None else probability


def with_the_silent_tied(values: Array, purchase_probability: Array) -> Array:
    """values (n,), of which as many of the smallest as are expected to buy nothing are one value,
    where those are most customers.

    Those who buy nothing all spend the same, so in what will have been spent they share a rank.
    Where they are the many, an order among those who most likely are them is an order of noise, and
    a rank correlation, which spreads ranks evenly, would give most of its room to it. How many they
    are follows from purchase_probability (n,).
    """
    silent = round(float((1 - purchase_probability).sum()))
    if 2 * silent <= values.size:
        return values
    return np.maximum(values, np.partition(values, silent - 1)[silent - 1])


@dataclass(frozen=True)
class Outcome:
    """What came after: spend (n,) net of returns, purchased (n,) at least one order, high_value
    (n,) in the top decile of spend, or None where nobody asks."""

    spend: Array
    purchased: Array
    high_value: Array | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            if values is None:
                continue
            values = np.asarray(values, dtype=float)
            object.__setattr__(self, field.name, values)
            if values.ndim != 1 or values.shape != self.spend.shape or not values.size:
                raise ValueError(
                    f"{field.name} must be a column of the same customers as spend, at least one"
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


def _through(ranking: _Ranking, values: Array, wanted: Array) -> Array:
    """Sum of weighted values in the best `wanted` (k, draws) rows: (k, draws)."""
    rows, cumulated = ranking.best_first(values)
    found = np.empty_like(wanted)
    for draw in range(found.shape[1]):
        known = np.r_[0, rows[:, draw]], np.r_[0, cumulated[:, draw]]
        found[:, draw] = np.interp(wanted[:, draw], *known)
    return found


def _auroc(ranking: _Ranking, positives: Array) -> Array:
    """Chance that a positive (a buyer, say) scores higher than a negative, ties half."""
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


def _confusion_of_the_first_tenth(ranking: _Ranking, positives: Array, weights: Array) -> Draws:
    """The same where the tenth ranked first is called high value, whatever its probability.

    The label is a tenth by definition, so nobody need be likelier than not to be in it, and .5
    would call nobody. A tenth asks every model for as many names, those that only rank too, and a
    probability that runs high or low costs nothing here. As many are called as the label has room
    for: a tenth rounded up. Equal scores share the last places: a count is a mean over their orders
    and need not be whole.
    """
    rows = weights.sum(axis=0)
    called = np.ceil(rows / DECILES)
    hits = _through(ranking, positives, called[None])[0]
    misses = positives.sum(axis=0) - hits
    false_alarms = called - hits
    counts = hits, false_alarms, misses, rows - called - misses
    return dict(zip(CONFUSION_HIGH_VALUE, counts, strict=True))


def _precision_recall_f1(counts: Draws) -> tuple[Array, Array, Array]:
    hits, false_alarms, misses, _ = counts.values()
    return (
        _ratio(hits, hits + false_alarms),
        _ratio(hits, hits + misses),
        _ratio(2 * hits, 2 * hits + false_alarms + misses),
    )


def _ece(probability: Array, purchased: Array, weights: Array, bins: int = 10) -> Array:
    """Expected calibration error over bins of equal width (Naeini et al., 2015)."""
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    error = weights * (probability - purchased)[:, None]
    by_bin = np.zeros((bins, weights.shape[1]))
    np.add.at(by_bin, bin_of, error)
    return np.abs(by_bin).sum(axis=0) / weights.sum(axis=0)


def _decile_mape(ranking: _Ranking, predicted: Array, actual: Array) -> Array:
    shares = np.arange(1, DECILES + 1)[:, None] / DECILES
    ends = shares * ranking.rows_through[-1]
    in_decile = [
        np.diff(_through(ranking, v, ends), axis=0, prepend=0) for v in (predicted, actual)
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
        high_value = outcome.high_value
        self.high_value = None if high_value is None else weights * high_value[:, None]
        kept = np.clip(outcome.spend, 0, None)
        self.kept = weights * kept[:, None]
        perfect = _Ranking(kept, weights)
        self.actual_ranks = _midranks(perfect)
        self.perfect_gini = _gini(perfect, self.kept)
        self.actual_sum = self.spend.sum(axis=0)

    def draws(self, prediction: Prediction) -> Draws:
        """Every metric as (draws,), the sums that pooled ratios are made of, and the counts of
        CONFUSION and CONFUSION_HIGH_VALUE.

        normalized_gini and capture_top10 judge `score`, and so does spearman where there is no
        `ranking`. A customer who only sent back what they had bought before counts as one who spent
        nothing in spearman and in normalized_gini, which is not defined for less; money is net
        everywhere else. auroc_active judges
        `purchase_probability` where there is one, else `score`; average_precision, ece, and at the
        operating point precision, recall, f1 and CONFUSION judge `purchase_probability`; whatever
        ends in `_high_value` judges `high_value_probability` where there is one, else `score`, with
        the tenth ranked first called high value; the errors judge `expected_spend`; coverage (the
        share of customers whose spend lies from `low` to `high`, both ends included) and
        interval_width (mean width over mean spend) judge the interval. What cannot be had is NaN.
        """
        weights = self.weights
        rows = weights.sum(axis=0)
        unknown = np.full(rows.shape, np.nan)
        by_score = _Ranking(prediction.score, weights)
        ranking = prediction.ranking
        by_ranking = by_score if ranking is None else _Ranking(ranking, weights)
        captured = _through(by_score, self.spend, TOP_SHARE * rows[None])[0]
        found = {
            "spearman": _correlation(_midranks(by_ranking), self.actual_ranks, weights),
            "normalized_gini": _ratio(_gini(by_score, self.kept), self.perfect_gini),
            "capture_top10": _ratio(captured, self.actual_sum),
            "predicted_sum": unknown,
            "actual_sum": self.actual_sum,
        }
        names = (*DIRECTIONS, *CONFUSION, *CONFUSION_HIGH_VALUE)
        found = {**dict.fromkeys(names, unknown), **found}
        probability = prediction.purchase_probability
        by_activity = by_score if probability is None else _Ranking(probability, weights)
        found["auroc_active"] = _auroc(by_activity, self.positives)
        if probability is not None:
            found["average_precision"] = _average_precision(by_activity, self.positives)
            found["ece"] = _ece(probability, self.outcome.purchased, weights)
            counts = _confusion(probability, self.positives, weights)
            found |= counts
            found["precision"], found["recall"], found["f1"] = _precision_recall_f1(counts)
        if self.high_value is not None:
            ranks_by = prediction.high_value_score
            by_value = by_score if ranks_by is prediction.score else _Ranking(ranks_by, weights)
            counts = _confusion_of_the_first_tenth(by_value, self.high_value, weights)
            found |= counts
            found["auroc_high_value"] = _auroc(by_value, self.high_value)
            found["average_precision_high_value"] = _average_precision(by_value, self.high_value)
            shares = _precision_recall_f1(counts)
            for name, share in zip(("precision", "recall", "f1"), shares, strict=True):
                found[f"{name}_high_value"] = share
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
        low, high = prediction.low, prediction.high
        if low is not None and high is not None:
            held = (low <= self.outcome.spend) & (self.outcome.spend <= high)
            width = (weights * (high - low)[:, None]).sum(axis=0)
            found["coverage"] = (weights * held[:, None]).sum(axis=0) / rows
            found["interval_width"] = _ratio(width, self.actual_sum)
        return found


def goodness(metric: str, values: Array) -> Array:
    """The metric turned so that more is better: minus the distance from its target where it has
    one in TARGETS."""
    direction = DIRECTIONS[metric]
    return values * direction if direction else -np.abs(values - TARGETS[metric])


def interval(draws: Array, level: float = 0.90) -> tuple[float, float]:
    """Percentile interval of the resamples draws[1:]; NaN where the metric is not to be had."""
    drawn = draws[1:][np.isfinite(draws[1:])]
    if not drawn.size:
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
