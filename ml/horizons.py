"""Every horizon at once: spend, purchase and churn of a week to a year, and the next order's day.

One `lightgbm_hurdle` for each horizon, each of its own closed windows. They know nothing of each
other, and what they say must make sense together: nobody spends more in 30 days than in 90. The
horizon that was asked for has been judged (`ml.backtest`), so it stays as it is and the others give
way: a shorter one says at most what the next longer one does, a longer one at least what the next
shorter one does. Of the asked horizon a network that reads the events may have its say beside the
trees (`ml.hybrid`).
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml import btyd, lightgbm_hurdle, seals, streams
from ml.lightgbm_hurdle import Answers, Model
from ml.metrics import Prediction
from ml.streams import Streams

if TYPE_CHECKING:
    from ml import sequence_model

Array = np.ndarray
Frame = pd.DataFrame

HORIZONS = (7, 14, 30, 90, 180, 365)
NETWORK = "network"  # the folder of it, beside those of the models


@dataclass(frozen=True)
class Outlook:
    """models: by horizon in days, ascending. asked_days: the horizon that was judged. network: is
    asked of it too, None where the trees answer alone."""

    models: Mapping[int, Model]
    asked_days: int
    network: "sequence_model.Model | None" = None

    @property
    def asked(self) -> Model:
        return self.models[self.asked_days]


@dataclass(frozen=True)
class Forecast:
    """Of n customers of a day, in the order of the frame.

    by_horizon: each of spend and purchase probability (n,); they do not fall as the horizon grows.
    The asked horizon's has the interval and the chance of high value too. next_order_days: (n,)
    days from the as-of day until the customer is likelier than not to have ordered, from 1; NaN
    where that is beyond the longest horizon.
    """

    by_horizon: Mapping[int, Prediction]
    asked_days: int
    next_order_days: Array

    @property
    def asked(self) -> Prediction:
        return self.by_horizon[self.asked_days]


def fit(
    asked: Model,
    frame: Frame,
    labels: Frame,
    known_until: date,
    network: "sequence_model.Model | None" = None,
) -> Outlook:
    """The asked model and, beside it, one like it for each of HORIZONS.

    frame: features of days before known_until, one row per customer and day. labels: customer_id,
    as_of_date, horizon_days, spend, is_purchased of the windows that are closed; what closes after
    known_until is not learned from. A horizon without a closed window, or without one in which
    anybody bought, has the model of the nearest horizon that has one: what a longer or shorter
    window holds is then up to MBG/NBD (`lightgbm_hurdle`).
    """
    models = {asked.horizon_days: asked}
    for days in sorted({*HORIZONS} - {asked.horizon_days}):
        closed = pd.Timestamp(known_until - timedelta(days=days))
        rows = labels[(labels["horizon_days"] == days) & (labels["as_of_date"] <= closed)]
        rows = frame[list(lightgbm_hurdle.KEYS[:2])].merge(rows, how="left")
        known = rows["spend"].notna().to_numpy()
        if not (rows["spend"][known] > 0).any():
            continue
        learned = rows[known].drop(columns=["is_high_value"], errors="ignore")
        try:
            models[days] = lightgbm_hurdle.fit(
                frame[known], learned.astype({"is_purchased": bool}), days, asked.config
            )
        except ValueError:  # all that was bought went back
            continue
    for days in HORIZONS:
        if days not in models:
            nearest = min(models, key=lambda known: max(known / days, days / known))
            models[days] = replace(models[nearest], horizon_days=days, intervals=None)
    return Outlook(dict(sorted(models.items())), asked.horizon_days, network)


def ask(outlook: Outlook, frame: Frame, num_threads: int) -> dict[int, Answers]:
    """What the models of every horizon say of any customers, whole days or not; the frame is
    `widened` where there is a network."""
    said = {outlook.asked_days: _ask_asked(outlook, frame, num_threads)}
    for days, model in outlook.models.items():
        same = next((d for d in said if outlook.models[d].purchase is model.purchase), None)
        said[days] = lightgbm_hurdle.ask(model, frame, num_threads) if same is None else said[same]
    return said


def _ask_asked(outlook: Outlook, frame: Frame, num_threads: int) -> Answers:
    if outlook.network is None:
        return lightgbm_hurdle.ask(outlook.asked, frame, num_threads)
    from ml import hybrid  # torch: seconds that trees alone need not wait

    return hybrid.ask(outlook.asked, frame, num_threads)


def settle(outlook: Outlook, frame: Frame, answers: Mapping[int, Answers]) -> Forecast:
    """The forecast from what the trees said of all customers of one day.

    Of the frame only as_of_date and `population_columns` are read.
    """
    horizons = {
        d for model in outlook.models.values() for d in (model.horizon_days, model.learned_days)
    }
    windows = btyd.try_windows(frame, sorted(horizons))
    said = {
        days: lightgbm_hurdle.settle(model, frame, answers[days], windows)
        for days, model in outlook.models.items()
    }
    return together(said, outlook.asked_days)


def together(said: Mapping[int, Prediction], asked_days: int) -> Forecast:
    """The forecast from what was said of the same customers' horizons, each with spend and
    purchase probability: they are bounded by the asked one's, which stays as it is."""
    nested = _nested(said, asked_days)
    chances = np.stack([np.asarray(one.purchase_probability) for one in nested.values()])
    return Forecast(nested, asked_days, next_order_days(list(nested), chances))


