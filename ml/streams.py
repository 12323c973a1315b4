"""The events of all customers as flat arrays, cut at a day without being copied. No I/O but .npy.

Customer i owns the events from offsets[i] to offsets[i + 1] (compressed sparse rows), in the order
in which they became known. What a day knows of a customer is therefore a prefix of the stream, and
a cut is two numbers. The arrays may be memory-mapped: a batch reads the events it needs and no
more, so a stream of a hundred million events (3 GB) takes no memory of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Array = np.ndarray

DTYPES = {
    "known_on": np.int32,  # days since 1970-01-01
    "occurred_at": np.int64,  # seconds since 1970-01-01, UTC
    "kind": np.int8,
    "category_code": np.int32,
    "product_bucket": np.int16,
    "log_amount": np.float32,
    "seconds_since_last": np.float32,  # NaN where there is no event before
    "hour": np.int8,
    "weekday": np.int8,
}
LEGAL = {
    "kind": (1, 16),
    "category_code": (0, 2**28),
    "product_bucket": (0, 8192),
    "hour": (0, 23),
    "weekday": (1, 7),
}
NOT_SORTED = (
    'events must be sorted: order them by customer_id collate "C", position, '
    "where no later position was known on an earlier day"
)
SECONDS_PER_DAY = 86_400
LARGEST_LOG_AMOUNT = 30.0  # e^30 is more money than there is
OLDEST_DAYS = 10_000.0
BATCHES_IN_A_POOL = 50  # sorted by length together: enough to pad little, few enough to stay mixed


@dataclass(frozen=True)
class Streams:
    """customer_ids: (customers,) as UTF-8 bytes, ascending. offsets: (customers + 1,). All other
    columns: (events,), of the types of DTYPES."""

    customer_ids: Array
    offsets: Array
    known_on: Array
    occurred_at: Array
    kind: Array
    category_code: Array
    product_bucket: Array
    log_amount: Array
    seconds_since_last: Array
    hour: Array
    weekday: Array

    def __post_init__(self) -> None:
        events = int(self.offsets[-1]) if self.offsets.size else -1
        columns = {name: getattr(self, name).shape for name in DTYPES}
        if self.offsets.shape != (len(self.customer_ids) + 1,) or any(
            shape != (events,) for shape in columns.values()
        ):
            raise ValueError(
                f"{len(self.customer_ids)} customers and {events} events do not fit columns of "
                f"{columns}; write the stream again"
            )


class Cuts(NamedTuple):
    """What n days know of n customers: the events from start to end, each (n,); day (n,) is the
    cutoff in days since 1970-01-01."""

    start: Array
    end: Array
    day: Array

    @property
    def lengths(self) -> Array:
        return self.end - self.start

    def take(self, rows: Array) -> "Cuts":
        return Cuts(self.start[rows], self.end[rows], self.day[rows])


class Batch(NamedTuple):
    """The events of b customers, padded on the right to the longest of them; arrays or tensors.

    kind, category, product, hour, weekday: (b, l) integers, 0 where padded. amount: (b, l) signed
    logarithm of 1 + money. gap: (b, l) logarithm of 1 + seconds since the event before, has_gap:
    1 where there was one. age: (b, l) logarithm of 1 + days from the event to the cutoff, days:
    the days themselves. length: (b,) events that are no padding.
    """

    kind: Any
    category: Any
    product: Any
    hour: Any
    weekday: Any
    amount: Any
    gap: Any
    has_gap: Any
    age: Any
    days: Any
    length: Any


def from_table(table: pa.Table) -> Streams:
    """The streams of a table with customer_id and the columns of DTYPES.

    Rows come sorted by customer_id (by bytes, as collation "C" does) and position. Raises
    ValueError where they do not, where a number is outside of LEGAL, or where anything but
    seconds_since_last is null.
    """
    ids, offsets = _runs(table["customer_id"])
    columns = {name: _column(table, name) for name in DTYPES}
    starts = np.zeros(table.num_rows, dtype=bool)
    starts[offsets[:-1]] = True
    known_on = columns["known_on"]
    if (ids[1:] <= ids[:-1]).any() or ((known_on[1:] < known_on[:-1]) & ~starts[1:]).any():
        raise ValueError(NOT_SORTED)
    return Streams(ids, offsets, **columns)


def to_files(parts: Iterable[pa.Table], rows: int, folder: Path) -> None:
    """Write the streams of a table that comes in parts, as one .npy file for each column.

    Memory holds a part and the customers. rows: of all parts. folder: an existing one. Raises
    ValueError as `from_table` does, and where there are not as many rows.
    """
    folder = Path(folder)
    columns = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (rows,))
        for name, dtype in DTYPES.items()
    }
    ids, offsets = [np.empty(0, dtype="S1")], [np.empty(0, dtype=np.int64)]
    past, newest = 0, (b"", 0)  # the customer whose events came last, and what they reach up to
    for part in parts:
        one = from_table(part)
        if not one.kind.size:
            continue
        if past + one.kind.size > rows:
            raise ValueError(f"more than the {rows} events that were announced")
        if (one.customer_ids[0], one.known_on[0]) < newest:
            raise ValueError(NOT_SORTED)
        goes_on = int(one.customer_ids[0] == newest[0])  # a customer may be of two parts
        ids.append(one.customer_ids[goes_on:])
        offsets.append(past + one.offsets[goes_on:-1])
        for name, values in columns.items():
            values[past : past + one.kind.size] = getattr(one, name)
        past += one.kind.size
        newest = one.customer_ids[-1], one.known_on[-1]
    if past != rows:
        raise ValueError(f"{past} events instead of the {rows} that were announced")
    for values in columns.values():
        values.flush()
    np.save(folder / "customer_ids.npy", np.concatenate(ids), allow_pickle=False)
    np.save(folder / "offsets.npy", np.r_[np.concatenate(offsets), past], allow_pickle=False)


def from_files(folder: Path) -> Streams:
    """The streams that `to_files` wrote, memory-mapped. Raises ValueError where the files do not
    belong together."""
    names = ("customer_ids", "offsets", *DTYPES)
    return Streams(
        *(np.load(Path(folder) / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names)
    )


def find(streams: Streams, customer_ids: Sequence[str] | Array) -> Array:
    """(n,) place of each customer in streams.customer_ids, -1 of those without events."""
    known = streams.customer_ids
    wanted = np.array([str(customer).encode() for customer in customer_ids], dtype=bytes)
    if not known.size or not wanted.size:
        return np.full(wanted.size, -1)
    place = np.searchsorted(known, wanted)
    found = known[np.minimum(place, known.size - 1)] == wanted
    return np.where(found, place, -1)


def cut(
    streams: Streams, customer_ids: Sequence[str] | Array, days: Array, max_events: int
) -> Cuts:
    """The newest max_events events of each customer that were known on the customer's day.

    customer_ids, days: (n,), row by row; days as datetime64. Whoever has no events has length 0.
    One binary search for all rows at once: as many steps as the longest stream has bits.
    """
    day = np.asarray(days).astype("datetime64[D]").astype(np.int64)
    return _cut(streams, find(streams, customer_ids), day, max_events)


def windows(streams: Streams, until: date, max_events: int) -> Cuts:
    """All that was known on the day, of every customer, in pieces of at most max_events events.

    Pieces of a customer do not overlap and the newest is a full one. All have the same cutoff, the
    day itself: a cutoff of a piece's own would tell when its last event comes.
    """
    customers = np.arange(len(streams.customer_ids))
    day = np.full(customers.size, np.datetime64(until, "D").astype(np.int64))
    everything = _cut(streams, customers, day, int(streams.offsets[-1]))
    pieces = -(-everything.lengths // max_events)
    owner = np.repeat(customers, pieces)
    newer = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    end = everything.end[owner] - newer * max_events
    start = np.maximum(end - max_events, everything.start[owner])
    return Cuts(start, end, everything.day[owner])


def batches(lengths: Array, batch_size: int, seed: Sequence[int]) -> list[Array]:
    """All rows once, in batches of about equal length and in an order that the seed decides.

    lengths: (n,). Rows are shuffled and sorted by length within pools of BATCHES_IN_A_POOL batches;
    the batches are then shuffled. All have at least half of batch_size rows, where there are as
    many.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(lengths.size)
    found: list[Array] = []
    for pool in _parts(order, batch_size * BATCHES_IN_A_POOL):
        found += _parts(pool[np.argsort(lengths[pool], kind="stable")], batch_size)
    return [found[i] for i in rng.permutation(len(found))]


