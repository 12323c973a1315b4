"""Pre-training and fine-tuning of the sequence model. No clock, no pickle.

Pre-training reads every event up to the newest training cutoff and asks what comes next;
fine-tuning reads what each cutoff knew and asks what the customer was worth after it.

Who is left out to stop in time: a share of the customers, at the newest training cutoff. They are
learned from only at cutoffs whose windows had closed by then, because a window that overlaps theirs
would tell what it holds; all others are learned from at every cutoff, the newest too.
"""

import zlib
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ml import sequence, streams
from ml.lightgbm_hurdle import feature_columns
from ml.sequence import TASKS, CustomerValue, NextEvent
from ml.sequence_model import (
    ROWS_AT_ONCE,
    Model,
    ask,
    cuts_of,
    days_of,
    expected_spend,
    static_features,
    tensors,
)
from ml.streams import Streams
from ml.training_loop import Callback, Config, Stage, fingerprint, machine, precision, run
from ml.weights import Weights

Array = np.ndarray
Frame = pd.DataFrame


def pretrain(
    events: Streams,
    until: date,
    config: Config = Config(),
    checkpoints: Path | None = None,
    callback: Callback | None = None,
) -> dict[str, Tensor]:
    """Weights of a backbone that has learned what comes next from all events known on the day.

    Nothing known later is read. checkpoints: a folder there is, to go on from and to leave
    checkpoints in. callback: gets the stage, step, steps, loss, losses by name and learning rate of
    each step. Raises ValueError where the folder's checkpoint is of another run.
    """
    cuts = streams.windows(events, until, config.network.max_events)
    with machine(config) as device:
        torch.manual_seed(config.seed)
        network = NextEvent(config.network).to(device)

        def losses(rows: Array) -> tuple[Tensor, Tensor]:
            return network(tensors(streams.read(events, cuts.take(rows)), device))

        def batches(epoch: int) -> list[Array]:
            seed = (config.seed, 0, epoch)
            return streams.batches(cuts.lengths, config.pretraining_batch_size, seed)

        if cuts.start.size and config.pretraining_epochs:
            stage = Stage(
                name="pretraining",
                tasks=sequence.NEXT_EVENT,
                learning_rate=config.pretraining_learning_rate,
                steps=min(config.max_steps, config.pretraining_epochs * len(batches(0))),
                batches=batches,
                losses=losses,
                validate=None,
                fingerprint=fingerprint(config, *cuts),
            )
            run(stage, network, config, device, checkpoints, callback)
        return {k: v.detach().cpu().clone() for k, v in network.backbone.state_dict().items()}


