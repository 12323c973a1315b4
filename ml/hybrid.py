"""Trees on the features and on what the sequence model makes of the events. No clock, no pickle.

One backbone learns without labels what comes next, from all events known at the newest training
cutoff. Two sequence models then learn what customers were worth, each from half of the customers.
What they say becomes columns: of a training row, that of the model which has never seen the
customer, or the trees would believe what was learned by heart (stacked generalisation: Wolpert,
Neural Networks 5, 1992; split by customer, because windows of one customer overlap). Of a row to
predict, the mean of both. Beside them stand principal components of the backbone's states, in which
there are no labels at all, so all rows have them from one space.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ml import (
    customer_hash,
    lightgbm_hurdle,
    seals,
    sequence,
    sequence_model,
    sequence_training,
    streams,
    training_loop,
    weights,
)
from ml.metrics import Prediction
from ml.sequence_model import ROWS_AT_ONCE
from ml.streams import Streams
from ml.training_loop import Callback
from ml.weights import Weights

Array = np.ndarray
Frame = pd.DataFrame

FORMAT = 1
HALVES = ("first_half", "second_half")
HEADS = ("sequence_log_spend", "sequence_purchase", "sequence_high_value")


@dataclass(frozen=True)
class Config:
    """components: how many columns the backbone's states become; at most twice the network's
    dim."""

    sequence: training_loop.Config = field(default_factory=training_loop.Config)
    trees: lightgbm_hurdle.Config = field(default_factory=lightgbm_hurdle.Config)
    components: int = 16

    def __post_init__(self) -> None:
        most = 2 * self.sequence.network.dim
        if not 1 <= self.components <= most:
            raise ValueError(f"components must lie from 1 to {most}, not {self.components}")


@dataclass(frozen=True)
class Reader:
    """What makes columns of events. backbone: of width d, learned without labels. halves: the model
    of the customers whom `in_second_half` leaves out, and that of those it names. center (2 d,),
    axes (2 d, components): of the backbone's states in the training rows."""

    backbone: Weights
    halves: tuple[sequence_model.Model, sequence_model.Model]
    center: Array
    axes: Array
    config: training_loop.Config

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what `read` gives."""
        components = range(1, 1 + self.axes.shape[1])
        return (*_heads_of(self.halves[0]), *(f"embedding_{i:02}" for i in components))


@dataclass(frozen=True)
class Model:
    reader: Reader
    trees: lightgbm_hurdle.Model


class Learned(NamedTuple):
    """columns: of the training rows, row by row; each by what has not seen its customer."""

    reader: Reader
    columns: Frame


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

    The order of the rows changes nothing. labels, backbone, callback: as in
    `sequence_training.fit`. Raises ValueError where nobody of one half of the customers spent
    anything.
    """
    reader, columns = learn(frame, labels, horizon_days, events, config, backbone, callback)
    beside = pd.concat([frame.reset_index(drop=True), columns], axis=1)
    return Model(reader, lightgbm_hurdle.fit(beside, labels, horizon_days, config.trees))


def predict(model: Model, frame: Frame, events: Streams) -> Prediction:
    """What `lightgbm_hurdle.predict` says of the frame, whole days of it, and of its events.

    Of the events only those known on a row's as_of_date are read. Raises ValueError where a column
    that the model was trained on is missing.
    """
    return lightgbm_hurdle.predict(model.trees, widened(model.reader, frame, events))


def widened(reader: Reader, frame: Frame, events: Streams) -> Frame:
    """The frame, and beside it what the reader makes of its customers' events (`read`)."""
    return pd.concat([frame.reset_index(drop=True), read(reader, frame, events)], axis=1)


