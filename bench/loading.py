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
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import psycopg
from rich.console import Console
from rich.table import Table

from bench.machine import (
    GIB,
    Run,
    installation,
    make_shop,
    refuse_unless_landed,
    time_own,
    time_tierhouse,
)
from warehouse import embedded
from warehouse.connections import connect_bulk, open_warehouse
from warehouse.settings import Settings

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
    with (
        TemporaryDirectory(prefix="tierhouse-bench-") as scratch,
        installation(Path(scratch) / "home") as settings,
    ):
        url = open_warehouse(settings).warehouse
        files = Path(scratch) / "files"
        lines = make_shop(files, given.lines, ["order_lines"])["order_lines"]
        loads: list[Run] = []
        ingests: dict[str, list[Run]] = {name: [] for name in FRAMES}
        for _ in range(given.rounds):
            _empty(settings)
            loads.append(time_tierhouse(settings, "load", "canonical", str(files)))
            refuse_unless_landed(url, lines)
            for name, query in FRAMES.items():
                _empty(settings)
                run = time_own("bench.loading", "--ingest", url, str(files), query)
                ingests[name].append(run)
        Console().print(_table(lines, loads, ingests))


def _ingest(url: str, files: Path, query: str) -> float:
    lines = f"read_parquet('{files}/order_lines*.parquet')"
    with duckdb.connect() as duck:
        frame = duck.sql(query.format(lines=lines)).to_arrow_table()
    with connect_bulk(url) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        cursor.adbc_ingest("bare_order_lines", frame, mode="create")
        connection.commit()
        return time.perf_counter() - began


def _empty(settings: Settings) -> None:
    """No rows of either way, and nothing left to write from before."""
    port = embedded.start(settings)
    url = embedded.url(settings, port, embedded.SUPERUSER, "warehouse")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists bare_order_lines")
        connection.execute("truncate raw.order_lines, ops.load_ledger, ops.files cascade")
        connection.execute("vacuum")
        connection.execute("checkpoint")


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
