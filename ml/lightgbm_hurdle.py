"""Expected spend as P(buy) x E[spend | buys], two LightGBM models. No clock, no MLflow, no pickle.

A third one answers who will be in the top decile of spend, where the labels say who was.

The amount is a Tweedie regression on the buyers: its mean is right without smearing, and a few
enormous customers weigh less than under squared error. Many slow rounds, each of a few columns and
of leaves that hold many customers, keep the biggest customers from being learned by heart.

Trees cannot see a season they were not shown, so where the shop's history reaches back a year the
total of a day, and how many buy, follow from what the same window of last year brought
(`ml.season`). The trees then say who spends it.

Trees learn what past windows were like, and the next one differs. MBG/NBD with Gamma-Gamma, fitted
to the histories of the day itself, is wrong in other ways: the chance to buy is the weighted
geometric mean of both, and so is the expected spend.
Where the history is too short for one closed window of the horizon, the trees learn a shorter one,
and MBG/NBD says how much more a longer window holds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import lightgbm as lgb
import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.special import expit, logit

from ml import btyd, intervals, season
from ml.intervals import Intervals
from ml.metrics import Prediction, with_the_silent_tied
from ml.season import Season

Array = np.ndarray
Frame = pd.DataFrame

KEYS = ("customer_id", "as_of_date", "horizon_days")
FORMAT = 3
BOOSTERS = ("purchase", "amount", "high_value")
ROWS_AT_ONCE = 100_000  # of 131 columns: 50 MB at a time
CALIBRATED_ON = 200_000  # training rows, evenly spread, where there are more
# A customer of 20 % stands before one of 10 %, however much the latter would spend: most spend
# nothing, so who buys decides the order, and the amount orders those who are about as likely to.
AMOUNT_IN_RANKING = 0.35
HISTORIES = 0.25  # weight of MBG/NBD in the chance to buy, beside the trees
HISTORIES_OF_MONEY = 0.2  # weight of MBG/NBD with Gamma-Gamma in the expected spend


@dataclass(frozen=True)
class Config:
    """num_threads is part of the result: sums of floats depend on how the rows are shared out.

    One thread by default. On a machine whose cores are busy with something else LightGBM's threads
    wait for each other at every split: two were measured at up to seven times the time of one.
    """

    rounds: int = 300
    learning_rate: float = 0.03
    num_leaves: int = 15
    min_data_in_leaf: int = 80
    feature_fraction: float = 0.3
    bagging_fraction: float = 0.8
    lambda_l2: float = 1.0
    tweedie_variance_power: float = 1.5
    season_limit: float = 3.0
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True)
class Model:
    """features: columns in the order the boosters know them.

    horizon_days: of the predictions. learned_days: of the labels; shorter where the history was.
    calibration: actual over predicted spend of the training rows (returns lower it). season: None
    where the frame has no windows of last year. intervals: None until they are learned from windows
    that the model's like had not seen (`intervals.fit`).
    """

    purchase: lgb.Booster
    amount: lgb.Booster
    features: tuple[str, ...]
    horizon_days: int
    learned_days: int
    calibration: float
    season: Season | None
    config: Config
    intervals: Intervals | None = None
    high_value: lgb.Booster | None = None


class Answers(NamedTuple):
    """What the trees say of n customers, each (n,): the chance to buy, the spend of who buys, and
    the chance to be of high value, None where nobody asked. What the shop's season and the
    customers' histories have to say comes on top (`settle`)."""

    purchase: Array
    amount: Array
    high_value: Array | None


