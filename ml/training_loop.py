"""Steps of learning, whatever is learned: order, schedule, checkpoints, processes. No clock.

Every step seeds its own dropout and every epoch its own order, both from Config.seed, so the number
of steps done is all there is to know of chance: a run that was killed goes on to the same bits.

Under torch.distributed (`torchrun`; whoever starts the process initialises the group) each process
takes its part of every batch and the gradient is that of the whole batch. CUDA where there is one.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from ml import sequence, weights
from ml.weights import Weights

Array = np.ndarray
Callback = Callable[[dict[str, Any]], None]


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


def read_config(about: dict[str, Any]) -> Config:
    """From what `dataclasses.asdict` gave."""
    return Config(**{**about, "network": sequence.Config(**about["network"])})


@dataclass(frozen=True)
class Stage:
    """A training run: what it learns and in which order. Only `run` goes through it.

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


def run(
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
        with precision(device):
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


def precision(device: torch.device) -> torch.autocast:
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
    name = f"{stage.name}-{state.step}.safetensors"
    sha256 = weights.to_file(packed, folder / name)
    about = {
        "fingerprint": stage.fingerprint,
        "step": state.step,
        "best_loss": state.best_loss if np.isfinite(state.best_loss) else None,
        "worse": state.worse,
        "weights": name,
        "sha256": sha256,
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
    packed = weights.from_file(Path(folder) / about["weights"], about["sha256"])
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


def fingerprint(config: Config, *arrays: Array | Tensor) -> str:
    """Of the data and the config, but for how often to checkpoint."""
    asked = asdict(replace(config, checkpoint_steps=0))
    found = hashlib.sha256(json.dumps(asked).encode())
    for values in arrays:
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
