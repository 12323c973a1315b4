"""How many events a second the sequence model learns from and answers, beside bare PyTorch.

    make bench
    .venv/bin/python -m bench.sequence --customers 20000 --steps 100

Nothing is read from a warehouse: the streams are drawn here. The bare loops have every batch as
tensors before they begin, and do no more than PyTorch asks for: forward, backward, AdamW. Ours
reads the batches from the streams, seeds each step, follows the schedule, clips the gradient and
tells its progress. Both go through the same batches, a step of ours and a bare one in turns: what
else the machine does meanwhile happens to both.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from bench.machine import page
from ml.streams import Streams

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = np.ndarray
Frame = pd.DataFrame

UNTIL = date(2026, 1, 1)
HISTORY_DAYS = 730
HORIZON_DAYS = 90
MEAN_EVENTS = 100  # of a customer; few have many and many have few
FEATURES = 40
PRETRAINING, FINE_TUNING, EMBEDDING = "pre-training", "fine-tuning", "embedding"


class Moment(NamedTuple):
    """Wall and processor seconds."""

    wall: float
    processor: float


@dataclass
class Way:
    seconds: float = 0.0
    processor_seconds: float = 0.0

    def add(self, began: Moment, ended: Moment) -> None:
        self.seconds += ended.wall - began.wall
        self.processor_seconds += ended.processor - began.processor


def main() -> None:
    """Race, and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=100, help="of each stage")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result there too")
    given = parser.parse_args()
    events = draw(given.customers)
    text = _page(given.customers, int(events.offsets[-1]), race(events, given.steps))
    print(text)
    if given.write:
        given.write.write_text(text)