def batches_by_length(lengths: Array, batch_size: int) -> Iterator[Array]:
    """All rows once, the shortest first: the least padding, where order means nothing."""
    yield from _parts(np.argsort(lengths, kind="stable"), batch_size)


def read(streams: Streams, cuts: Cuts) -> Batch:
    """The events of the cuts as one padded batch, every number finite. Only these are read."""
    length = cuts.lengths
    steps = np.arange(max(int(length.max(initial=0)), 1))
    real = steps < length[:, None]
    at = np.where(real, cuts.start[:, None] + steps, 0)

    def column(name: str) -> Array:
        values = getattr(streams, name)
        return values[at] if values.size else np.zeros(at.shape, values.dtype)

    def code(name: str) -> Array:
        return np.where(real, column(name), 0).astype(np.int64)

    def number(values: Array) -> Array:
        return np.where(real, values, 0).astype(np.float32)

    seconds = column("seconds_since_last")
    cutoff = cuts.day[:, None] * SECONDS_PER_DAY
    days = np.clip((cutoff - column("occurred_at")) / SECONDS_PER_DAY, 0, OLDEST_DAYS)
    amount = np.nan_to_num(column("log_amount"))
    return Batch(
        kind=code("kind"),
        category=code("category_code"),
        product=code("product_bucket"),
        hour=np.where(real, code("hour") + 1, 0),
        weekday=code("weekday"),
        amount=number(np.clip(amount, -LARGEST_LOG_AMOUNT, LARGEST_LOG_AMOUNT)),
        gap=number(np.log1p(np.clip(np.nan_to_num(seconds), 0, None))),
        has_gap=number(np.isfinite(seconds)),
        age=number(np.log1p(days)),
        days=number(days),
        length=length.astype(np.int64),
    )


