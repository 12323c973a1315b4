"""Simulate a shop: parts of customers in threads, Parquet out, the truth beside it."""

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulator import campaigns, customers, dirt, orders, products, reviews, seasons, visits
from simulator.customers import (
    DROPOUT_SCALE_DAYS,
    DROPOUT_SHAPE,
    RATE_SCALE_DAYS,
    RATE_SHAPE,
    RATES,
    REPORTING_CURRENCY,
)
from simulator.products import Catalogue
from simulator.seasons import Clock
from simulator.writing import write

LINES_PER_PART = 300_000  # about; not of the machine, or the bytes would be
MOST_AT_ONCE = 4  # parts, of 250 MB each at most
MOST_PARTS = 9_999  # an identifier has four digits for the part
MOST_DAYS = 13_000  # loads take nothing from before 1990
_STREAMS = ("catalogue", "truth", "profiles", "contacts", "orders", "lines", "visits", "events",
            "reviews", "answers", "dirt")  # fmt: skip

T = TypeVar("T")


class WrongConfig(ValueError):
    """No shop can be made of this. The message says of what, and what to do."""


@dataclass(frozen=True)
class Config:
    """A shop of `customers` that was open for `days`, until the end of 2025.

    dirt: share of damaged rows in every table. currencies: what the shop takes, of
    `customers.RATES`; who has another one pays in the first. threads: for speed, nothing else.
    """

    customers: int
    days: int
    seed: int = 0
    dirt: float = 0.0
    currencies: tuple[str, ...] = (REPORTING_CURRENCY,)
    threads: int = 2


@dataclass(frozen=True)
class Summary:
    """Where the shop is, and the rows of each of its tables."""

    out: Path
    rows: dict[str, int]


@dataclass
class _Part:
    """What a part leaves in memory: rows by table, and its rows of the files of the truth."""

    rows: dict[str, int] = field(default_factory=dict)
    truth: dict[str, pa.Table] = field(default_factory=dict)


