"""An update after any sequence of deliveries leaves what building everything anew would leave.

After every delivery the days and the stream are held against the oracle; at the end of a sequence
every table against the same raw, built from nothing.
"""

import csv
import math
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import mutations
import numpy as np
import oracle
import psycopg
import pytest
import simulated
import yaml
from psycopg.rows import dict_row

from warehouse import building, contract
from warehouse.source import BUILT_IN, Source, read_source

DAYS = (date(2025, 6, 1), simulated.CLOSED + timedelta(days=1))
STEPS = 5
MORE = pytest.mark.slow  # other sequences of the same steps
FLOAT_TOLERANCE = 1e-12

Tables = dict[str, list[tuple]]


@pytest.fixture(scope="module")
def build(urls, settings) -> Callable[[], None]:
    simulated.land_shop(urls.warehouse, simulated.shop(seed=2))

    def run() -> None:
        building.build(urls, DAYS, settings.home)

    run()
    return run


@pytest.mark.parametrize(
    "sequence", [0, 1, pytest.param(2, marks=MORE), pytest.param(3, marks=MORE)]
)
def test_updates_after_changes_of_any_kind_are_a_full_rebuild(urls, build, sequence):
    for step in range(STEPS):
        shop = simulated.read_shop(urls.warehouse)
        mutations.apply(urls.warehouse, mutations.delivered(shop, 100 + sequence * STEPS + step))
        build()
        assert_true(urls.warehouse)
    assert_same_as_rebuilt(urls.warehouse, build)


@pytest.mark.parametrize("sequence", [4, pytest.param(5, marks=MORE)])
def test_updates_after_loads_of_files_are_a_full_rebuild(
    urls, build, load_files, tmp_path, sequence
):
    """A shop of its own, in deliveries that hold whatever of it, corrected, and some of it again.

    Without a day of its own, a delivery says nothing of when its rows became known.
    """
    chance = mutations.Chance(sequence)
    shop = simulated.shop(customers=12, seed=sequence)
    source = _source(tmp_path / "source")
    for step in range(STEPS):
        folder = tmp_path / f"delivery {step}"
        folder.mkdir()
        rows = {table: _part(table, shop[table], step, chance) for table in shop}
        for table, some in rows.items():
            _write(folder / f"{table}.csv", table, some)
        day = simulated.CLOSED + timedelta(days=1 + step)
        load_files(source, folder, day if chance.happens(0.6) else None)
        if chance.happens(0.4):
            load_files(source, folder, day + timedelta(days=1))  # the same files once more
        build()
        assert_true(urls.warehouse)
    assert_same_as_rebuilt(urls.warehouse, build)


def assert_true(url: str) -> None:
    """The days, their labels and the stream are what the rows of raw say."""
    truth = oracle.Shop(simulated.read_shop(url))
    said = []
    for day in DAYS:
        for table, expected, key in (
            ("customer_features", truth.features(day), ("customer_id",)),
            ("customer_labels", truth.labels(day), ("customer_id", "horizon_days")),
        ):
            found = _read(url, f"select * from features.{table} where as_of_date = '{day}'")
            for row in found:
                del row["as_of_date"]
            said += [f"{day} {what}" for what in oracle.differences(found, expected, key)]
    events = _read(url, "select * from features.customer_events")
    said += oracle.differences(events, truth.stream(), ("customer_id", "position"))
    assert not said, "\n".join(["", *said])


def assert_same_as_rebuilt(url: str, build: Callable[[], None]) -> None:
    """Every table of the intermediate and of the features, row for row."""
    updated = _tables(url)
    with psycopg.connect(url) as connection:
        for name in updated:
            connection.execute(f"drop table {name} cascade".encode())
        connection.execute("delete from ops.consumed")
    build()
    rebuilt = _tables(url)
    assert updated.keys() == rebuilt.keys()
    assert all(rows for name, rows in rebuilt.items()), "an empty table says nothing"
    differing = {
        name: found for name in updated if (found := _differing(updated[name], rebuilt[name]))
    }
    assert differing == {}


def _differing(updated: list[tuple], rebuilt: list[tuple]) -> list[tuple]:
    """Up to six rows that only one of the two has; doubles may differ in their last digits."""
    a, b = Counter(updated), Counter(rebuilt)
    left, right = (sorted(rows.elements(), key=_order) for rows in (a - b, b - a))
    if len(left) == len(right):
        pairs = zip(left, right, strict=True)
        different = [pair for pair in pairs if not all(map(_same, *pair))]
        return [row for pair in different[:3] for row in pair]
    return left[:3] + right[:3]


def _order(row: tuple) -> list[str]:
    return [f"{value:.6e}" if isinstance(value, float) else str(value) for value in row]


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=FLOAT_TOLERANCE, abs_tol=FLOAT_TOLERANCE)
    return a == b


def _tables(url: str) -> Tables:
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables "
            "where schemaname in ('intermediate', 'features') order by 1"
        ).fetchall()
        return {
            name: connection.execute(f"select * from {name}".encode()).fetchall()
            for (name,) in names
        }


def _read(url: str, query: str) -> list[dict]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def _part(table: str, rows: list[dict], step: int, chance: mutations.Chance) -> list[dict]:
    """A fifth of the rows, whatever their age, and a few of any other delivery, some corrected."""
    places = np.random.default_rng(7).permutation(len(rows))
    part = [rows[place] for place in places if place % STEPS == step]
    others = [rows[place] for place in places if place % STEPS != step]
    if table not in mutations.CORRECTIONS:
        return rows
    for row in chance.some_of(others, 10):
        again = mutations.corrected(table, row, chance, ["c001", "c002"])
        part.append(again if chance.happens(0.5) else row)
    return part


def _source(folder: Path) -> Source:
    """The contract's own columns; what a delivery says anew of a row corrects it.

    Two contents of one day's deliveries are in conflict, however many: no load is refused for it.
    """
    shutil.copytree(BUILT_IN / "canonical", folder)
    said = yaml.safe_load((folder / "source.yml").read_text())
    for table in contract.DATED:
        said["tables"][table]["changed_rows"] = "correction"
    (folder / "source.yml").write_text(yaml.safe_dump(said | {"max_quarantined_share": 1}))
    return read_source(str(folder))


def _write(path: Path, table: str, rows: list[dict]) -> None:
    columns = [name for name in contract.TABLES[table].landed if name != "currency"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