def _cut(streams: Streams, place: Array, day: Array, max_events: int) -> Cuts:
    has_events = place >= 0
    first = np.where(has_events, streams.offsets[place], 0).astype(np.int64)
    past = np.where(has_events, streams.offsets[place + 1], 0).astype(np.int64)
    low, high = first.copy(), past
    while (searching := np.flatnonzero(low < high)).size:
        middle = (low[searching] + high[searching]) // 2
        is_known = streams.known_on[middle] <= day[searching]
        low[searching] = np.where(is_known, middle + 1, low[searching])
        high[searching] = np.where(is_known, high[searching], middle)
    return Cuts(np.maximum(first, low - max_events), low, day)


def _parts(order: Array, size: int) -> list[Array]:
    """Parts of nearly equal size, none of them larger than asked."""
    return np.array_split(order, -(-order.size // size)) if order.size else []


def _runs(ids: pa.ChunkedArray) -> tuple[Array, Array]:
    """The customers in the order they come (customers,), and where each begins and the last ends
    (customers + 1,)."""
    if ids.null_count:
        raise ValueError(f"customer_id is null in {ids.null_count} events; every event has one")
    names, starts, past = [np.empty(0, dtype="S1")], [np.empty(0, dtype=np.int64)], 0
    for chunk in ids.chunks:
        runs = pc.call_function("run_end_encode", [chunk], pc.RunEndEncodeOptions(pa.int64()))
        ends = np.asarray(runs.run_ends)
        names.append(np.array([name.encode() for name in runs.values.to_pylist()], dtype=bytes))
        starts.append(past + np.r_[0, ends[:-1]] if ends.size else ends)
        past += len(chunk)
    customers, offsets = np.concatenate(names), np.concatenate(starts)
    is_new = np.r_[True, customers[1:] != customers[:-1]][: customers.size]
    return customers[is_new], np.r_[offsets[is_new], past].astype(np.int64)


def _column(table: pa.Table, name: str) -> Array:
    values = table[name]
    if name == "known_on":
        values = values.cast(pa.date32()).cast(pa.int32())
    elif name == "occurred_at":
        values = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif name == "seconds_since_last":
        values = pc.fill_null(values.cast(pa.float64()), float("nan"))
    if values.null_count:
        raise ValueError(f"{name} is null in {values.null_count} events; only the time since an "
                         "event before may be")  # fmt: skip
    found = np.concatenate(
        [np.empty(0, DTYPES[name]), *(np.asarray(chunk) for chunk in values.chunks)]
    )
    low, high = LEGAL.get(name, (None, None))
    if low is not None and found.size and (found.min() < low or found.max() > high):
        raise ValueError(f"{name} must lie from {low} to {high} in every event")
    return found.astype(DTYPES[name])
