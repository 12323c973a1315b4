"""How long a version takes to be written and published, and analysts' questions to be answered.

    make bench
    .venv/bin/python -m bench.publishing --customers 100000

Customers, scores of six horizons, tiers and facts are made up; their reasons are as long as real
ones. Versions are written and published as `tierhouse score` and `tierhouse publish` do, without
the start of Python and without the model. The questions are those of
docs/how-to/ask-the-warehouse.md, asked as the role analyst.
"""

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from bench.machine import installation
from warehouse import embedded, publishing, versions
from warehouse.connections import Urls, connect, one_row, open_warehouse
from warehouse.settings import PROJECT

PAGE = PROJECT / "docs" / "how-to" / "ask-the-warehouse.md"
TIERS = ("platinum", "gold", "silver", "bronze")
SHARES = (0.05, 0.15, 0.3, 0.5)
HORIZONS = (7, 14, 30, 90, 180, 365)
FIRST_DAY = date(2025, 12, 1)
WHY = json.dumps(
    [
        {"reason": name, "effect": 1.21, "en": f"4 orders for 778 in the last year {name}",
         "zh": f"过去一年 4 单，共 778 {name}"}
        for name in ("recent_spend", "order_value", "last_year")
    ],
    ensure_ascii=False,
)  # fmt: skip


