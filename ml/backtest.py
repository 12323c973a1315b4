"""Models and baselines on the same customers, days and resamples. Frames in, numbers out."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from ml import customer_hash, cutoffs, lightgbm_hurdle
from ml.baselines import BASELINES as RULES
from ml.baselines import Estimator
from ml.btyd import BTYD
from ml.classifiers import CLASSIFIERS
from ml.metrics import (
    CONFUSION,
    CONFUSION_HIGH_VALUE,
    DIRECTIONS,
    Draws,
    Judge,
    Outcome,
    Prediction,
    goodness,
    interval,
    resample_weights,
)
from ml.streams import Streams

Frame = pd.DataFrame
Metrics = dict[str, float]

KEY = ["customer_id", "as_of_date"]
SEED = 0
QUICK_BASELINES: Mapping[str, Estimator] = {**RULES, **BTYD}
BASELINES: Mapping[str, Estimator] = {**QUICK_BASELINES, **CLASSIFIERS}


def hurdle(config: lightgbm_hurdle.Config) -> Estimator:
    """The hurdle model with these settings."""
    return Estimator(partial(lightgbm_hurdle.fit, config=config), lightgbm_hurdle.predict)


TREES = lightgbm_hurdle.Config()
MODELS: Mapping[str, Estimator] = {"lightgbm_hurdle": hurdle(TREES)}
# What reads the events. Networks take minutes where trees take seconds, so they are judged only
# where somebody asks for them by name.
ON_EVENTS = ("transformer", "gru", "cnn", "transformer_scratch", "hybrid")


def on_events(
    names: Sequence[str],
    events: Streams,
    say: Callable[[str], None] = lambda message: None,
    trees: lightgbm_hurdle.Config = TREES,
) -> dict[str, Estimator]:
    """The models of these names, of ON_EVENTS, bound to the events that they read.

    transformer_scratch is the transformer without pre-training. Those that share a backbone
    pre-train it once for each origin. say: is told of every tenth step. trees: of the hybrid.
    """
    from ml import (  # torch: seconds that others need not wait
        hybrid,
        sequence,
        sequence_model,
        sequence_training,
        training_loop,
    )

    def told(name: str) -> Callable[[dict[str, Any]], None]:
        def callback(report: dict[str, Any]) -> None:
            if report["step"] % 10 == 0:
                say(f"{name}: {report['stage']}, step {report['step']} of {report['steps']}")

        return callback

    def newest_day(frame: Frame) -> date:
        return frame["as_of_date"].max().date()

    @lru_cache(maxsize=len(ON_EVENTS))
    def pretrained(until: date, config: training_loop.Config) -> hybrid.Weights:
        name = config.network.encoder
        return sequence_training.pretrain(events, until, config, callback=told(name))

    def network(name: str, config: training_loop.Config) -> Estimator:
        def fit(frame: Frame, labels: Frame, horizon_days: int) -> sequence_model.Model:
            backbone = pretrained(newest_day(frame), config)
            return sequence_training.fit(
                frame, labels, horizon_days, events, config, backbone, callback=told(name)
            )

        return Estimator(fit, partial(sequence_model.predict, events=events))

    def fit_hybrid(frame: Frame, labels: Frame, horizon_days: int) -> hybrid.Model:
        config = hybrid.Config(trees=trees)
        backbone = pretrained(newest_day(frame), config.sequence)
        return hybrid.fit(
            frame, labels, horizon_days, events, config, backbone, callback=told("hybrid")
        )

    default = training_loop.Config()
    encoders = {
        name: replace(default, network=replace(default.network, encoder=name))
        for name in sequence.ENCODERS
    }
    networks = {**encoders, "transformer_scratch": replace(default, pretraining_epochs=0)}
    found = {name: network(name, config) for name, config in networks.items()}
    found["hybrid"] = Estimator(fit_hybrid, partial(hybrid.predict, events=events))
    return {name: found[name] for name in names}


def of_share(estimator: Estimator, share: float) -> Estimator:
    """The estimator, fitted to the labels of a share of the customers, the same ones for ever.

    What is learned without labels (pre-training, MBG/NBD) still learns from everybody. Its fit
    raises ValueError where the share holds nobody.
    """

    def fit(frame: Frame, labels: Frame, horizon_days: int) -> Any:
        is_kept = customer_hash.uniform(frame["customer_id"], "labels") < share
        newest = (frame["as_of_date"] == frame["as_of_date"].max()).to_numpy()
        if not (is_kept & newest).any():
            raise ValueError(
                f"a share of {share:g} of {int(newest.sum())} customers is nobody: take a larger "
                "one"
            )
        kept, kept_labels = (rows[is_kept].reset_index(drop=True) for rows in (frame, labels))
        model = estimator.fit(kept, kept_labels, horizon_days)
        return _of_everybody(model, int(newest.sum()) / int((is_kept & newest).sum()))

    return Estimator(fit, estimator.predict)


def _of_everybody(model: Any, times: float) -> Any:
    """The season of the trees is a sum over all customers, and `times` as many as were learned
    from."""
    if not isinstance(model, lightgbm_hurdle.Model):
        trees = getattr(model, "trees", None)  # the hybrid's
        return model if trees is None else replace(model, trees=_of_everybody(trees, times))
    season = model.season
    if season is None:
        return model
    last_year = season.last_year_spend, season.last_year_buyers
    return replace(
        model,
        season=lightgbm_hurdle.Season(
            season.window_days,
            season.spend * times,
            season.buyers * times,
            *(None if total is None else total * times for total in last_year),
        ),
    )


@dataclass(frozen=True)
class Origin:
    """One test day: its metrics by model, the best baseline by metric, the counts of CONFUSION by
    model that gives a probability, and those of the high-value question by every model (none where
    the labels do not say who is of high value)."""

    as_of_date: date
    customers: int
    training_cutoffs: tuple[date, ...]
    models: dict[str, Metrics]
    best_baseline: dict[str, str]
    confusion: dict[str, dict[str, float]]
    confusion_high_value: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Newest:
    """The newest origin in full, for figures and for tiers of customers no model has seen.

    high_value: None where the labels do not say.
    """

    as_of_date: date
    customer_id: np.ndarray
    spend: np.ndarray
    purchased: np.ndarray
    high_value: np.ndarray | None
    predictions: dict[str, Prediction]
    fitted: dict[str, object]


@dataclass(frozen=True)
class Backtest:
    """origins: oldest first. pooled: the mean over the origins, but sum_ratio is sum over sum.

    learned_days: of the windows that were learned from. left_out: why a baseline is not there.
    """

    horizon_days: int
    learned_days: int
    origins: tuple[Origin, ...]
    pooled: dict[str, Metrics]
    best_baseline: dict[str, str]
    left_out: dict[str, str]
    newest: Newest = field(repr=False)

    def to_json(self) -> dict:
        """Plain values for json.dumps; what a model cannot have is null."""
        return {
            "horizon_days": self.horizon_days,
            "learned_days": self.learned_days,
            "pooled": {name: _plain(metrics) for name, metrics in self.pooled.items()},
            "best_baseline": self.best_baseline,
            "left_out": self.left_out,
            "origins": [
                {
                    "as_of_date": origin.as_of_date.isoformat(),
                    "customers": origin.customers,
                    "training_cutoffs": [cutoff.isoformat() for cutoff in origin.training_cutoffs],
                    "models": {name: _plain(metrics) for name, metrics in origin.models.items()},
                    "best_baseline": origin.best_baseline,
                    "confusion": origin.confusion,
                    "confusion_high_value": origin.confusion_high_value,
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
    baselines: Mapping[str, Estimator] = QUICK_BASELINES,
    resamples: int = 200,
    seed: int = SEED,
    learned_days: int | None = None,
    step_days: int = cutoffs.STEP_DAYS,
    max_cutoffs: int = cutoffs.MAX_CUTOFFS,
    say: Callable[[str], None] = lambda message: None,
) -> Backtest:
    """Fit every model on the training cutoffs of an origin, judge it on the origin, for each.

    features, labels: one row per customer_id and as_of_date of every origin and of its training
    cutoffs (`cutoffs.training_cutoffs`); labels of this horizon, `is_high_value` among them where
    the high-value question is asked, and of `learned_days` where shorter windows are learned from.
    A baseline that cannot be had (its fit or predict raises ValueError) is left out at every
    origin, and the result says why; a model's error is raised. Intervals are 90 % bootstrap
    percentiles, `<metric>_low` and `_high`. A model's `<metric>_gain` with its interval is how much
    better it is than the best baseline of that metric, paired: positive is better whatever the
    metric's direction (where it has a target: closer to it). `say` is told which origin and model
    come next. Raises ValueError where a day is missing or a customer has no label.
    """
    learned_days = learned_days or horizon_days
    features = features.sort_values(KEY[::-1], kind="stable", ignore_index=True)
    learned_from = _training_cutoffs(features, origins, learned_days, step_days, max_cutoffs)
    left_out: dict[str, str] = {}
    drawn: dict[date, dict[str, Draws]] = {}
    customers: dict[date, int] = {}
    for origin, training in learned_from.items():
        train, train_labels = _rows(features, labels, training, learned_days)
        test, test_labels = _rows(features, labels, (origin,), horizon_days)
        judge = Judge(_outcome(test_labels), resample_weights(len(test), resamples, seed))
        fitted, predictions, draws = {}, {}, {}
        for name, estimator in {**baselines, **models}.items():
            if name in left_out:
                continue
            say(f"{origin}: {name}")
            try:
                fitted[name] = estimator.fit(train, train_labels, horizon_days)
                predictions[name] = estimator.predict(fitted[name], test)
            except ValueError as error:
                if name in models:
                    raise
                left_out[name] = f"at {origin}: {error}"
                continue
            draws[name] = judge.draws(predictions[name])
        drawn[origin], customers[origin] = draws, len(test)
        newest = Newest(
            origin,
            test["customer_id"].to_numpy(),
            judge.outcome.spend,
            judge.outcome.purchased,
            judge.outcome.high_value,
            predictions,
            fitted,
        )
    there = [name for name in (*baselines, *models) if name not in left_out]
    rules = tuple(name for name in baselines if name in there)
    judged: list[Origin] = []
    for origin, training in learned_from.items():
        draws = {name: drawn[origin][name] for name in there}
        metrics, best = _compare(draws, rules, tuple(models))
        judged.append(
            Origin(
                origin,
                customers[origin],
                training,
                metrics,
                best,
                _counts(draws, CONFUSION),
                _counts(draws, CONFUSION_HIGH_VALUE),
            )
        )
    together = {name: _pool([draws[name] for draws in drawn.values()]) for name in there}
    pooled, best = _compare(together, rules, tuple(models))
    return Backtest(horizon_days, learned_days, tuple(judged), pooled, best, left_out, newest)


def _counts(draws: dict[str, Draws], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """The counts of CONFUSION by the candidates that have them."""
    return {
        name: dict(zip(CONFUSION, (float(found[metric][0]) for metric in metrics), strict=True))
        for name, found in draws.items()
        if math.isfinite(found[metrics[0]][0])
    }


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


def _rows(
    features: Frame, labels: Frame, days: Sequence[date], horizon_days: int
) -> tuple[Frame, Frame]:
    """The features of these days, and the labels of one horizon in their order."""
    rows = features[features["as_of_date"].isin(pd.to_datetime(list(days)))].reset_index(drop=True)
    if "horizon_days" in labels:
        labels = labels[labels["horizon_days"] == horizon_days]
    joined = rows[KEY].merge(labels, on=KEY, how="left", validate="one_to_one")
    unlabelled = joined["spend"].isna()
    if unlabelled.any():
        raise ValueError(
            f"{int(unlabelled.sum())} customers have features and no label of {horizon_days} days, "
            f"the first on {joined.loc[unlabelled, 'as_of_date'].min():%Y-%m-%d}; build both for "
            f"the same days"
        )
    return rows, joined


def _outcome(labels: Frame) -> Outcome:
    high_value = labels["is_high_value"].to_numpy() if "is_high_value" in labels else None
    return Outcome(labels["spend"].to_numpy(), labels["is_purchased"].to_numpy(), high_value)


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
