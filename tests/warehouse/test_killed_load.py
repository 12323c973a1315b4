"""A load that is killed, and two at once: the tables are as before it or as after it."""

import contextlib
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil
import psycopg
import pytest
import shop_files

from warehouse.settings import Settings

LINES = 100_000
# What differs between two loads of the same files.
INCIDENTAL = frozenset({"file_id", "loaded_at", "quarantined_at", "run_id", "change_id"})

# The server's processes for this database, beside the one that asks.
BACKENDS = (
    "select pid from pg_stat_activity "
    "where datname = current_database() and pid <> pg_backend_pid()"
)

Start = Callable[..., subprocess.Popen[bytes]]
State = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A source, and beside it `files`: customers, products and a hundred thousand lines.

    Some are refused, so that a load writes quarantine too.
    """
    folder = tmp_path_factory.mktemp("killed")
    shop_files.canonical(folder / "shop", {"order_lines": {"bounds": {"quantity": [-1000, 1000]}}})
    for table, count in {"customers": 5_000, "products": 500}.items():
        file = folder / "files" / f"{table}.csv"
        shop_files.write_csv(file, table, shop_files.rows(table, count))
    with duckdb.connect() as duck:
        duck.execute(
            f"""
            copy (
                select
                    'o' || n // 4 as order_id,
                    n % 4 as line_number,
                    case when n % 50 <> 0 then 'c' || n * 7919 % 5000 end as customer_id,
                    timestamp '2024-01-01' + interval (n * 10) minute as ordered_at,
                    'p' || n * 31 % 500 as product_id,
                    case when n % 100 = 1 then 5000 else n % 5 + 1 end as quantity,
                    (n % 900 + 99) / 100 as unit_price,
                    0 as discount_amount,
                    null as currency,
                    'web' as channel
                from range({LINES}) as numbers(n)
            ) to '{folder / "files" / "order_lines.csv"}'
            """
        )
    return folder


@pytest.fixture(scope="module")
def start(settings: Settings, shop: Path) -> Start:
    """Begin the real command; what it says goes to a file, as nobody reads it while it runs."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TIERHOUSE", "AIRFLOW"))}
    assert settings.warehouse_url is not None
    ours = {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_WAREHOUSE_URL": settings.warehouse_url.get_secret_value(),
    }

    def run(files: Path = shop / "files") -> subprocess.Popen[bytes]:
        with (shop / "said.txt").open("ab") as said:
            return subprocess.Popen(
                [Path(sys.executable).with_name("tierhouse"),
                 "load", str(shop / "shop"), str(files), "--day", str(shop_files.DAY)],
                env={**clean, **ours},
                stdout=said,
                stderr=said,
            )  # fmt: skip

    return run


def state(url: str, watch: psycopg.Connection) -> State:
    """All that a load writes; only asked for when nothing of a killed one is at work any more."""
    give_up = time.monotonic() + 60
    while watch.execute(BACKENDS).fetchall():
        assert time.monotonic() < give_up, "the SQL of a killed load lives on"
        time.sleep(0.02)
    return shop_files.checksums(url, "raw", "pii", "quarantine", "ops", but=INCIDENTAL)


def landed_state(url: str) -> State:
    return shop_files.checksums(url, "raw", "pii", but=shop_files.INCIDENTAL)


def files_under(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if not path.is_dir()}


class Work:
    """How far a load is: seconds of processor time, its own and its server process's.

    A share of the time by the clock would be another point of the load on a busier machine.
    """

    def __init__(self, process: subprocess.Popen[bytes], watch: psycopg.Connection) -> None:
        self.process, self.watch = process, watch
        self.spent: dict[int, float] = {}
        self.spoke: float | None = None

    def measure(self) -> float:
        backends = [pid for (pid,) in self.watch.execute(BACKENDS)]
        for pid in (self.process.pid, *backends):
            with contextlib.suppress(psutil.Error):  # gone, or on another machine
                used = psutil.Process(pid).cpu_times()
                self.spent[pid] = used.user + used.system
        done = sum(self.spent.values())
        if self.spoke is None and backends:
            self.spoke = done
        return done

    def follow(self, until: float = math.inf) -> float:
        """Measure until so much is done, or the load has ended."""
        done = 0.0
        while self.process.poll() is None and done < until:
            done = max(done, self.measure())
            time.sleep(0.003)
        return done