def fit(
    frame: Frame,
    labels: Frame,
    horizon_days: int,
    config: Config = Config(),
) -> Model:
    """Learn from closed windows; frame and labels are row by row the same customers and days.

    The order of the rows changes nothing. labels: spend, is_purchased, and horizon_days where the
    windows are not of the horizon asked for; is_high_value where that is asked too. Every numeric
    column of the frame that is no key or label is a feature. Raises ValueError where no customer
    bought, or all of what they bought went back: there is nothing to learn an amount from.
    """
    features = feature_columns(frame, labels)
    keys = frame[["as_of_date", "customer_id"]].reset_index(drop=True)
    order = keys.sort_values(["as_of_date", "customer_id"], kind="stable").index.to_numpy()
    values = matrix(frame, features)
    if (np.diff(order) != 1).any():
        values = values[order]
    purchased = labels["is_purchased"].to_numpy(dtype=bool)[order]
    spend = labels["spend"].to_numpy(dtype=float)[order]
    if not np.clip(spend[purchased], 0, None).sum() > 0:
        raise ValueError(
            f"none of the {len(frame)} training rows has an order in its {horizon_days} days that "
            "was paid and kept; load more history, or use a baseline"
        )
    binary = {"objective": "binary"}
    everybody = _dataset(values, purchased, features, config)
    purchase = _boost(binary, everybody, config)
    high_value = None
    if "is_high_value" in labels:
        is_high = labels["is_high_value"].to_numpy(dtype=float)[order]
        high_value = _boost(binary, everybody.set_label(is_high), config)
    del everybody
    amount = _boost(
        {"objective": "tweedie", "tweedie_variance_power": config.tweedie_variance_power},
        _dataset(values[purchased], np.clip(spend[purchased], 0, None), features, config),
        config,
    )
    some = slice(None, None, max(len(values) // CALIBRATED_ON, 1))
    fitted = _ask(purchase, values[some], config.num_threads)
    fitted *= _ask(amount, values[some], config.num_threads)
    total = float(spend[some].sum())
    learned_days = horizon_days
    if "horizon_days" in labels:
        learned_days = int(labels["horizon_days"].iloc[0])
    return Model(
        purchase,
        amount,
        features,
        horizon_days,
        learned_days,
        calibration=total / float(fitted.sum()) if total > 0 else 1.0,
        season=season.of_newest(frame, labels, learned_days),
        config=config,
        high_value=high_value,
    )


def predict(model: Model, frame: Frame) -> Prediction:
    """Expected spend and purchase probability of the frame's customers over the model's horizon.

    frame: the whole population of a day, or of several days, because the season is a truth about
    the shop and not about a customer. Raises ValueError where a column that the model was trained
    on is missing.
    """
    return settle(model, frame, ask(model, frame, model.config.num_threads))


def ask(model: Model, frame: Frame, num_threads: int) -> Answers:
    """What the trees say of any customers, whole days or not. The threads change nothing.

    Raises ValueError where a column that the model was trained on is missing.
    """
    boosters = (model.purchase, model.amount, model.high_value)
    found = np.empty((len(boosters), len(frame)))
    for start in range(0, len(frame), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        values = matrix(frame.iloc[rows], model.features)
        for said, booster in zip(found, boosters, strict=True):
            if booster is not None:
                said[rows] = _ask(booster, values, num_threads)
    purchase, amount, high_value = found
    return Answers(purchase, amount, None if model.high_value is None else high_value)


def joined(parts: Sequence[Answers]) -> Answers:
    """What was said of some customers and of others, in this order."""
    purchase, amount, high_value = zip(*parts, strict=True)
    is_asked = high_value[0] is not None
    return Answers(
        np.concatenate(purchase),
        np.concatenate(amount),
        np.concatenate(high_value) if is_asked else None,
    )


def settle(
    model: Model,
    frame: Frame,
    answers: Answers,
    windows: Mapping[int, btyd.Window] | None = None,
) -> Prediction:
    """The prediction from what the trees said of the frame's customers, whole days of them.

    Of the frame only as_of_date and `population_columns` are read. windows: what MBG/NBD expects
    of the horizons, by days, where the frame is of one day and somebody knows already; empty where
    it cannot be fitted.
    """
    probability = answers.purchase.copy()
    amount = answers.amount * model.calibration
    ranking, expected = np.empty((2, len(frame)))
    for rows in frame.groupby("as_of_date", sort=False).indices.values():
        day = frame.iloc[rows]
        spend, buyers = None, None
        if model.season is not None:
            spend, buyers = season.totals(model.season, day, model.learned_days)
        spend = float((probability[rows] * amount[rows]).sum()) if spend is None else spend
        buyers = float(probability[rows].sum()) if buyers is None else buyers
        histories = _histories(model, day, probability[rows], windows)
        both = probability[rows] ** (1 - HISTORIES) * histories.chance**HISTORIES
        ranking[rows] = both * np.clip(amount[rows], 0, None) ** AMOUNT_IN_RANKING
        probability[rows] = _with_mean(both, buyers)
        expected[rows] = both * amount[rows]
        if histories.spend is not None:
            expected[rows] **= 1 - HISTORIES_OF_MONEY
            expected[rows] *= np.clip(histories.spend, 0, None) ** HISTORIES_OF_MONEY
        expected[rows] *= _season_factor(model, expected[rows], spend)
        expected[rows] *= histories.more_orders
        if histories.more_buyers != 1:
            buyers = probability[rows].sum() * histories.more_buyers
            probability[rows] = _with_mean(probability[rows], float(buyers))
        ranking[rows] = with_the_silent_tied(ranking[rows], probability[rows])
    low, high = None, None
    if model.intervals is not None:
        low, high = intervals.predict(model.intervals, expected, probability)
    return Prediction(
        score=expected,
        expected_spend=expected,
        purchase_probability=probability,
        high_value_probability=answers.high_value,
        ranking=ranking,
        low=low,
        high=high,
    )


def population_columns(model: Model) -> tuple[str, ...]:
    """The columns that say something of a day's customers together, where the frame has them."""
    seasonal = () if model.season is None else season.columns(model.season)
    return tuple(dict.fromkeys((*seasonal, *btyd.HISTORY)))


def feature_columns(frame: Frame, labels: Frame) -> tuple[str, ...]:
    """Numeric columns of the frame that are neither keys nor labels, sorted."""
    left_out = {*KEYS, *labels.columns}
    numeric = [
        c for c in frame.columns if c not in left_out and pd.api.types.is_numeric_dtype(frame[c])
    ]
    return tuple(sorted(numeric))


def importance(model: Model) -> Frame:
    """Share of each booster's total gain by feature: columns feature, purchase, amount; largest sum
    first."""
    shares = {}
    for name, booster in (("purchase", model.purchase), ("amount", model.amount)):
        gain = booster.feature_importance(importance_type="gain")
        shares[name] = gain / gain.sum() if gain.sum() > 0 else gain
    found = pd.DataFrame({"feature": model.features, **shares})
    order = (found["purchase"] + found["amount"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def to_files(model: Model, folder: Path) -> None:
    """Write the boosters of BOOSTERS (LightGBM text) and model.json into an existing folder."""
    folder = Path(folder)
    for name in BOOSTERS:
        if (booster := getattr(model, name)) is not None:
            (folder / f"{name}.txt").write_text(booster.model_to_string(), encoding="utf-8")
    about = {
        "format": FORMAT,
        "features": list(model.features),
        "horizon_days": model.horizon_days,
        "learned_days": model.learned_days,
        "calibration": model.calibration,
        "season": None if model.season is None else asdict(model.season),
        "intervals": None if model.intervals is None else intervals.to_json(model.intervals),
        "config": asdict(model.config),
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def from_files(folder: Path) -> Model:
    """The model that `to_files` wrote. Raises ValueError where the files do not belong together."""
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if about.pop("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'} is of another format than {FORMAT}; train the model again"
        )
    boosters = {}
    for name in BOOSTERS:
        if name == "high_value" and not (folder / f"{name}.txt").exists():
            continue
        boosters[name] = lgb.Booster(model_str=(folder / f"{name}.txt").read_text(encoding="utf-8"))
        if boosters[name].feature_name() != about["features"]:
            raise ValueError(
                f"{folder / name}.txt knows other columns than model.json says; train again"
            )
    about["features"] = tuple(about["features"])
    if about["season"] is not None:
        about["season"] = Season(**about["season"])
    if about["intervals"] is not None:
        about["intervals"] = intervals.from_json(about["intervals"])
    return Model(**boosters, **{**about, "config": Config(**about["config"])})


def parameters(config: Config) -> dict:
    """LightGBM's own, without the objective and the number of rounds."""
    return {
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": config.lambda_l2,
        "seed": config.seed,
        "num_threads": config.num_threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _dataset(
    values: np.ndarray, target: np.ndarray, features: tuple[str, ...], config: Config
) -> lgb.Dataset:
    """The rows in bins, which is a tenth of the time of learning: two questions share them."""
    return lgb.Dataset(
        values,
        target.astype(float),
        feature_name=list(features),
        params=parameters(config),
        free_raw_data=False,
    )


def _boost(objective: dict, data: lgb.Dataset, config: Config) -> lgb.Booster:
    return lgb.train({**objective, **parameters(config)}, data, num_boost_round=config.rounds)


def _ask(booster: lgb.Booster, values: np.ndarray, num_threads: int) -> np.ndarray:
    return np.asarray(booster.predict(values, num_threads=num_threads), dtype=float)


def matrix(frame: Frame, features: Sequence[str]) -> Array:
    """(n, features) as single floats, null as NaN. Raises ValueError where a column is missing.

    Half the memory of doubles; and what two engines compute a billionth apart is one number here.
    """
    missing = [name for name in features if name not in frame]
    if missing:
        raise ValueError(
            f"the model was trained on {len(features)} columns and the frame lacks "
            f"{', '.join(missing)}; build the features again, or train again"
        )
    values = np.empty((len(frame), len(features)), dtype=np.float32)
    for column, name in enumerate(features):
        values[:, column] = frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
    return values


def _season_factor(model: Model, unadjusted: Array, total: float) -> float:
    """The factor stays within season_limit: beyond it the shop has changed, and last year is no
    guide."""
    predicted = float(unadjusted.sum())
    if not (predicted > 0 and total > 0):
        return 1.0
    limit = model.config.season_limit
    return float(np.clip(total / predicted, 1 / limit, limit))


def _with_mean(probability: Array, buyers: float) -> Array:
    """The same order, and odds all moved by one factor so that so many are expected to buy."""
    if not 0 < buyers < probability.size:
        return probability
    log_odds = logit(np.clip(probability, 1e-9, 1 - 1e-9))
    move = brentq(lambda by: float(expit(log_odds + by).sum()) - buyers, -50, 50, xtol=1e-9)
    return expit(log_odds + float(move))  # pyright: ignore[reportArgumentType]


class _Histories(NamedTuple):
    """What MBG/NBD says of a day's customers.

    chance, spend: (n,) of an order, and expected, in the days that the trees learned; no spend
    where nobody knows. more_orders, more_buyers: how many times as many the horizon holds; one
    number for all, because who comes first in a shorter window comes first in a longer one: asked
    customer by customer, MBG/NBD put them into a worse order (CDNOW, 90 to 273 days).
    """

    chance: Array
    spend: Array | None
    more_orders: float
    more_buyers: float


def _histories(
    model: Model, day: Frame, probability: Array, windows: Mapping[int, btyd.Window] | None
) -> _Histories:
    """Where MBG/NBD cannot be fitted the trees are believed, and orders go on at their rate."""
    longer = model.horizon_days / model.learned_days
    if windows is None:
        windows = btyd.try_windows(day, (model.learned_days, model.horizon_days))
    if not windows:
        by_then = -np.expm1(np.log1p(-probability) * longer)
        return _Histories(probability, None, longer, float(by_then.sum() / probability.sum()))
    few, many = windows[model.learned_days], windows[model.horizon_days]
    return _Histories(
        few.chance,
        few.spend,
        float(many.orders.sum() / few.orders.sum()),
        float(many.chance.sum() / few.chance.sum()),
    )