def to_files(reader: Reader, folder: Path) -> None:
    """Write the reader and its halves (safetensors and JSON) into an existing folder, and seal
    it."""
    folder = Path(folder)
    numbers = {f"backbone.{name}": value for name, value in reader.backbone.items()}
    numbers |= {"center": torch.from_numpy(reader.center), "axes": torch.from_numpy(reader.axes)}
    weights.to_file(numbers, folder / "reader.safetensors")
    about = {"format": FORMAT, "config": asdict(reader.config)}
    (folder / "reader.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for name, half in zip(HALVES, reader.halves, strict=True):
        (folder / name).mkdir()
        sequence_model.to_files(half, folder / name)
    seals.seal(folder)


def from_files(folder: Path) -> Reader:
    """The reader that `to_files` wrote. Raises ValueError, before anything is parsed, where a file
    is not what was written."""
    folder = Path(folder)
    seals.refuse_broken(folder)
    about = json.loads((folder / "reader.json").read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
        raise ValueError(
            f"{folder / 'reader.json'} is of another format than {FORMAT}; train again"
        )
    numbers = weights.from_file(folder / "reader.safetensors")
    center, axes = numbers.pop("center").numpy(), numbers.pop("axes").numpy()
    backbone = {name.removeprefix("backbone."): value for name, value in numbers.items()}
    first, second = (sequence_model.from_files(folder / name) for name in HALVES)
    config = training_loop.read_config(about["config"])
    return Reader(backbone, (first, second), center, axes, config)


def learn(
    frame: Frame,
    labels: Frame,
    horizon_days: int,
    events: Streams,
    config: Config = Config(),
    backbone: Weights | None = None,
    callback: Callback | None = None,
) -> Learned:
    """The reader, and the columns that the trees learn from. Arguments as in `fit`."""
    given = frame.reset_index(drop=True)
    rows = given.sort_values(["as_of_date", "customer_id"], kind="stable").index.to_numpy()
    frame, labels = given.iloc[rows], labels.iloc[rows]
    if backbone is None:
        backbone = sequence_training.pretrain(
            events, newest_day(frame), config.sequence, callback=callback
        )
    is_second = in_second_half(frame)
    first, second = (
        sequence_training.fit(
            frame[half], labels[half], horizon_days, events, config.sequence, backbone,
            callback=callback,
        )
        for half in (~is_second, is_second)
    )  # fmt: skip
    seen = states(backbone, frame, events, config.sequence)
    center, axes = principal_axes(seen, config.components)
    heads = np.empty((len(frame), len(_heads_of(first))))
    for half, unseen_by in ((~is_second, second), (is_second, first)):
        heads[half] = _heads(unseen_by, frame[half], events)
    reader = Reader(backbone, (first, second), center, axes, config.sequence)
    columns = _columns(reader, heads, seen)
    return Learned(reader, columns.iloc[np.argsort(rows)].reset_index(drop=True))


def read(reader: Reader, frame: Frame, events: Streams) -> Frame:
    """The columns of customers to predict, row by row: float32, all finite.

    sequence_log_spend: logarithm of the expected spend of the learned windows; sequence_purchase
    and, where the labels had it, sequence_high_value: log-odds; embedding_01 and so on: principal
    components of the backbone's states.
    """
    heads = [_heads(half, frame, events) for half in reader.halves]
    seen = states(reader.backbone, frame, events, reader.config)
    return _columns(reader, np.mean(heads, axis=0), seen)


def in_second_half(frame: Frame) -> Array:
    """(n,) which half a row belongs to: the same for all rows of a customer, for ever."""
    return customer_hash.uniform(frame["customer_id"], "hybrid") >= 0.5


def newest_day(frame: Frame) -> date:
    return frame["as_of_date"].max().date()


def states(backbone: Weights, frame: Frame, events: Streams, config: training_loop.Config) -> Array:
    """(n, 2 d) float32: the backbone's state after the newest event of each row, beside the mean of
    all its states. No label has a part in it."""
    cuts = sequence_model.cuts_of(events, frame, config)
    found = np.empty((len(frame), 2 * config.network.dim), dtype=np.float32)
    with training_loop.machine(config) as device, torch.inference_mode():
        network = sequence.Backbone(config.network)
        network.load_state_dict(backbone)
        network.to(device).eval()
        for rows in streams.batches_by_length(cuts.lengths, ROWS_AT_ONCE):
            batch = sequence_model.tensors(streams.read(events, cuts.take(rows)), device)
            found[rows] = sequence.pooled(network(batch), batch.length).cpu().numpy()
    return found


def principal_axes(values: Array, components: int) -> tuple[Array, Array]:
    """The mean (k,) of values (n, k), and their first principal axes (k, components), orthonormal.

    The right singular vectors of the centred values, from their scatter matrix: (k, k) numbers,
    however many rows there are. Of each axis and its opposite, the one whose largest entry is
    positive.
    """
    center = values.mean(axis=0, dtype=float)
    scatter = np.zeros((center.size, center.size))
    for start in range(0, len(values), lightgbm_hurdle.ROWS_AT_ONCE):
        part = values[start : start + lightgbm_hurdle.ROWS_AT_ONCE] - center
        scatter += part.T @ part
    axes = np.linalg.svd(scatter, hermitian=True)[0][:, :components]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return center, axes * np.sign(largest)


def _heads_of(model: sequence_model.Model) -> tuple[str, ...]:
    return HEADS if "is_high_value" in model.tasks else HEADS[:2]


def _heads(model: sequence_model.Model, frame: Frame, events: Streams) -> Array:
    """(n, heads) what one half's model says of the rows, in the order of HEADS."""
    answers = sequence_model.ask(model, frame, events)
    log_spend = model.network.cpu().log_expected(answers) + float(np.log(model.calibration))
    found = (log_spend, answers.purchase, answers.high_value)[: len(_heads_of(model))]
    return torch.stack(found, dim=1).numpy()


def _columns(reader: Reader, heads: Array, seen: Array) -> Frame:
    components = (seen - reader.center) @ reader.axes
    values = np.concatenate([heads, components], axis=1).astype(np.float32)
    return pd.DataFrame(values, columns=list(reader.columns))