def predict(outlook: Outlook, frame: Frame, num_threads: int = 1) -> Forecast:
    """Of all customers of one day; the frame is `widened` where there is a network. Raises
    ValueError where a column is missing."""
    return settle(outlook, frame, ask(outlook, frame, num_threads))


def widened(outlook: Outlook, frame: Frame, events: Streams | None) -> Frame:
    """The frame, with what the network says of its customers where there is one. events: known on
    the frame's days; None where there is no network."""
    if outlook.network is None or events is None:
        return frame
    from ml import hybrid

    return hybrid.widened(outlook.network, frame, events)


def population_columns(outlook: Outlook) -> tuple[str, ...]:
    """The columns that say something of a day's customers together, where the frame has them."""
    found = (lightgbm_hurdle.population_columns(model) for model in outlook.models.values())
    return tuple(sorted({name for columns in found for name in columns}))


def next_order_days(horizons: Collection[int], chances: Array) -> Array:
    """(n,) days until the chance of an order reaches a half, NaN where it does not.

    horizons (k,) ascending; chances (k, n) of an order within each, never falling. Between two
    horizons orders come at a constant rate (a piecewise exponential waiting time: Friedman, Annals
    of Statistics 10, 1982), so the logarithm of the chance of none is a straight line.
    """
    with np.errstate(divide="ignore"):
        waited = -np.log1p(-np.vstack([np.zeros(chances.shape[1]), chances]))
    days = np.full(chances.shape[1], np.nan)
    half = np.log(2)
    for place, (start, end) in enumerate(pairwise((0, *horizons))):
        before, after = waited[place], waited[place + 1]
        there = np.isnan(days) & (after >= half)
        share = (half - before[there]) / (after[there] - before[there])
        days[there] = start + share * (end - start)
    return np.maximum(np.ceil(days), 1)


def _nested(said: Mapping[int, Prediction], asked_days: int) -> dict[int, Prediction]:
    settled = {asked_days: said[asked_days]}
    shorter = sorted((days for days in said if days < asked_days), reverse=True)
    longer = sorted(days for days in said if days > asked_days)
    for order, bounded in ((shorter, np.minimum), (longer, np.maximum)):
        nearest = _spend_and_chance(said[asked_days])
        for days in order:
            nearest = bounded(_spend_and_chance(said[days]), nearest)
            spend, chance = nearest
            settled[days] = Prediction(spend, expected_spend=spend, purchase_probability=chance)
    return dict(sorted(settled.items()))


def _spend_and_chance(said: Prediction) -> Array:
    return np.stack([np.asarray(said.expected_spend), np.asarray(said.purchase_probability)])


def to_files(outlook: Outlook, folder: Path) -> None:
    """Write outlook.json, a folder of each model and one of the network into an existing folder,
    and seal it."""
    folder = Path(folder)
    for days, model in outlook.models.items():
        (folder / f"{days}d").mkdir()
        lightgbm_hurdle.to_files(model, folder / f"{days}d")
    about = {"asked_days": outlook.asked_days, "horizons": list(outlook.models)}
    (folder / "outlook.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
    if outlook.network is not None:
        from ml import sequence_model

        (folder / NETWORK).mkdir()
        sequence_model.to_files(outlook.network, folder / NETWORK)
    seals.seal(folder)


def from_files(folder: Path) -> Outlook:
    """The outlook that `to_files` wrote. Raises ValueError, before anything is parsed, where a file
    is not what was written."""
    folder = Path(folder)
    seals.refuse_broken(folder)
    about = json.loads((folder / "outlook.json").read_text(encoding="utf-8"))
    models = {days: lightgbm_hurdle.from_files(folder / f"{days}d") for days in about["horizons"]}
    network = None
    if (folder / NETWORK).is_dir():
        from ml import sequence_model

        network = sequence_model.from_files(folder / NETWORK)
    return Outlook(models, about["asked_days"], network)


class Served:
    """The outlook as something that answers with a table, which is what model stores ask for."""

    def __init__(self, outlook: Outlook) -> None:
        self.outlook = outlook

    def predict(self, asked: Frame | Mapping[str, Any], params: dict | None = None) -> Frame:
        """A row per customer of one day's whole population, in the order of the frame.

        asked: the frame of customer_id, as_of_date and the features. Where there is a network: a
        mapping of "customers", that frame, and "events", an Arrow table (`streams.from_table`).
        expected_spend with its ends expected_spend_low and _high (null where the model has no
        intervals), purchase_probability and high_value_probability of the asked horizon,
        next_order_days, and expected_spend_<n>d and purchase_probability_<n>d of every horizon.
        """
        if isinstance(asked, pd.DataFrame):
            frame, events = asked, None
        else:
            frame, events = asked["customers"], streams.from_table(asked["events"])
        found = predict(self.outlook, widened(self.outlook, frame, events))
        said = found.asked
        columns = {
            "expected_spend": said.expected_spend,
            "expected_spend_low": np.nan if said.low is None else said.low,
            "expected_spend_high": np.nan if said.high is None else said.high,
            "purchase_probability": said.purchase_probability,
            "high_value_probability": (
                np.nan if said.high_value_probability is None else said.high_value_probability
            ),
            "next_order_days": found.next_order_days,
        }
        for days, one in found.by_horizon.items():
            columns[f"expected_spend_{days}d"] = one.expected_spend
            columns[f"purchase_probability_{days}d"] = one.purchase_probability
        return pd.DataFrame(columns, index=frame.index)


def _load_pyfunc(path: str) -> Served:
    """The loader that MLflow looks for in a `loader_module`."""
    return Served(from_files(Path(path)))