@dataclass(frozen=True)
class Undisturbed:
    """A load that nobody disturbs: the state before and after it, what it left in its home, and
    the work before it spoke to the server and in all."""

    empty: State
    full: State
    landed: State
    left: set[Path]
    spoke: float
    work: float


@pytest.fixture(scope="module")
def watch(urls) -> Iterator[psycopg.Connection]:
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def undisturbed(urls, settings, start, shop, watch) -> Undisturbed:
    url = urls.warehouse
    shop_files.empty(url)
    empty = state(url, watch)
    with start() as process:
        work = Work(process, watch)
        done = work.follow()
    assert process.returncode == 0, (shop / "said.txt").read_text()
    full = state(url, watch)
    assert work.spoke is not None
    assert full["raw.order_lines"][0] == LINES - LINES // 50 - LINES // 100
    assert full["quarantine.rows"][0] == LINES // 100
    left = files_under(settings.home)
    return Undisturbed(empty, full, landed_state(url), left, work.spoke, done)


@pytest.mark.parametrize("points", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_load_killed_at_any_moment_leaves_nothing_and_the_next_completes_it(
    urls, settings, start, shop, watch, undisturbed, points
):
    url = urls.warehouse
    rng = random.Random(points)
    span = undisturbed.work - undisturbed.spoke
    killed = 0
    for point in range(points):
        shop_files.empty(url)
        with start() as process:
            moment = undisturbed.spoke + span * (point + rng.random()) / points
            Work(process, watch).follow(until=moment)
            process.kill()
        after = state(url, watch)
        assert after in (undisturbed.empty, undisturbed.full), f"half at point {point}"
        killed += after == undisturbed.empty

        with start() as again:
            pass
        assert again.returncode == 0, (shop / "said.txt").read_text()
        assert state(url, watch) == undisturbed.full, f"not completed at point {point}"
        assert files_under(settings.home) == undisturbed.left
    assert killed >= points // 2, "most loads had ended before they were killed"


def test_of_two_loads_at_once_one_waits_and_nothing_lands_twice(
    urls, start, shop, watch, undisturbed
):
    url = urls.warehouse
    shop_files.empty(url)
    waited = 0
    with start() as one, start() as other:
        while one.poll() is None or other.poll() is None:
            (waiting,) = watch.execute(
                "select count(*) from pg_locks where locktype = 'advisory' and not granted "
                "and database = (select oid from pg_database where datname = current_database())"
            ).fetchone() or (0,)
            waited += waiting
            time.sleep(0.01)
    assert (one.returncode, other.returncode) == (0, 0), (shop / "said.txt").read_text()
    assert waited
    assert state(url, watch) == undisturbed.full


def test_two_halves_loaded_at_once_are_the_whole(urls, start, shop, undisturbed, tmp_path):
    url = urls.warehouse
    header, *lines = (shop / "files" / "order_lines.csv").read_bytes().splitlines()
    # The halves share lines, and one of them brings the customers and the products.
    shop_files.write_records(tmp_path / "1" / "order_lines.csv", [header, *lines[:60_000]])
    shop_files.write_records(tmp_path / "2" / "order_lines.csv", [header, *lines[40_000:]])
    for table in ("customers", "products"):
        (tmp_path / "2" / f"{table}.csv").hardlink_to(shop / "files" / f"{table}.csv")
    shop_files.empty(url)
    with start(tmp_path / "1") as one, start(tmp_path / "2") as other:
        pass
    assert (one.returncode, other.returncode) == (0, 0), (shop / "said.txt").read_text()
    assert landed_state(url) == undisturbed.landed
