"""Models and baselines on the same customers, days and resamples. Frames in, numbers out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pandas as pd

from ml import cutoffs, lightgbm_hurdle
from ml.baselines import BASELINES, Estimator
from ml.metrics import (
    CONFUSION,
    DIRECTIONS,
    Draws,
    Judge,
    Outcome,
    Prediction,
    goodness,
    interval,
    resample_weights,
)

Frame = pd.DataFrame
Metrics = dict[str, float]

KEY = ["customer_id", "as_of_date"]
MODELS: Mapping[str, Estimator] = {
    "lightgbm_hurdle": Estimator(lightgbm_hurdle.fit, lightgbm_hurdle.predict)
}


@dataclass(frozen=True)
class Origin:
    """One test day: its metrics by model, the best baseline by metric, and the counts of CONFUSION
    by model that gives a probability."""

    as_of_date: date
    customers: int
    training_cutoffs: tuple[date, ...]
    models: dict[str, Metrics]
    best_baseline: dict[str, str]
    confusion: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Newest:
    """The newest origin in full, for figures and for tiers of customers no model has seen."""

    as_of_date: date
    customer_id: np.ndarray
    spend: np.ndarray
    purchased: np.ndarray
    predictions: dict[str, Prediction]
    fitted: dict[str, object]


@dataclass(frozen=True)
class Backtest:
    """origins: oldest first. pooled: the mean over the origins, but sum_ratio is sum over sum."""

    horizon_days: int
    origins: tuple[Origin, ...]
    pooled: dict[str, Metrics]
    best_baseline: dict[str, str]
    newest: Newest = field(repr=False)

    def to_json(self) -> dict:
        """Plain values for json.dumps; what a model cannot have is null."""
        return {
            "horizon_days": self.horizon_days,
            "pooled": {name: _plain(metrics) for name, metrics in self.pooled.items()},
            "best_baseline": self.best_baseline,
            "origins": [
                {
                    "as_of_date": origin.as_of_date.isoformat(),
                    "customers": origin.customers,
                    "training_cutoffs": [cutoff.isoformat() for cutoff in origin.training_cutoffs],
                    "models": {name: _plain(metrics) for name, metrics in origin.models.items()},
                    "best_baseline": origin.best_baseline,
                    "confusion": origin.confusion,
                }
                for origin in self.origins
            ],
        }


def run(
    features: Frame,
    labels: Frame,
    origins: Sequence[date],
    horizon_days: int,
    models: Mapping[str, Estimator] = MODELS,
    baselines: Mapping[str, Estimator] = BASELINES,
    resamples: int = 200,
    seed: int = 0,
    step_days: int = cutoffs.STEP_DAYS,
    max_cutoffs: int = cutoffs.MAX_CUTOFFS,
    say: Callable[[str], None] = lambda message: None,
) -> Backtest:
    """Fit every model on the training cutoffs of an origin, judge it on the origin, for each.

    features, labels: one row per customer_id and as_of_date of every origin and of its training
    cutoffs (`cutoffs.training_cutoffs`); labels of this horizon only. Intervals are 90 % bootstrap
    percentiles, `<metric>_low` and `_high`. A model's `<metric>_gain` with its interval is how much
    better it is than the best baseline of that metric, paired: positive is better whatever the
    metric's direction (for sum_ratio: closer to 1). `say` is told which origin and model come next.
    Raises ValueError where a day is missing or a customer has no label.
    """
    features = features.sort_values(KEY[::-1], kind="stable", ignore_index=True)
    labels = _labels_of(features, labels, horizon_days)
    learned_from = _training_cutoffs(features, origins, horizon_days, step_days, max_cutoffs)
    judged: list[Origin] = []
    drawn: list[dict[str, Draws]] = []
    for origin, training in learned_from.items():
        train, train_labels = _rows(features, labels, training)
        test, test_labels = _rows(features, labels, (origin,))
        judge = Judge(
            Outcome(test_labels["spend"].to_numpy(), test_labels["is_purchased"].to_numpy()),
            resample_weights(len(test), resamples, seed),
        )
        fitted, predictions, draws = {}, {}, {}
        for name, estimator in {**baselines, **models}.items():
            say(f"{origin}: {name}")
            fitted[name] = estimator.fit(train, train_labels, horizon_days)
            predictions[name] = estimator.predict(fitted[name], test)
            draws[name] = judge.draws(predictions[name])
        metrics, best = _compare(draws, tuple(baselines), tuple(models))
        confusion = {
            name: {count: int(found[count][0]) for count in CONFUSION}
            for name, found in draws.items()
            if predictions[name].purchase_probability is not None
        }
        judged.append(Origin(origin, len(test), training, metrics, best, confusion))
        drawn.append(draws)
        newest = Newest(
            origin,
            test["customer_id"].to_numpy(),
            judge.outcome.spend,
            judge.outcome.purchased,
            predictions,
            fitted,
        )
    together = {name: _pool([draws[name] for draws in drawn]) for name in drawn[0]}
    pooled, best = _compare(together, tuple(baselines), tuple(models))
    return Backtest(horizon_days, tuple(judged), pooled, best, newest)


def _labels_of(features: Frame, labels: Frame, horizon_days: int) -> Frame:
    """The labels in the order of the features."""
    if "horizon_days" in labels and (labels["horizon_days"] != horizon_days).any():
        raise ValueError(f"the labels hold other horizons than the {horizon_days} days asked for")
    joined = features[KEY].merge(labels, on=KEY, how="left", validate="one_to_one")
    unlabelled = joined["spend"].isna()
    if unlabelled.any():
        raise ValueError(
            f"{int(unlabelled.sum())} customers have features and no label, the first on "
            f"{joined.loc[unlabelled, 'as_of_date'].min():%Y-%m-%d}; build both for the same days"
        )
    return joined


def _training_cutoffs(
    features: Frame, origins: Sequence[date], horizon_days: int, step_days: int, max_cutoffs: int
) -> dict[date, tuple[date, ...]]:
    """By origin, oldest first."""
    days = {stamp.date() for stamp in features["as_of_date"].unique()}
    missing = sorted(set(origins) - days)
    if missing or not origins:
        raise ValueError(
            f"no features of the test origins {', '.join(map(str, missing)) or '(none)'}"
        )
    return {
        origin: cutoffs.training_cutoffs_among(days, origin, horizon_days, step_days, max_cutoffs)
        for origin in sorted(set(origins))
    }


def _rows(features: Frame, labels: Frame, days: Sequence[date]) -> tuple[Frame, Frame]:
    chosen = features["as_of_date"].isin(pd.to_datetime(list(days)))
    return features[chosen].reset_index(drop=True), labels[chosen].reset_index(drop=True)


def _pool(drawn: list[Draws]) -> Draws:
    pooled = {metric: np.mean([d[metric] for d in drawn], axis=0) for metric in DIRECTIONS}
    sums = [np.sum([d[name] for d in drawn], axis=0) for name in ("predicted_sum", "actual_sum")]
    pooled["sum_ratio"] = np.divide(*sums, out=np.full(sums[0].shape, np.nan), where=sums[1] != 0)
    return pooled


def _compare(
    draws: dict[str, Draws], baselines: tuple[str, ...], models: tuple[str, ...]
) -> tuple[dict[str, Metrics], dict[str, str]]:
    """Point, interval and gain of every metric by model, and which baseline is the best of each."""
    best: dict[str, str] = {}
    for metric in DIRECTIONS:
        points = {name: float(goodness(metric, draws[name][metric])[0]) for name in baselines}
        points = {name: point for name, point in points.items() if math.isfinite(point)}
        if points:
            best[metric] = max(points, key=points.__getitem__)
    compared: dict[str, Metrics] = {}
    for name, found in draws.items():
        metrics: Metrics = {}
        for metric in DIRECTIONS:
            metrics[metric] = float(found[metric][0])
            metrics[f"{metric}_low"], metrics[f"{metric}_high"] = interval(found[metric])
            if name in models and metric in best:
                gain = goodness(metric, found[metric]) - goodness(
                    metric, draws[best[metric]][metric]
                )
                metrics[f"{metric}_gain"] = float(gain[0])
                metrics[f"{metric}_gain_low"], metrics[f"{metric}_gain_high"] = interval(gain)
        compared[name] = metrics
    return compared, best


def _plain(metrics: Metrics) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
