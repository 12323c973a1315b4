"""Pre-training, fine-tuning, prediction and storage of the sequence model. No clock, no pickle.

Pre-training reads every event up to the newest training cutoff and asks what comes next;
fine-tuning reads what each cutoff knew and asks what the customer was worth after it.

Who is left out to stop in time: a share of the customers, at the newest training cutoff. They are
learned from only at cutoffs whose windows had closed by then, because a window that overlaps theirs
would tell what it holds; all others are learned from at every cutoff, the newest too.

Every step seeds its own dropout and every epoch its own order, both from Config.seed, so the number
of steps done is all there is to know of chance: a run that was killed goes on to the same bits.

Under torch.distributed (`torchrun`; whoever starts the process initialises the group) each process
takes its part of every batch and the gradient is that of the whole batch. CUDA where there is one.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import torch as safetensors
from torch import Tensor, distributed, nn

from ml import sequence, streams
from ml.lightgbm_hurdle import AMOUNT_IN_RANKING, feature_columns, matrix
from ml.metrics import Prediction
from ml.sequence import TASKS, Answers, CustomerValue, NextEvent
from ml.streams import Batch, Cuts, Streams

Array = np.ndarray
Frame = pd.DataFrame
Weights = Mapping[str, Tensor]
Callback = Callable[[dict[str, Any]], None]

FORMAT = 1
ROWS_AT_ONCE = 512  # customers in a batch that nothing is learned from
ROWS_EXPLAINED_AT_ONCE = 64
INTEGRATION_STEPS = 128


@dataclass(frozen=True)
class Config:
    """How the network is trained. threads are part of the result: sums of floats depend on how
    they are shared out. One by default: where the cores are busy with something else two wait for
    each other, and were measured at up to six times the time of one.

    pretraining_epochs over all pieces of all streams; epochs over the rows, but no more than
    max_steps batches together: a shop of ten million customers has seen enough before one epoch
    is over. validate_steps: after how many the held-out customers are asked, or an epoch where that
    is shorter. patience: how often in a row they may do no better. checkpoint_steps: how much a
    killed run loses.
    """

    network: sequence.Config = field(default_factory=sequence.Config)
    pretraining_epochs: int = 2
    pretraining_batch_size: int = 32
    pretraining_learning_rate: float = 2e-3
    epochs: int = 3
    max_steps: int = 20_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    validation_share: float = 0.2
    validate_steps: int = 250
    patience: int = 3
    checkpoint_steps: int = 100
    seed: int = 0
    threads: int = 1


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


@dataclass(frozen=True)
class Stage:
    """A training run: what it learns and in which order. Only `_run` goes through it.

    batches: an epoch's rows, batch by batch. losses: sums and counts (tasks,) of some rows.
    validate: the loss of the customers held out, or None.
    fingerprint: of everything that decides the result.
    """

    name: str
    tasks: tuple[str, ...]
    learning_rate: float
    steps: int
    batches: Callable[[int], list[Array]]
    losses: Callable[[Array], tuple[Tensor, Tensor]]
    validate: Callable[[], float] | None
    fingerprint: str


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
                fingerprint=_fingerprint(config, *cuts),
            )
            _run(stage, network, config, device, checkpoints, callback)
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
    values = _features(frame, features)
    tasks = tuple(task for task in TASKS if task in labels)
    targets = np.full((len(frame), len(TASKS)), np.nan, dtype=np.float32)
    for task in tasks:
        targets[:, TASKS.index(task)] = labels[task].to_numpy(dtype=float, na_value=np.nan)
    learned_days = horizon_days
    if "horizon_days" in labels:
        learned_days = int(labels["horizon_days"].iloc[0])
    days = _days(frame)
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
                with _precision(device):
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
            fingerprint=_fingerprint(config, *cuts, values, targets, *backbone.values()),
        )
        _run(stage, network, config, device, checkpoints, callback)
        network.cpu()
    model = Model(network.eval(), features, tasks, horizon_days, learned_days, 1.0, config)
    newest = days == days.max()
    predicted = _expected(model, ask(model, frame[newest], events))
    actual = float(spend[newest].sum())
    calibration = actual / float(predicted.sum()) if actual > 0 else 1.0
    return replace(model, calibration=calibration)


def predict(model: Model, frame: Frame, events: Streams) -> Prediction:
    """Expected spend, purchase and high-value probability of the frame's customers, row by row.

    Of the events only those known on a row's as_of_date are read. Raises ValueError where a column
    that the model was trained on is missing. Windows longer than those learned hold as many times
    the spend, and chances to buy, as they have days.
    """
    answers = ask(model, frame, events)
    longer = model.horizon_days / model.learned_days
    expected = _expected(model, answers) * model.calibration * longer
    chance = np.minimum(_chance(answers.purchase), 1 - 1e-12)
    purchase = -np.expm1(longer * np.log1p(-chance))
    ranking = purchase ** (1 - AMOUNT_IN_RANKING) * expected**AMOUNT_IN_RANKING
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
    values = _features(frame, model.features)
    cuts = cuts_of(events, frame, model.config)
    found: Answers | None = None
    with machine(model.config) as device, torch.inference_mode():
        network = model.network.to(device).eval()
        for rows in streams.batches_by_length(cuts.lengths, ROWS_AT_ONCE):
            batch = tensors(streams.read(events, cuts.take(rows)), device)
            with _precision(device):
                answers = network(batch, torch.from_numpy(values[rows]).to(device))
            if found is None:
                found = Answers(*(torch.empty(len(frame), *a.shape[1:]) for a in answers))
            for whole, part in zip(found, answers, strict=True):
                whole[torch.from_numpy(rows)] = part.float().cpu()
    if found is None:
        raise ValueError("the frame has no rows: there is nobody to predict")
    return found


def attributions(model: Model, frame: Frame, events: Streams) -> tuple[Array, Array, Array]:
    """What each event moves the logarithm of expected spend by: (n, l), 0 where padded; then that
    logarithm (n,), and the same with all events blank (n,). A row sums to the difference.

    Integrated gradients over the event embeddings (Sundararajan, Taly & Yan 2017), from the blank
    that the network learned beside the events.
    """
    from captum.attr import IntegratedGradients

    with machine(model.config) as device:
        network = model.network.to(device).eval()
        cuts = cuts_of(events, frame, model.config)
        batch = tensors(streams.read(events, cuts), device)
        features = torch.from_numpy(_features(frame, model.features)).to(device)

        def value(embedded: Tensor, days: Tensor, length: Tensor, features: Tensor) -> Tensor:
            answers = network.answer(network.backbone.encode(embedded, days), length, features)
            return sequence.ziln_log_mean(answers.spends, answers.mu, answers.sigma)

        given = batch.days, batch.length, features
        with torch.no_grad():
            embedded = network.backbone.embedding(batch)
            blank = network.backbone.blank.detach().expand_as(embedded).contiguous()
            ends = value(embedded, *given), value(blank, *given)
        moved = IntegratedGradients(value).attribute(
            embedded,
            baselines=blank,
            additional_forward_args=given,
            n_steps=INTEGRATION_STEPS,
            internal_batch_size=ROWS_AT_ONCE,
        )
        by_event, at_events, at_blank = (
            found.detach().cpu().double().numpy() for found in (moved.sum(dim=-1), *ends)
        )
    return by_event, at_events, at_blank


def top_events(model: Model, events: Streams, frame: Frame, n: int) -> Frame:
    """The n events of each of the frame's customers that move expected spend most, either way.

    Columns: customer_id, as_of_date, rank (from 1), event (its place in the streams' columns),
    kind, occurred_at (UTC) and effect: what the logarithm of expected spend is moved by against a
    blank event. Whoever has fewer events has fewer rows.
    """
    cuts = cuts_of(events, frame, model.config)
    kept = np.minimum(cuts.lengths, n)
    row = np.repeat(np.arange(len(frame)), kept)
    rank = np.arange(row.size) - np.repeat(np.cumsum(kept) - kept, kept)
    place, effect = np.zeros((len(frame), n), dtype=np.int64), np.zeros((len(frame), n))
    for rows in streams.batches_by_length(cuts.lengths, ROWS_EXPLAINED_AT_ONCE):
        moved, *_ = attributions(model, frame.iloc[rows], events)  # padding moves nothing: last
        first = np.argsort(-np.abs(moved), axis=1, kind="stable")[:, :n]
        place[rows, : first.shape[1]] = first
        effect[rows, : first.shape[1]] = np.take_along_axis(moved, first, axis=1)
    event = cuts.start[row] + place[row, rank]
    found = frame[["customer_id", "as_of_date"]].iloc[row].reset_index(drop=True)
    return found.assign(
        rank=rank + 1,
        event=event,
        kind=events.kind[event],
        occurred_at=np.asarray(events.occurred_at[event]).astype("datetime64[s]"),
        effect=effect[row, rank],
    )


def to_files(model: Model, folder: Path) -> None:
    """Write weights.safetensors and model.json, which holds their SHA-256, into an existing
    folder."""
    folder = Path(folder)
    weights = _packed({k: v.cpu() for k, v in model.network.state_dict().items()})
    (folder / "weights.safetensors").write_bytes(weights)
    about = {
        "format": FORMAT,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "features": list(model.features),
        "tasks": list(model.tasks),
        "horizon_days": model.horizon_days,
        "learned_days": model.learned_days,
        "calibration": model.calibration,
        "config": asdict(model.config),
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def from_files(folder: Path) -> Model:
    """The model that `to_files` wrote. Raises ValueError where the files do not belong together;
    weights that are not those of model.json are not even parsed."""
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if about.pop("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'} is of another format than {FORMAT}; train the model again"
        )
    weights = _unpacked(folder / "weights.safetensors", about.pop("sha256"))
    config = _config(about.pop("config"))
    features, tasks = tuple(about.pop("features")), tuple(about.pop("tasks"))
    network = CustomerValue(config.network, len(features), (0.0, 1.0, 2.0))
    _load(network, weights, folder)
    return Model(network.eval(), features, tasks, config=config, **about)


def tensors(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in batch))


def _run(
    stage: Stage,
    network: nn.Module,
    config: Config,
    device: torch.device,
    checkpoints: Path | None,
    callback: Callback | None,
) -> None:
    """Train the network in place: AdamW, warm-up and cosine, and the weights that did best on the
    customers held out, where there are any."""
    rank, processes = _place()
    optimizer = torch.optim.AdamW(
        network.parameters(), stage.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = _Progress(step=0, best_loss=float("inf"), worse=0, best=_copied(network))
    if checkpoints is not None:
        state = _resumed(checkpoints, stage, network, optimizer, state)
    per_epoch = len(stage.batches(0))
    epoch, batches = -1, []
    while state.step < stage.steps and state.worse < config.patience:
        if state.step // per_epoch != epoch:
            epoch = state.step // per_epoch
            batches = stage.batches(epoch)
        rows = batches[state.step % per_epoch]
        network.train()
        seed = np.random.SeedSequence((config.seed, state.step, rank)).generate_state(1)
        torch.manual_seed(int(seed[0]))
        learning_rate = stage.learning_rate * _schedule(state.step, stage.steps, config)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        with _precision(device):
            sums, counts = stage.losses(rows[rank::processes])
        by_task = sums / _summed(counts).clamp(min=1)  # this process' share of the mean losses
        optimizer.zero_grad()
        by_task.sum().backward()
        _sum_gradients(network)
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
        optimizer.step()
        state.step += 1
        shown = _summed(by_task.detach())
        report: dict[str, Any] = {
            "stage": stage.name,
            "step": state.step,
            "steps": stage.steps,
            "examples": rows.size,
            "learning_rate": learning_rate,
            "loss": float(shown.sum()),
            **{f"loss_{task}": float(loss) for task, loss in zip(stage.tasks, shown, strict=True)},
        }
        every = min(config.validate_steps, per_epoch)
        if stage.validate and (state.step % every == 0 or state.step == stage.steps):
            network.eval()
            with torch.inference_mode():
                loss = stage.validate()
            report["validation_loss"] = loss
            if loss < state.best_loss:
                state.best_loss, state.worse, state.best = loss, 0, _copied(network)
            else:
                state.worse += 1
        if checkpoints is not None and rank == 0 and (
            state.step % config.checkpoint_steps == 0 or state.step == stage.steps
        ):  # fmt: skip
            _checkpoint(checkpoints, stage, network, optimizer, state)
        if callback is not None:
            callback(report)
    if stage.validate:
        network.load_state_dict(state.best)
    network.eval()


@dataclass
class _Progress:
    """best: the weights with best_loss. worse: validations in a row since that did no better."""

    step: int
    best_loss: float
    worse: int
    best: dict[str, Tensor]


def _schedule(step: int, steps: int, config: Config) -> float:
    """Share of the learning rate: up in a line, then down half a cosine (Loshchilov & Hutter
    2017)."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


def _summed(values: Tensor) -> Tensor:
    """The sum over all processes, on each of them."""
    if _place()[1] > 1:
        values = values.clone()
        distributed.all_reduce(values)
    return values


def _sum_gradients(network: nn.Module) -> None:
    """Every process gets the gradient of the whole batch, all parameters in one message."""
    if _place()[1] > 1:
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = _summed(torch.cat([gradient.flatten() for gradient in gradients]))
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _place() -> tuple[int, int]:
    """Which process this is, and of how many."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


@contextmanager
def machine(config: Config) -> Iterator[torch.device]:
    """The device, with as many threads as the config says; what is drawn inside and the threads
    are nobody else's business."""
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield device
    finally:
        torch.set_num_threads(before)


def _precision(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _checkpoint(
    folder: Path,
    stage: Stage,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: _Progress,
) -> None:
    """The weights first, under the step's own name, then the JSON that points to them: whenever
    the process is killed, the JSON names weights that are whole."""
    folder = Path(folder)
    packed = {f"network.{k}": v for k, v in network.state_dict().items()}
    packed |= {f"best.{k}": v for k, v in state.best.items()}
    for i, moments in optimizer.state_dict()["state"].items():
        packed |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
    weights = _packed({k: v.cpu() for k, v in packed.items()})
    name = f"{stage.name}-{state.step}.safetensors"
    (folder / name).write_bytes(weights)
    about = {
        "fingerprint": stage.fingerprint,
        "step": state.step,
        "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
        "worse": state.worse,
        "weights": name,
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    draft = folder / f"{stage.name}.json.draft"
    draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    draft.replace(folder / f"{stage.name}.json")
    for older in folder.glob(f"{stage.name}-*.safetensors"):
        if older.name != name:
            older.unlink()


def _resumed(
    folder: Path,
    stage: Stage,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: _Progress,
) -> _Progress:
    """Where the folder's checkpoint of the stage left off, or the beginning without one."""
    about_path = Path(folder) / f"{stage.name}.json"
    if not about_path.exists():
        return state
    about = json.loads(about_path.read_text(encoding="utf-8"))
    if about["fingerprint"] != stage.fingerprint:
        raise ValueError(
            f"{about_path} is of a run with another configuration or other data; give an empty "
            "folder, or remove the checkpoint to begin again"
        )
    packed = _unpacked(Path(folder) / about["weights"], about["sha256"])
    network.load_state_dict(_under(packed, "network."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in _under(packed, "optimizer.").items():
        place, name = key.split(".")
        moments.setdefault(int(place), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    loss = about["best_loss"]
    return _Progress(
        about["step"],
        float("inf") if loss is None else loss,
        about["worse"],
        _under(packed, "best."),
    )


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


def _under(packed: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in packed.items() if k.startswith(prefix)}


def _packed(weights: Weights) -> bytes:
    return safetensors.save({k: v.contiguous() for k, v in weights.items()})


def _unpacked(path: Path, sha256: str) -> dict[str, Tensor]:
    """Raises ValueError, before a byte is parsed, where they are not those that were written."""
    weights = path.read_bytes()
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise ValueError(f"{path} is not what was written with the JSON beside it; train again")
    return safetensors.load(weights)


def _load(network: nn.Module, weights: Weights, folder: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} are of another network than model.json says; train again"
        ) from error


def _config(about: dict[str, Any]) -> Config:
    return Config(**{**about, "network": sequence.Config(**about["network"])})


def _fingerprint(config: Config, *arrays: Array | Tensor) -> str:
    """Of the data and the config, but for how often to checkpoint."""
    asked = asdict(replace(config, checkpoint_steps=0))
    found = hashlib.sha256(json.dumps(asked).encode())
    for values in arrays:
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


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


def _features(frame: Frame, features: tuple[str, ...]) -> Array:
    """(n, features) float32, as large as it can hold where a number is larger; NaN where null."""
    limit = float(np.finfo(np.float32).max)
    return np.clip(matrix(frame, features), -limit, limit)


def _days(frame: Frame) -> Array:
    """(n,) days since 1970-01-01"""
    stamps = pd.to_datetime(frame["as_of_date"]).to_numpy().astype("datetime64[D]")
    return stamps.astype(np.int64)


def cuts_of(events: Streams, frame: Frame, config: Config) -> Cuts:
    """What each of the frame's days knows of its customer, row by row."""
    days = _days(frame).astype("datetime64[D]")
    return streams.cut(events, frame["customer_id"].to_numpy(), days, config.network.max_events)


def _expected(model: Model, answers: Answers) -> Array:
    """(n,) before the total is calibrated"""
    return np.exp(model.network.cpu().log_expected(answers).double().numpy())


def _chance(log_odds: Tensor) -> Array:
    return log_odds.double().sigmoid().numpy()