def draw(customers: int) -> Streams:
    """Streams of two years: how many events a customer has is lognormal, when they come uniform."""
    rng = np.random.default_rng(0)
    count = np.maximum(rng.lognormal(np.log(MEAN_EVENTS) - 0.5, 1, customers).astype(int), 1)
    offsets = np.r_[0, np.cumsum(count)]
    n = int(offsets[-1])
    newest = np.datetime64(UNTIL, "s").astype(np.int64)
    owner = np.repeat(np.arange(customers), count)
    drawn = newest - rng.integers(1, HISTORY_DAYS * 86_400, n)
    occurred_at = drawn[np.lexsort((drawn, owner))]
    day = (occurred_at // 86_400).astype(np.int32)
    since = np.diff(occurred_at, prepend=occurred_at[0]).astype(np.float32)
    since[offsets[:-1]] = np.nan
    return Streams(
        customer_ids=np.array([f"{place:032x}".encode() for place in range(customers)]),
        offsets=offsets,
        known_on=day + 1,
        occurred_at=occurred_at,
        kind=rng.integers(1, 17, n, dtype=np.int8),
        category_code=rng.integers(1, 500, n, dtype=np.int32),
        product_bucket=rng.integers(1, 8193, n, dtype=np.int16),
        log_amount=np.where(rng.random(n) < 0.3, rng.normal(3, 1, n), 0).astype(np.float32),
        seconds_since_last=since,
        hour=(occurred_at // 3_600 % 24).astype(np.int8),
        weekday=((day + 3) % 7 + 1).astype(np.int8),
    )


def draw_rows(events: Streams) -> tuple[Frame, Frame]:
    """Every customer at one cutoff, with static features; what they spend is chance."""
    rng = np.random.default_rng(1)
    customers = len(events.customer_ids)
    keys = pd.DataFrame({
        "customer_id": events.customer_ids.astype(str),
        "as_of_date": pd.Timestamp(UNTIL - timedelta(days=HORIZON_DAYS)),
    })  # fmt: skip
    values = rng.exponential(100, (customers, FEATURES))
    names = [f"feature_{place:02}" for place in range(FEATURES)]
    spend = np.where(rng.random(customers) < 0.4, rng.lognormal(4, 1, customers), 0)
    frame = pd.concat([keys, pd.DataFrame(values, columns=names)], axis=1)
    return frame, keys.assign(spend=spend, is_purchased=spend > 0)


def now() -> Moment:
    return Moment(time.perf_counter(), time.process_time())


class Turns:
    """Ours and the bare way take turns, step by step. As the callback of a training it is told when
    a step of ours ended. The first steps pay for what is made once, and do not count."""

    def __init__(self, bare: Callable[[int], object]) -> None:
        self.take_bare = bare
        self.ours, self.bare = Way(), Way()
        self.began: Moment | None = None

    def __call__(self, report: Mapping[str, Any]) -> None:
        ended = now()
        if self.began is not None:
            self.ours.add(self.began, ended)
        began = now()
        self.take_bare(report["step"] - 1)
        if self.began is not None:
            self.bare.add(began, now())
        self.began = now()


def race(events: Streams, steps: int) -> Iterator[tuple[str, int, Way, Way]]:
    """The name and the events of each way, then the time of ours and of the bare one."""
    import torch

    from ml import sequence, sequence_model, sequence_training, streams
    from ml.training_loop import Config, machine

    config = Config(max_steps=steps, pretraining_epochs=1, epochs=1, validation_share=0.0)
    frame, labels = draw_rows(events)
    cpu = torch.device("cpu")

    def read(cuts: streams.Cuts, parts: Sequence[Array]) -> tuple[int, list[streams.Batch]]:
        """All but the first batch's events, and the batches."""
        whole = [
            sequence_model.tensors(streams.read(events, cuts.take(part)), cpu) for part in parts
        ]
        return sum(int(cuts.lengths[part].sum()) for part in parts[1:]), whole

    cuts = streams.windows(events, UNTIL, config.network.max_events)
    size, seed = config.pretraining_batch_size, (config.seed, 0, 0)
    count, batches = read(cuts, streams.batches(cuts.lengths, size, seed)[:steps])
    network = sequence.NextEvent(config.network)
    turns = Turns(learner(network, config.pretraining_learning_rate, lambda i: network(batches[i])))
    backbone = sequence_training.pretrain(events, UNTIL, config, callback=turns)
    yield PRETRAINING, count, turns.ours, turns.bare

    cuts = sequence_model.cuts_of(events, frame, config)
    parts = streams.batches(cuts.lengths, config.batch_size, (config.seed, 1, 0))[:steps]
    count, batches = read(cuts, parts)
    names = tuple(f"feature_{place:02}" for place in range(FEATURES))
    values = torch.from_numpy(sequence_model.static_features(frame, names))
    targets = torch.full((len(frame), len(sequence.TASKS)), torch.nan)
    targets[:, :2] = torch.from_numpy(labels[["spend", "is_purchased"]].to_numpy(dtype=float))
    given = [(values[part], targets[part]) for part in parts]
    value = sequence.CustomerValue(config.network, FEATURES, (0.0, 4.0, 8.0))
    turns = Turns(
        learner(
            value,
            config.learning_rate,
            lambda i: sequence.value_losses(value(batches[i], given[i][0]), given[i][1]),
        )
    )
    model = sequence_training.fit(
        frame, labels, HORIZON_DAYS, events, config, backbone, callback=turns
    )
    yield FINE_TUNING, count, turns.ours, turns.bare

    parts = list(streams.batches_by_length(cuts.lengths, sequence_model.ROWS_AT_ONCE))
    count, batches = read(cuts, parts)
    with machine(config), torch.inference_mode():
        turns = Turns(lambda i: model.network(batches[i], values[parts[i]]))
        for step, part in enumerate(parts, 1):
            sequence_model.embed(model, frame.iloc[part], events)
            turns({"step": step})
    yield EMBEDDING, count, turns.ours, turns.bare


def learner(
    network: "nn.Module", rate: float, losses: "Callable[[int], tuple[Tensor, Tensor]]"
) -> Callable[[int], None]:
    """A bare step on the batch of a place."""
    import torch

    optimizer = torch.optim.AdamW(network.parameters(), rate, fused=True)

    def learn(place: int) -> None:
        optimizer.zero_grad()
        sums, counts = losses(place)
        (sums / counts.clamp(min=1)).sum().backward()
        optimizer.step()

    return learn


def _page(customers: int, events: int, raced: Iterable[tuple[str, int, Way, Way]]) -> str:
    """The result as Markdown."""
    import torch

    described = (
        f"Simulated streams: {events:,} events of {customers:,} customers. The bare loop has the "
        f"same batches as tensors before it begins. Events are real ones, without padding. One "
        f"thread."
    )
    table = ["| way | events | s | CPU s | events/s |", "|:--|--:|--:|--:|--:|"]
    ratios = ["| ratio | of seconds | of CPU seconds |", "|:--|--:|--:|"]
    for name, count, ours, bare in raced:
        print(f"{name}: {ours.seconds:.1f} s", file=sys.stderr)
        table += [
            f"| {kind} | {count:,} | {way.seconds:.1f} | {way.processor_seconds:.1f} "
            f"| {count / way.seconds:,.0f} |"
            for kind, way in ((name, ours), (f"bare {name}", bare))
        ]
        wall = ours.seconds / bare.seconds
        processor = ours.processor_seconds / bare.processor_seconds
        ratios.append(f"| {name} / bare {name} | {wall:.2f} | {processor:.2f} |")
    libraries = f"PyTorch {torch.__version__}"
    return page("How long the sequence model takes", described, table, ratios, libraries)


if __name__ == "__main__":
    main()