def main() -> None:
    """Write and publish versions of three days, ask every question three times, print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=3)
    given = parser.parse_args()
    console = Console()
    with (
        TemporaryDirectory(prefix="tierhouse-bench-") as scratch,
        installation(Path(scratch) / "home") as settings,
    ):
        urls = open_warehouse(settings)
        seconds: dict[str, list[float]] = {}

        def timed(name: str, run: Callable[[], Any]) -> Any:
            began = time.perf_counter()
            outcome = run()
            seconds.setdefault(name, []).append(time.perf_counter() - began)
            return outcome

        tiers = None
        for number in range(given.versions):
            day = FIRST_DAY + timedelta(days=number)
            begun = versions.begin(urls, day)
            before = begun.previous and begun.previous.version_id
            version = versions.Version(day, 90, "customer_value", "1", "policy", "input", before)
            scores, tiers, known = _made_up(given.customers, day, tiers, number)
            timed(
                "write a version",
                lambda v=version, s=scores, t=tiers, k=known, b=begun: versions.write_version(
                    urls, v, s, t, day=k, fencing_token=b.fencing_token
                ),
            )
            _pass_gate(urls, version)
            _watch_pointer(seconds)
            timed("publish", lambda d=day: publishing.publish(urls, d, keep=2))
        timed("rollback", lambda: publishing.rollback(urls))
        console.print(_table(f"{given.customers:,} customers", "step", seconds))
        port = embedded.running_port(settings)
        assert port is not None
        console.print(
            _table(
                "as the role analyst", "question",
                _ask(embedded.url(settings, port, "analyst", "warehouse")),
            )
        )  # fmt: skip


def _made_up(
    customers: int, day: date, before: pa.Table | None, seed: int
) -> tuple[pa.RecordBatchReader, pa.Table, versions.Day]:
    """One in twenty customers has another tier than the day before."""
    rng = np.random.default_rng(seed)
    names = pa.array([f"{n * 2654435761 % 2**64:016x}" for n in range(customers)])
    spend = np.sort(rng.gamma(0.5, 200, customers))[::-1].round(2)
    ranks = np.searchsorted(np.cumsum(SHARES), np.arange(customers) / customers, "right")
    ranks = np.minimum(ranks, len(TIERS) - 1)
    moved = rng.random(customers) < 0.05
    ranks[moved] = rng.integers(0, len(TIERS), moved.sum())
    label = pa.array(TIERS)
    old = None if before is None else before["tier_rank"].to_numpy() - 1
    tiers = pa.table({
        "customer_id": names,
        "tier": label.take(pa.array(ranks)),
        "tier_rank": pa.array(ranks + 1, pa.int32()),
        "expected_spend": spend,
        "decided_by": pa.array(["measure"] * customers),
        "previous_tier": pa.nulls(customers, pa.string()) if old is None
        else label.take(pa.array(old)),
        "previous_tier_rank": pa.nulls(customers, pa.int32()) if old is None
        else pa.array(old + 1, pa.int32()),
        "tier_since": pa.array([day] * customers, pa.date32()),
    })  # fmt: skip

    def scores(horizon: int) -> pa.Table:
        is_asked = horizon == 90
        return pa.table({
            "customer_id": names,
            "horizon_days": pa.array(np.full(customers, horizon, np.int32)),
            "expected_spend": spend,
            "purchase_probability": rng.random(customers),
            "expected_spend_low": spend if is_asked else pa.nulls(customers, pa.float64()),
            "expected_spend_high": spend if is_asked else pa.nulls(customers, pa.float64()),
            "reasons": pa.array([WHY] * customers) if is_asked
            else pa.nulls(customers, pa.string()),
        })  # fmt: skip

    parts = [scores(horizon) for horizon in HORIZONS]
    batches = (batch for part in parts for batch in part.to_batches(max_chunksize=100_000))
    whole = {
        "integer": lambda: pa.array(rng.integers(1, 700, customers).astype(np.int32)),
        "float8": lambda: pa.array(rng.gamma(0.5, 300, customers).round(2)),
        "text": lambda: pa.array([f"kind {n}" for n in range(12)]).take(
            pa.array(rng.integers(0, 12, customers))
        ),
    }
    facts = {name: whole[kind]() for name, kind in versions.FACTS.items()}
    months = [(date(2024, month, 1), since) for month in range(1, 13) for since in range(13)]
    cohorts = pa.table({
        "cohort_month": pa.array([month for month, _ in months], pa.date32()),
        "months_since": pa.array([since for _, since in months], pa.int32()),
        "customers": [1000] * len(months),
        "active_customers": [500] * len(months),
        "spend": [1.0] * len(months),
    })  # fmt: skip
    return (
        pa.RecordBatchReader.from_batches(parts[0].schema, batches),
        tiers,
        versions.Day(pa.table({"customer_id": names, **facts}), cohorts),
    )


def _pass_gate(urls: Urls, version: versions.Version) -> None:
    found = publishing.newest_version(urls, version.as_of_date)
    publishing.record_gate(urls, [], found, passed=True)
    with connect(urls.warehouse) as connection:
        (gated,) = one_row(
            connection,
            "select gated_at is not null from ops.versions where version_id = %s",
            version.version_id,
        )
    assert gated


def _watch_pointer(seconds: dict[str, list[float]]) -> None:
    """Time the transaction that moves the pointer."""
    move = publishing._move

    def timed_move(*arguments: Any) -> str:
        began = time.perf_counter()
        said = move(*arguments)
        seconds.setdefault("of it the move of the pointer", []).append(time.perf_counter() - began)
        publishing._move = move
        return said

    publishing._move = timed_move


def _ask(url: str) -> dict[str, list[float]]:
    questions = re.findall(r"^## (.*?)\n|^```sql\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    seconds: dict[str, list[float]] = {}
    heading = ""
    with psycopg.connect(url, autocommit=True) as connection:
        for title, query in questions:
            heading = title or heading
            if not query:
                continue
            name = heading if heading not in seconds else f"{heading} {len(seconds)}"
            for _ in range(3):
                began = time.perf_counter()
                connection.execute(query.encode()).fetchall()
                seconds.setdefault(name, []).append(time.perf_counter() - began)
    return seconds


def _table(title: str, first: str, seconds: dict[str, list[float]]) -> Table:
    table = Table(title=title)
    table.add_column(first)
    for name in ("median, s", "longest, s"):
        table.add_column(name, justify="right")
    for name, times in seconds.items():
        table.add_row(name, f"{statistics.median(times):.3f}", f"{max(times):.3f}")
    return table


if __name__ == "__main__":
    main()
