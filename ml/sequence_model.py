"""A sequence model that has learned: what it says of customers, and its files. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ml import seals, streams, weights
from ml.lightgbm_hurdle import AMOUNT_IN_RANKING, matrix
from ml.metrics import Prediction, with_the_silent_tied
from ml.sequence import TASKS, Answers, CustomerValue
from ml.streams import Batch, Cuts, Streams
from ml.training_loop import Config, machine, precision, read_config
from ml.weights import Weights

Array = np.ndarray
Frame = pd.DataFrame

FORMAT = 2
ROWS_AT_ONCE = 512  # customers in a batch that nothing is learned from


@dataclass(frozen=True)
class Model:
    """features: static columns in the order the network knows them. tasks: of TASKS, those that the
    labels had. horizon_days: of the predictions, learned_days: of the labels. calibration: actual
    over predicted spend of the newest training window."""

    network: CustomerValue
    features: tuple[str, ...]
    tasks: tuple[str, ...]
    horizon_days: int
    learned_days: int
    calibration: float
    config: Config


def predict(model: Model, frame: Frame, events: Streams) -> Prediction:
    """Expected spend, purchase and high-value probability of the frame's customers, row by row.

    Of the events only those known on a row's as_of_date are read. Raises ValueError where a column
    that the model was trained on is missing. Windows longer than those learned hold as many times
    the spend, and chances to buy, as they have days.
    """
    answers = ask(model, frame, events)
    longer = model.horizon_days / model.learned_days
    expected = expected_spend(model, answers) * model.calibration * longer
    chance = np.minimum(_chance(answers.purchase), 1 - 1e-12)
    purchase = -np.expm1(longer * np.log1p(-chance))
    ranking = purchase ** (1 - AMOUNT_IN_RANKING) * expected**AMOUNT_IN_RANKING
    for rows in frame.groupby("as_of_date", sort=False).indices.values():
        ranking[rows] = with_the_silent_tied(ranking[rows], purchase[rows])
    has_high_value = "is_high_value" in model.tasks
    return Prediction(
        score=expected,
        expected_spend=expected,
        purchase_probability=purchase,
        high_value_probability=_chance(answers.high_value) if has_high_value else None,
        ranking=ranking,
    )


def intent(model: Model, frame: Frame, events: Streams) -> Frame:
    """Probability of a purchase within 7, 14 and 30 days, those that the labels had: one column
    is_purchased_<n>d for each, row by row. A longer window is never less likely."""
    chance = np.maximum.accumulate(_chance(ask(model, frame, events).intent), axis=1)
    columns = dict(zip(TASKS[3:], chance.T, strict=True))
    return pd.DataFrame({k: v for k, v in columns.items() if k in model.tasks}, index=frame.index)


def embed(model: Model, frame: Frame, events: Streams) -> Array:
    """(n, dim) float32: what the heads see of each of the frame's customers."""
    return ask(model, frame, events).embedding.numpy()


def ask(model: Model, frame: Frame, events: Streams) -> Answers:
    """What the network says of any customers, row by row, before the total is calibrated."""
    values = static_features(frame, model.features)
    cuts = cuts_of(events, frame, model.config)
    found: Answers | None = None
    with machine(model.config) as device, torch.inference_mode():
        network = model.network.to(device).eval()
        for rows in streams.batches_by_length(cuts.lengths, ROWS_AT_ONCE):
            batch = tensors(streams.read(events, cuts.take(rows)), device)
            with precision(device):
                answers = network(batch, torch.from_numpy(values[rows]).to(device))
            if found is None:
                found = Answers(*(torch.empty(len(frame), *a.shape[1:]) for a in answers))
            for whole, part in zip(found, answers, strict=True):
                whole[torch.from_numpy(rows)] = part.float().cpu()
    if found is None:
        raise ValueError("the frame has no rows: there is nobody to predict")
    return found


def to_files(model: Model, folder: Path) -> None:
    """Write weights.safetensors and model.json into an existing folder, and seal it."""
    folder = Path(folder)
    weights.to_file(model.network.state_dict(), folder / "weights.safetensors")
    about = {
        "format": FORMAT,
        "features": list(model.features),
        "tasks": list(model.tasks),
        "horizon_days": model.horizon_days,
        "learned_days": model.learned_days,
        "calibration": model.calibration,
        "config": asdict(model.config),
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    seals.seal(folder)


def from_files(folder: Path) -> Model:
    """The model that `to_files` wrote. Raises ValueError, before anything is parsed, where a file
    is not what was written."""
    folder = Path(folder)
    seals.refuse_broken(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if about.pop("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'} is of another format than {FORMAT}; train the model again"
        )
    learned = weights.from_file(folder / "weights.safetensors")
    config = read_config(about.pop("config"))
    features, tasks = tuple(about.pop("features")), tuple(about.pop("tasks"))
    network = CustomerValue(config.network, len(features), (0.0, 1.0, 2.0))
    _load(network, learned, folder)
    return Model(network.eval(), features, tasks, config=config, **about)


class Served:
    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, asked: Mapping[str, Any], params: dict | None = None) -> Frame:
        """A row per customer, in the order of asked["customers"].

        customers: a frame of customer_id, as_of_date and the features. events: an Arrow table, as
        `streams.from_table` takes it. The answer: customer_id, expected_spend,
        purchase_probability, high_value_probability (null where the labels had none) and embedding,
        a list of numbers.
        """
        frame, events = asked["customers"], streams.from_table(asked["events"])
        found = predict(self.model, frame, events)
        return pd.DataFrame(
            {
                "customer_id": frame["customer_id"],
                "expected_spend": found.expected_spend,
                "purchase_probability": found.purchase_probability,
                "high_value_probability": found.high_value_probability,
                "embedding": list(embed(self.model, frame, events)),
            },
            index=frame.index,
        )


def _load_pyfunc(path: str) -> Served:
    """The loader that MLflow looks for in a `loader_module`."""
    return Served(from_files(Path(path)))


def tensors(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in batch))


def cuts_of(events: Streams, frame: Frame, config: Config) -> Cuts:
    """What each of the frame's days knows of its customer, row by row."""
    days = days_of(frame).astype("datetime64[D]")
    return streams.cut(events, frame["customer_id"].to_numpy(), days, config.network.max_events)


def static_features(frame: Frame, features: tuple[str, ...]) -> Array:
    """(n, features) float32, as large as it can hold where a number is larger; NaN where null."""
    limit = float(np.finfo(np.float32).max)
    return np.clip(matrix(frame, features), -limit, limit)


def days_of(frame: Frame) -> Array:
    """(n,) days since 1970-01-01"""
    stamps = pd.to_datetime(frame["as_of_date"]).to_numpy().astype("datetime64[D]")
    return stamps.astype(np.int64)


def expected_spend(model: Model, answers: Answers) -> Array:
    """(n,) before the total is calibrated"""
    return np.exp(model.network.cpu().log_expected(answers).double().numpy())


def _chance(log_odds: Tensor) -> Array:
    return log_odds.double().sigmoid().numpy()


def _load(network: nn.Module, learned: Weights, folder: Path) -> None:
    try:
        network.load_state_dict(learned)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} are of another network than model.json says; train again"
        ) from error