def simulate(
    config: Config, out: Path, progress: Callable[[str], None] = lambda message: None
) -> Summary:
    """Write the seven tables and the truth to `out` as Parquet: all of it, or nothing.

    order_lines-0001.parquet and so on hold the rows of some customers each; truth.parquet has a row
    per customer (`customers.truth`), truth_contacts.parquet per contact (`campaigns.truth`),
    dirt.parquet per damaged row (`dirt.soil`). The same config gives the same bytes, and more
    customers leave the full parts before them as they were.
    Raises WrongConfig: `out` holds something, or a setting is out of its range.
    """
    out = out.resolve()
    _refuse(config, out)
    draft = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        rows = _write_shop(config, draft, progress)
        if out.exists():
            out.rmdir()
        draft.rename(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return Summary(out, rows)


def part_sizes(customers: int, days: int) -> list[int]:
    """Customers of each part; as many as make LINES_PER_PART by what Pareto/NBD expects.

    E[X(t)] of Schmittlein et al. (1987), at half the days: that is how long customers are known.
    Raises WrongConfig: more parts than identifiers can tell apart.
    """
    r, a, s, b = RATE_SHAPE, RATE_SCALE_DAYS, DROPOUT_SHAPE, DROPOUT_SCALE_DAYS
    repeat = r * b / (a * (s - 1)) * (1 - (b / (b + days / 2)) ** (s - 1))
    each = int(LINES_PER_PART / (3 * (1 + repeat)))
    full, rest = divmod(customers, each)
    if full >= MOST_PARTS:
        raise WrongConfig(
            f"{customers:,} customers are too many for the identifiers. At most "
            f"{MOST_PARTS * each:,} can be simulated for {days:,} days."
        )
    return [each] * full + [rest] * (rest > 0)


def in_order(make: Callable[[int], T], count: int, threads: int) -> Iterator[T]:
    """make(1) to make(count), in this order, made by threads; at most MOST_AT_ONCE at a time.

    No more than one thing for each thread waits until it is asked for.
    """
    threads = min(threads, MOST_AT_ONCE)
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for number in range(1, count + 1):
            waiting.append(pool.submit(make, number))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _refuse(config: Config, out: Path) -> None:
    unknown = [name for name in config.currencies if name not in RATES]
    if unknown or not config.currencies:
        raise WrongConfig(
            f"The simulator does not know the currency {', '.join(unknown) or '(none given)'}. "
            f"It knows {', '.join(RATES)}."
        )
    if config.customers < 1 or config.days < 1 or config.seed < 0 or config.threads < 1:
        raise WrongConfig("Customers, days and threads must be 1 or more, the seed 0 or more.")
    if not 0 <= config.dirt <= 0.5:
        raise WrongConfig(f"A share of dirt is between 0 and 0.5, not {config.dirt}.")
    if config.days > MOST_DAYS:
        raise WrongConfig(f"At most {MOST_DAYS:,} days can be simulated, not {config.days:,}.")
    part_sizes(config.customers, config.days)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WrongConfig(f"{out} is not empty. Name a new folder, or remove it first.")


def _write_shop(config: Config, out: Path, progress: Callable[[str], None]) -> dict[str, int]:
    clock = seasons.clock(config.days)
    catalogue = products.catalogue(_generator(config, "catalogue", 0))
    shared = _Part()
    _write(config, out, 0, "products", catalogue.table, shared)
    _write(config, out, 0, "campaigns", campaigns.table(config.days), shared)
    rows = shared.rows
    sizes = part_sizes(config.customers, config.days)
    with _TruthFiles(out) as truth:
        truth.append(shared.truth)

        def simulate_part(number: int) -> _Part:
            return _write_part(config, number, sizes[number - 1], clock, catalogue, out)

        for number, part in enumerate(in_order(simulate_part, len(sizes), config.threads), 1):
            for name, count in part.rows.items():
                rows[name] = rows.get(name, 0) + count
            truth.append(part.truth)
            progress(f"Part {number} of {len(sizes)}: {rows['order_lines']:,} order lines")
    return rows


def _write_part(
    config: Config, number: int, size: int, clock: Clock, catalogue: Catalogue, out: Path
) -> _Part:
    def rng(stream: str) -> np.random.Generator:
        return _generator(config, stream, number)

    part = _Part()

    def land(name: str, table: pa.Table) -> None:
        _write(config, out, number, name, table, part)

    people = customers.draw(rng("truth"), size, number, clock, catalogue, config.currencies)
    contacts = campaigns.contact(rng("contacts"), people, clock)
    bought, redeemed = orders.purchase(rng("orders"), people, contacts, clock)
    lines = orders.sell(rng("lines"), bought, contacts, people, catalogue, clock)
    visited = visits.visit(rng("visits"), people, bought, lines, clock)
    shop = (people, catalogue, clock, number)
    land("customers", customers.table(rng("profiles"), people, clock, number))
    land("order_lines", orders.table(bought, lines, people, clock, number))
    land("events", visits.table(rng("events"), visited, lines, *shop))
    land("reviews", reviews.table(rng("reviews"), bought, lines, *shop))
    answers = rng("answers")
    land(
        "campaign_contacts",
        campaigns.contact_table(answers, contacts, people, clock, number, redeemed),
    )
    part.truth["truth"] = customers.truth(people, clock)
    part.truth["truth_contacts"] = campaigns.truth(contacts, people, clock, number)
    return part


def _write(config: Config, out: Path, number: int, name: str, table: pa.Table, part: _Part) -> None:
    """Write a table of a part (0: the whole shop's), dirty where wanted, and count its rows."""
    file = f"{name}-{number:04d}.parquet" if number else f"{name}.parquet"
    if config.dirt:
        stream = _generator(config, "dirt", number, list(dirt.KEYS).index(name))
        table, damaged = dirt.soil(stream, table, name, file, config.dirt)
        before = part.truth.get("dirt")
        part.truth["dirt"] = damaged if before is None else pa.concat_tables([before, damaged])
    write(table, out / file)
    part.rows[name] = table.num_rows


def _generator(config: Config, stream: str, *place: int) -> np.random.Generator:
    """Random numbers of one stream and place: what one stream draws moves no other."""
    seed = np.random.SeedSequence([config.seed, _STREAMS.index(stream), *place])
    return np.random.Generator(np.random.SFC64(seed))


class _TruthFiles(AbstractContextManager):
    """truth.parquet and its like, written part by part."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.writers: dict[str, pq.ParquetWriter] = {}

    def append(self, tables: dict[str, pa.Table]) -> None:
        for name, table in tables.items():
            if name not in self.writers:
                file = self.out / f"{name}.parquet"
                self.writers[name] = pq.ParquetWriter(file, table.schema, store_schema=False)
            self.writers[name].write_table(table)

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            writer.close()
