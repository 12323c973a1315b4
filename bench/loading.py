"""How fast `tierhouse load` is, beside a bare ADBC ingest of the same frame on the same server.

    make bench
    .venv/bin/python -m bench.loading --lines 1000000 --rounds 3

The load is the whole command: start, hashes, reading, pseudonyms, checks, keys, ledger, commit.
The ingest has a frame in memory and makes a table without a key; its time is without the
reading. It is timed for the frame of the files, and for the frame that the load lands: amounts as
decimals, pseudonyms, and where each row came from. Each way runs in a process of its own, and says
the most memory it held. The lines are the simulator's; the server is an embedded one in a folder
that is removed afterwards.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import psycopg
from rich.console import Console
from rich.table import Table

from simulator import shop
from warehouse import embedded
from warehouse.connections import connect_bulk, open_warehouse
from warehouse.settings import PROJECT, Settings

DAYS = 730
TRIAL_CUSTOMERS = 5_000
GIB = 2**30
FRAMES = {
    "bare ingest of the files' frame": "select * from {lines}",
    "bare ingest of the landed frame": (
        "select order_id, cast(line_number as bigint) as line_number, md5(customer_id) as "
        "customer_id, ordered_at, product_id, cast(quantity as decimal(18, 6)) as quantity, "
        "cast(unit_price as decimal(18, 6)) as unit_price, cast(discount_amount as "
        "decimal(18, 6)) as discount_amount, currency, channel, "
        "cast(hash(order_id) >> 1 as bigint) as content_hash, cast(1 as integer) as file_id, "
        "cast(1 as integer) as source_row, timestamp '2026-01-01' as delivered_at from {lines}"
    ),
}


@dataclass(frozen=True)
class Run:
    """Wall seconds of one way, and the most memory that its process held."""

    seconds: float
    peak_bytes: int


def main() -> None:
    """Make the lines, time both ways in turn, print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=5_000_000, help="about so many")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ingest", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ingest:
        url, folder, query = given.ingest
        print(_ingest(url, Path(folder), query))
        return
    with TemporaryDirectory(prefix="tierhouse-bench-") as scratch:
        place = Path(scratch)
        settings = Settings(home=place / "home")
        try:
            url = open_warehouse(settings).warehouse
            files = place / "files"
            lines = make_lines(files, given.lines)
            loads: list[Run] = []
            ingests: dict[str, list[Run]] = {name: [] for name in FRAMES}
            for _ in range(given.rounds):
                _empty(settings)
                loads.append(time_load(settings, files))
                _refuse_unless_landed(url, lines)
                for name, query in FRAMES.items():
                    _empty(settings)
                    ingests[name].append(time_ingest(url, files, query))
            Console().print(_table(lines, loads, ingests))
        finally:
            embedded.stop(settings)
            shutil.rmtree((settings.home / "postgres").resolve(), ignore_errors=True)


def make_lines(files: Path, wanted: int) -> int:
    """Simulate a shop with about `wanted` order lines, and keep these. Returns how many."""
    trial = shop.simulate(shop.Config(TRIAL_CUSTOMERS, DAYS), files.with_name("trial"))
    customers = max(wanted * TRIAL_CUSTOMERS // trial.rows["order_lines"], 1)
    summary = shop.simulate(shop.Config(customers, DAYS), files)
    for file in files.iterdir():
        if not file.name.startswith("order_lines"):
            file.unlink()
    return summary.rows["order_lines"]


def time_load(settings: Settings, files: Path) -> Run:
    """The command as a person runs it."""
    program = Path(sys.executable).with_name("tierhouse")
    _, run = _time([str(program), "load", "canonical", str(files)], settings)
    return run


def time_ingest(url: str, files: Path, query: str) -> Run:
    """A frame into a table of its own; the seconds are those of ingest and commit."""
    said, run = _time([sys.executable, "-m", "bench.loading", "--ingest", url, str(files), query])
    return Run(float(said), run.peak_bytes)


def _ingest(url: str, files: Path, query: str) -> float:
    lines = f"read_parquet('{files}/order_lines*.parquet')"
    with duckdb.connect() as duck:
        frame = duck.sql(query.format(lines=lines)).to_arrow_table()
    with connect_bulk(url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        cursor.adbc_ingest("bare_order_lines", frame, mode="create")
        connection.commit()
        return time.perf_counter() - began


def _time(command: Sequence[str], settings: Settings | None = None) -> tuple[str, Run]:
    ours = {} if settings is None else {"TIERHOUSE_HOME": str(settings.home)}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TIERHOUSE")}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, env={**clean, **ours}, cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)  # what this one process used, no other's
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command[:3])} ended with {process.returncode}. {said}")
    unit = 1 if sys.platform == "darwin" else 1024
    return said, Run(seconds, used.ru_maxrss * unit)


def _empty(settings: Settings) -> None:
    """No rows of either way, and nothing left to write from before."""
    port = embedded.start(settings)
    url = embedded.url(settings, port, embedded.SUPERUSER, "warehouse")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists bare_order_lines")
        connection.execute("truncate raw.order_lines, ops.load_ledger, ops.files cascade")
        connection.execute("vacuum")
        connection.execute("checkpoint")


def _refuse_unless_landed(url: str, lines: int) -> None:
    with psycopg.connect(url) as connection:
        (landed,) = connection.execute("select count(*) from raw.order_lines").fetchone() or (0,)
    if landed != lines:
        sys.exit(f"{landed:,} of {lines:,} lines landed: this is no benchmark of a load.")


def _table(lines: int, loads: Sequence[Run], ingests: Mapping[str, Sequence[Run]]) -> Table:
    table = Table(title=f"{lines:,} simulated order lines, median of {len(loads)}")
    for name in ("", "seconds", "lines a second", "peak memory, GiB"):
        table.add_column(name, justify="left" if not name else "right")
    ways = {"tierhouse load": loads, **ingests}
    medians = []
    for name, runs in ways.items():
        seconds = statistics.median(run.seconds for run in runs)
        peak = max(run.peak_bytes for run in runs)
        table.add_row(name, f"{seconds:.1f}", f"{lines / seconds:,.0f}", f"{peak / GIB:.2f}")
        medians.append(seconds)
    ratios = " and ".join(f"{median / medians[0]:.2f}" for median in medians[1:])
    table.caption = f"The load is {ratios} times as fast as the bare ingests."
    return table


if __name__ == "__main__":
    main()