def fit(
    frame: Frame,
    labels: Frame,
    horizon_days: int,
    events: Streams,
    config: Config = Config(),
    backbone: Weights | None = None,
    checkpoints: Path | None = None,
    callback: Callback | None = None,
) -> Model:
    """Learn from closed windows; frame and labels are row by row the same customers and days.

    The order of the rows changes nothing. labels: spend, is_purchased; is_high_value and
    is_purchased_7d, _14d and _30d where they are asked, null where not known; horizon_days where
    the windows are not of the horizon asked for. Every numeric column of the frame that is no key
    or label is a static feature. backbone: what `pretrain` returned, None to pre-train here, up to
    the newest training cutoff. checkpoints, callback: as in `pretrain`; the callback also gets
    validation_loss, at the steps that have one. Raises ValueError where nobody spent anything.
    """
    rows = _sorted_rows(frame)
    frame, labels = frame.iloc[rows], labels.iloc[rows]
    spend = labels["spend"].to_numpy(dtype=float)
    if not (spend > 0).any():
        raise ValueError(
            f"none of the {len(frame)} training rows has spend in its {horizon_days} days; "
            "load more history, or use a baseline"
        )
    features = feature_columns(frame, labels)
    values = static_features(frame, features)
    tasks = tuple(task for task in TASKS if task in labels)
    targets = np.full((len(frame), len(TASKS)), np.nan, dtype=np.float32)
    for task in tasks:
        targets[:, TASKS.index(task)] = labels[task].to_numpy(dtype=float, na_value=np.nan)
    learned_days = horizon_days
    if "horizon_days" in labels:
        learned_days = int(labels["horizon_days"].iloc[0])
    days = days_of(frame)
    if backbone is None:
        newest = date(1970, 1, 1) + timedelta(days=int(days.max()))
        backbone = pretrain(events, newest, config, checkpoints, callback)
    cuts = cuts_of(events, frame, config)
    is_learned, is_held_out = _split(frame, days, learned_days, config)
    learned, held_out = np.flatnonzero(is_learned), np.flatnonzero(is_held_out)
    with machine(config) as device:
        torch.manual_seed(config.seed)
        network = _network(config, values, spend)
        network.backbone.load_state_dict(backbone)
        network.to(device)

        def losses(rows: Array) -> tuple[Tensor, Tensor]:
            batch = tensors(streams.read(events, cuts.take(rows)), device)
            answers = network(batch, torch.from_numpy(values[rows]).to(device))
            return sequence.value_losses(answers, torch.from_numpy(targets[rows]).to(device))

        def batches(epoch: int) -> list[Array]:
            seed = (config.seed, 1, epoch)
            return [
                learned[i] for i in streams.batches(cuts.lengths[learned], config.batch_size, seed)
            ]

        def validate() -> float:
            total, count = torch.zeros(len(TASKS)), torch.zeros(len(TASKS))
            for part in streams.batches_by_length(cuts.lengths[held_out], ROWS_AT_ONCE):
                with precision(device):
                    sums, counts = losses(held_out[part])
                total, count = total + sums.cpu(), count + counts.cpu()
            return float((total / count.clamp(min=1)).sum())

        stage = Stage(
            name="fine-tuning",
            tasks=TASKS,
            learning_rate=config.learning_rate,
            steps=min(config.max_steps, config.epochs * len(batches(0))),
            batches=batches,
            losses=losses,
            validate=validate if held_out.size else None,
            fingerprint=fingerprint(config, *cuts, values, targets, *backbone.values()),
        )
        run(stage, network, config, device, checkpoints, callback)
        network.cpu()
    model = Model(network.eval(), features, tasks, horizon_days, learned_days, 1.0, config)
    newest = days == days.max()
    predicted = expected_spend(model, ask(model, frame[newest], events))
    actual = float(spend[newest].sum())
    calibration = actual / float(predicted.sum()) if actual > 0 else 1.0
    return replace(model, calibration=calibration)


def _network(config: Config, values: Array, spend: Array) -> CustomerValue:
    """An untrained network that knows the scale of the features and of what buyers spend."""
    amounts = np.log(spend[spend > 0])
    log_spend = float(amounts.min()), float(amounts.mean()), float(amounts.max())
    network = CustomerValue(config.network, values.shape[1], log_spend)
    seen = sequence.signed_log(torch.from_numpy(values)).double().numpy()
    known = np.isfinite(seen)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, seen, 0).sum(axis=0) / count
    deviation = np.sqrt((np.where(known, seen - mean, 0) ** 2).sum(axis=0) / count)
    network.feature_mean.copy_(torch.from_numpy(mean))
    network.feature_scale.copy_(torch.from_numpy(np.where(deviation > 1e-6, deviation, 1.0)))
    return network


def _split(frame: Frame, days: Array, learned_days: int, config: Config) -> tuple[Array, Array]:
    """Which rows are learned from, and which are held out: (n,) flags each, never both."""
    draws = np.array(
        [zlib.crc32(f"{config.seed} {c}".encode()) for c in frame["customer_id"]], dtype=float
    )
    is_chosen = draws / 2**32 < config.validation_share
    newest = days.max()
    is_held_out = is_chosen & (days == newest)
    is_learned = ~is_chosen | (days + learned_days <= newest)
    return (is_learned, is_held_out) if is_learned.any() else (~is_learned, is_learned)


def _sorted_rows(frame: Frame) -> Array:
    keys = frame[["as_of_date", "customer_id"]].reset_index(drop=True)
    return keys.sort_values(["as_of_date", "customer_id"], kind="stable").index.to_numpy()
