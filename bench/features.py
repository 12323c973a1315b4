"""How long the features take on both engines, beside one query that is written by hand.

    make bench
    .venv/bin/python -m bench.features --lines 10000000 --tables all --write benchmarks.md

The builds are whole commands, as a person runs them: start, dbt, models, data tests. A shop is
simulated and loaded, and its last day is built from nothing, then again, then with the eleven
months before it; then a day's rows are landed, and the next day is built. The floor,
bench/floor.sql, computes the same columns of the one day from the Parquet files. The server is an
embedded one in a folder that is removed afterwards.
"""

import argparse
import os
import platform
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import psutil
import psycopg

from bench.machine import (
    DAYS,
    GIB,
    Run,
    installation,
    make_shop,
    refuse_unless_landed,
    time_own,
    time_tierhouse,
)
from simulator.seasons import CLOSED
from warehouse import changes, duck
from warehouse.connections import open_warehouse, query_rows
from warehouse.contract import TABLES
from warehouse.settings import DUCKDB_FILE, PROJECT, Settings, Target

FLOOR = PROJECT / "bench" / "floor.sql"
TABLES_OF_ORDERS = ("order_lines", "products", "customers")
LAST_DAY, NEXT_DAY = CLOSED, CLOSED + timedelta(days=1)
CUTOFFS = [date(CLOSED.year - (month > 0), 1 + -month % 12, 1) for month in range(12)]
ENGINES = {Target.postgres: "PostgreSQL", Target.duckdb: "DuckDB"}
FEW_LINES = 1_000
# The steps, as the result calls them.
NOTHING = "a day of a tiny shop, again"
COPY = "copy of raw alone"
FULL = "one day from nothing"
WITHOUT = "without the copy of raw"
AGAIN = "the same day again"
YEAR = "12 days, tables in place"
BOTH = "12 days from nothing"
NEXT = "the next day"
HAND = "one day by hand"
STEPS = (NOTHING, COPY, FULL, WITHOUT, AGAIN, YEAR, BOTH, NEXT, HAND)
RATIOS = ((FULL, HAND), (WITHOUT, HAND), (NEXT, FULL), (YEAR, AGAIN), (BOTH, FULL))

Runs = dict[tuple[str, Target], Run]


