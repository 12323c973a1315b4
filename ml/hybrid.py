"""Trees on the features and a network on the events, asked together. No clock, no pickle.

The trees know what the features say of a customer, the network in which order things happened, and
they err about different customers. Of who buys, the mean of both is said: a linear opinion pool of
equal weights (Stone, Annals of Mathematical Statistics 32, 1961). What those spend who buy is up to
the trees, and so are the season and the customers' histories (`lightgbm_hurdle.settle`).
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import expit

from ml import lightgbm_hurdle, sequence_model, sequence_training, training_loop
from ml.metrics import Prediction
from ml.streams import Streams
from ml.training_loop import Callback
from ml.weights import Weights

Array = np.ndarray
Frame = pd.DataFrame

PURCHASE, HIGH_VALUE = "network_purchase", "network_high_value"  # columns of log-odds


@dataclass(frozen=True)
class Config:
    sequence: training_loop.Config = field(default_factory=training_loop.Config)
    trees: lightgbm_hurdle.Config = field(default_factory=lightgbm_hurdle.Config)


@dataclass(frozen=True)
class Model:
    network: sequence_model.Model
    trees: lightgbm_hurdle.Model


def fit(
    frame: Frame,
    labels: Frame,
    horizon_days: int,
    events: Streams,
    config: Config = Config(),
    backbone: Weights | None = None,
    callback: Callback | None = None,
) -> Model:
    """Learn from closed windows; frame and labels are row by row the same customers and days.

    labels, backbone, callback: as in `sequence_training.fit`. Raises ValueError where nobody spent
    anything.
    """
    trees = lightgbm_hurdle.fit(frame, labels, horizon_days, config.trees)
    network = sequence_training.fit(
        frame, labels, horizon_days, events, config.sequence, backbone, callback=callback
    )
    return Model(network, trees)


def predict(model: Model, frame: Frame, events: Streams) -> Prediction:
    """What `lightgbm_hurdle.predict` says of the frame, whole days of it, with the pooled chances.

    Of the events only those known on a row's as_of_date are read. Raises ValueError where a column
    that the model was trained on is missing.
    """
    wide = widened(model.network, frame, events)
    answers = ask(model.trees, wide, model.trees.config.num_threads)
    return lightgbm_hurdle.settle(model.trees, wide, answers)


def widened(network: sequence_model.Model, frame: Frame, events: Streams) -> Frame:
    """The frame, and beside it what the network says of its customers: log-odds that they buy and,
    where the labels had it, that they are of high value."""
    said = sequence_model.ask(network, frame, events)
    columns = {PURCHASE: said.purchase.numpy()}
    if "is_high_value" in network.tasks:
        columns[HIGH_VALUE] = said.high_value.numpy()
    return pd.concat([frame.reset_index(drop=True), pd.DataFrame(columns)], axis=1)


def ask(trees: lightgbm_hurdle.Model, wide: Frame, num_threads: int) -> lightgbm_hurdle.Answers:
    """What trees and network say of any customers together, whole days or not.

    wide: of `widened`. Raises ValueError where a column is missing.
    """
    if PURCHASE not in wide:
        raise ValueError("what the network says is missing: this model reads the events too")
    said = lightgbm_hurdle.ask(trees, wide, num_threads)
    high_value = said.high_value
    if high_value is not None and HIGH_VALUE in wide:
        high_value = _mean(high_value, wide[HIGH_VALUE])
    return said._replace(purchase=_mean(said.purchase, wide[PURCHASE]), high_value=high_value)


def _mean(chance: Array, log_odds: pd.Series) -> Array:
    return (chance + expit(log_odds.to_numpy(dtype=float))) / 2
