"""What the benchmarks share: a shop's files, an installation of its own, and commands timed."""

import os
import platform
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from simulator import shop
from warehouse import embedded
from warehouse.settings import PROJECT, Settings

DAYS = 730
GIB = 2**30
TRIAL_CUSTOMERS = 5_000
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Run:
    """Wall seconds of one way, and the most memory that its process held."""

    seconds: float
    peak_bytes: int


def make_shop(files: Path, wanted: int, tables: Collection[str]) -> Mapping[str, int]:
    """Simulate a shop with about `wanted` order lines, and keep these tables: the rows of each."""
    trial = files.with_name("trial")
    rows = shop.simulate(shop.Config(TRIAL_CUSTOMERS, DAYS), trial).rows
    shutil.rmtree(trial)
    customers = max(wanted * TRIAL_CUSTOMERS // rows["order_lines"], 1)
    rows = shop.simulate(shop.Config(customers, DAYS), files).rows
    for file in files.iterdir():
        if file.stem.partition("-")[0] not in tables:
            file.unlink()
    return {table: rows[table] for table in tables}


@contextmanager
def installation(home: Path) -> Iterator[Settings]:
    """An empty one, with a server of its own that is stopped and removed."""
    settings = Settings(home=home)
    try:
        yield settings
    finally:
        embedded.stop(settings)
        shutil.rmtree((settings.home / "postgres").resolve(), ignore_errors=True)


def time_tierhouse(settings: Settings, *arguments: str) -> Run:
    """A command of `tierhouse` as a person runs it."""
    program = Path(sys.executable).with_name("tierhouse")
    _, run = time_command([str(program), *arguments], settings)
    return run


def time_command(command: Sequence[str], settings: Settings | None = None) -> tuple[str, Run]:
    """What a process said, and how long it took. Ends the benchmark when it failed."""
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


def time_own(module: str, *arguments: str) -> Run:
    """A module of the benchmarks in a process of its own; it prints the seconds that count."""
    said, run = time_command([sys.executable, "-m", module, *arguments])
    return Run(float(said), run.peak_bytes)


def refuse_unless_landed(url: str, lines: int) -> None:
    """End the benchmark when not every order line is in the warehouse."""
    with psycopg.connect(url) as connection:
        (landed,) = connection.execute("select count(*) from raw.order_lines").fetchone() or (0,)
    if landed != lines:
        sys.exit(f"{landed:,} of {lines:,} lines landed: these times would say nothing.")


def page(
    title: str, described: str, table: Sequence[str], ratios: Sequence[str], libraries: str
) -> str:
    """A result as Markdown: what was measured, both tables, and on which machine."""
    about = (
        f"The machine: {CORES} cores, {platform.system()}. {libraries}, Python "
        f"{platform.python_version()}. Times mean something on a machine that does nothing else "
        f"meanwhile."
    )
    parts = [
        f"# {title}",
        textwrap.fill(described, 80),
        "\n".join(table),
        "\n".join(ratios),
        textwrap.fill(about, 80),
    ]
    return "\n\n".join(parts) + "\n"