def main() -> None:
    """Make the shop, time every step, print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=10_000_000, help="about so many")
    parser.add_argument("--tables", choices=("order_lines", "all"), default="order_lines",
                        help="order lines with products and customers, or all seven")  # fmt: skip
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--floor", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--copy", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.floor:
        files, day, file = given.floor
        print(time_floor(Path(files), date.fromisoformat(day), Path(file)))
    elif given.copy:
        url, file = given.copy
        print(_time_copy(url, Path(file)))
    else:
        tables = TABLES if given.tables == "all" else TABLES_OF_ORDERS
        with TemporaryDirectory(prefix="tierhouse-bench-") as scratch:
            text = measure(Path(scratch), given.lines, tuple(tables))
        how = (
            f"Measured with `.venv/bin/python -m bench.features --lines {given.lines} --tables "
            f"{given.tables}`; `make bench` runs it with {parser.get_default('lines'):,} lines of "
            f"the tables that orders need, after the benchmark of the load. It leaves nothing "
            f"behind. Times mean something on a machine that does nothing else meanwhile."
        )
        text += f"\n{textwrap.fill(how, 80, break_on_hyphens=False, break_long_words=False)}\n"
        print(text)
        if given.write:
            given.write.write_text(text)


def measure(place: Path, wanted: int, tables: Sequence[str]) -> str:
    """Time every step in a new folder. Returns the result as Markdown."""
    runs: Runs = {}

    def build(settings: Settings, step: str, days: Sequence[date]) -> None:
        listed = ",".join(map(str, days))
        for target in Target:
            run = time_tierhouse(settings, "build", "--as-of", listed, "--target", target)
            runs[step, target] = run
            print(f"{target}, {step}: {run.seconds:.1f} s", file=sys.stderr)

    with installation(place / "few") as settings:
        open_warehouse(settings)
        few = make_shop(place / "few_files", FEW_LINES, tables)
        time_tierhouse(settings, "load", "canonical", str(place / "few_files"))
        for _ in range(2):  # the first makes the tables
            build(settings, NOTHING, [LAST_DAY])
    with installation(place / "home") as settings:
        url = open_warehouse(settings).warehouse
        rows = make_shop(place / "files", wanted, tables)
        # The first daily delivery is the history, and the second one the day that is added.
        first = str(LAST_DAY - timedelta(days=1))
        time_tierhouse(settings, "load", "canonical", str(place / "files"), "--day", first)
        refuse_unless_landed(url, rows["order_lines"])
        copied = place / "copy.duckdb"
        runs[COPY, Target.duckdb] = time_own("bench.features", "--copy", url, str(copied))
        copied.unlink()
        build(settings, FULL, [LAST_DAY])
        build(settings, AGAIN, [LAST_DAY])
        build(settings, YEAR, CUTOFFS)
        new = make_day(place / "files", place / "day")
        time_tierhouse(settings, "load", "canonical", str(place / "day"), "--day", str(LAST_DAY))
        refuse_unless_landed(url, rows["order_lines"] + new)
        build(settings, NEXT, [NEXT_DAY])
        made = place / "floor.duckdb"
        floor = [str(place / "files"), str(LAST_DAY), str(made)]
        runs[HAND, Target.duckdb] = time_own("bench.features", "--floor", *floor)
        customers = _refuse_unless_alike(url, settings.home / DUCKDB_FILE, made)
        about = _about(url)
    for target in Target:
        full, year = runs[FULL, target], runs[YEAR, target]
        most = max(full.peak_bytes, year.peak_bytes)
        runs[BOTH, target] = Run(full.seconds + year.seconds, most)
    full, copy = runs[FULL, Target.duckdb], runs[COPY, Target.duckdb]
    runs[WITHOUT, Target.duckdb] = Run(full.seconds - copy.seconds, full.peak_bytes)
    lines = {NOTHING: few["order_lines"], NEXT: new}
    return _page(rows, customers, lines, runs, about)


def make_day(files: Path, out: Path) -> int:
    """Write one more day of a shop: its most ordinary day once more, after the last one.

    Its rows have new keys, and its new customers are new again. Returns the order lines.
    """
    out.mkdir()
    with duckdb.connect() as database:
        open_files(database, files)
        found = database.execute(
            "select cast(ordered_at as date), count(*) from order_lines group by 1 "
            f"order by abs(count(*) - (select count(*) / {DAYS} from order_lines)), 1 limit 1"
        ).fetchone()
        assert found is not None
        day, lines = found
        database.execute("set variable day = $1", [day])
        database.execute("set variable later = to_days($1)", [(LAST_DAY - day).days])
        for table in TABLES.values():
            times = table.times or tuple(c for c in table.columns if c == "signed_up_at")
            if not times or not list(files.glob(f"{table.name}*.parquet")):
                continue
            new = [
                f"case when cast({time} as date) = getvariable('day') "
                f"then {time} + getvariable('later') end as {time}"
                for time in times
            ]
            new.append(
                "case when customer_id in (select customer_id from customers where "
                "cast(signed_up_at as date) = getvariable('day')) "
                "then 'N' || customer_id else customer_id end as customer_id"
            )
            if table.key[0] != "customer_id":
                new.append(f"'N' || {table.key[0]} as {table.key[0]}")
            database.execute(
                f"copy (select * replace ({', '.join(new)}) from {table.name} "
                f"where cast({times[0]} as date) = getvariable('day')) "
                f"to '{out}/{table.name}-day.parquet'"
            )
    return lines


def time_floor(files: Path, day: date, file: Path) -> float:
    """Write the features of a day to a new DuckDB file with the hand-written query: the seconds."""
    began = time.perf_counter()
    with duckdb.connect(file) as database:
        open_files(database, files)
        database.execute("set variable as_of_date = $1", [day])
        database.execute(FLOOR.read_text())
    return time.perf_counter() - began


def open_files(database: duckdb.DuckDBPyConnection, files: Path) -> None:
    """A view for each table of the contract, empty where the shop has no files of it."""
    for table in TABLES.values():
        if list(files.glob(f"{table.name}*.parquet")):
            rows = f"select * from '{files}/{table.name}*.parquet'"
        else:
            columns = [f"cast(null as {table.kind(name)}) as {name}" for name in table.columns]
            rows = f"select {', '.join(columns)} where false"
        database.execute(f"create temporary view {table.name} as {rows}")


def _time_copy(url: str, file: Path) -> float:
    changed = changes.read(url, "benchmark", "nothing is built yet")
    touched = changes.customers(url, "benchmark", changed)
    began = time.perf_counter()
    duck.copy_raw(url, file, changed, touched)
    return time.perf_counter() - began


def _refuse_unless_alike(url: str, file: Path, made: Path) -> int:
    """Returns the customers of the last day, which all three have found, and have found alike."""
    columns = "count(*), sum(monetary_total), sum(orders_365d), sum(distinct_products)"
    query = f"select {columns} from features.customer_features where as_of_date = '{LAST_DAY}'"
    with (
        duckdb.connect(file, read_only=True) as database,
        duckdb.connect(made, read_only=True) as hand,
    ):
        found = [
            *query_rows(url, query)[1],
            *database.execute(query).fetchall(),
            *hand.execute(f"select {columns} from customer_features").fetchall(),
        ]
    if len(set(found)) > 1:
        sys.exit(f"The features are not the same, so their times mean nothing: {found}")
    return found[0][0]


def _about(url: str) -> str:
    with psycopg.connect(url) as connection:
        (server,) = connection.execute("show server_version").fetchone() or ("unknown",)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / GIB:.0f} GiB; "
        f"{platform.system()}. PostgreSQL {server}, DuckDB {duckdb.__version__}, "
        f"dbt {version('dbt-core')}, Python {platform.python_version()}."
    )


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _page(
    rows: Mapping[str, int], customers: int, lines: Mapping[str, int], runs: Runs, about: str
) -> str:
    """The result as Markdown. lines: of the steps that have not to do with all of the shop's."""
    listed = ", ".join(f"{count:,} {table.replace('_', ' ')}" for table, count in rows.items())
    described = (
        f"A simulated shop of two years: {listed}. The day has {customers:,} customers; the next "
        f"day comes with {lines[NEXT]:,} order lines more. A step is a whole `tierhouse build`, "
        f"from the start of Python to the last data test; memory is that of its process, to which "
        f"PostgreSQL's own comes on top. The day of a tiny shop, of {lines[NOTHING]:,} lines, is "
        f"what starting costs. The floor is the day by hand: one query for DuckDB, for that day "
        f"and no other, on the Parquet files."
    )
    steps = ["| step | engine | seconds | lines a second | peak memory, GiB |",
             "|:--|:--|--:|--:|--:|"]  # fmt: skip
    ratios = ["| ratio of seconds | PostgreSQL | DuckDB |", "|:--|--:|--:|"]
    for step, target in ((step, target) for step in STEPS for target in Target):
        if run := runs.get((step, target)):
            a_second = lines.get(step, rows["order_lines"]) / run.seconds
            steps.append(
                f"| {step} | {ENGINES[target]} | {run.seconds:.1f} | {a_second:,.0f} "
                f"| {run.peak_bytes / GIB:.2f} |"
            )
    for step, base in RATIOS:
        found = [_ratio(runs, step, base, target) for target in Target]
        ratios.append(f"| {step} / {base} | {' | '.join(found)} |")
    parts = [
        "# How long the features take",
        textwrap.fill(described, 80),
        "\n".join(steps),
        "\n".join(ratios),
        textwrap.fill(f"The machine: {about}", 80),
    ]
    return "\n\n".join(parts) + "\n"


def _ratio(runs: Runs, step: str, base: str, target: Target) -> str:
    """Empty where there is none. The floor is one for both."""
    if (step, target) not in runs:
        return ""
    other = runs.get((base, target)) or runs[base, Target.duckdb]
    return f"{runs[step, target].seconds / other.seconds:.2f}"


if __name__ == "__main__":
    main()
