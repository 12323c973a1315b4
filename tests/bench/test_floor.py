"""The benchmark compares like with like: what is written by hand is what the models build."""

import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import duckdb
import psycopg
import pytest
from psycopg.rows import dict_row

from bench import features, machine
from warehouse import building
from warehouse.contract import TABLES
from warehouse.source import read_source

Rows = dict[str, dict]


@pytest.fixture(scope="module")
def files(tmp_path_factory, load_files) -> Path:
    """The files of a shop that is loaded."""
    files = tmp_path_factory.mktemp("bench") / "files"
    machine.make_shop(files, 20_000, TABLES)
    load_files(read_source("canonical"), files)
    return files


@pytest.fixture(scope="module")
def built(urls, settings) -> Callable[[date], Rows]:
    """The features of a day by the shop's own names of its customers."""

    def build(day: date) -> Rows:
        building.build(urls, [day], settings.home)
        with psycopg.connect(urls.warehouse, row_factory=dict_row) as connection:
            rows = connection.execute(
                "select source_customer_id, customer_features.* from features.customer_features "
                "inner join pii.customer_ids using (customer_id) where as_of_date = %s",
                [day],
            ).fetchall()
        return {row.pop("source_customer_id"): row | {"customer_id": None} for row in rows}

    return build


def by_hand(files: Path, day: date, file: Path) -> Rows:
    features.time_floor(files, day, file)
    with duckdb.connect(file) as database:
        found = database.execute("select * from customer_features")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {row["customer_id"]: row | {"customer_id": None} for row in rows}


def differences(found: Rows, expected: Rows) -> list[str]:
    """Every value that is another one, doubles but for their last digits."""

    def is_same(one: object, other: object) -> bool:
        if isinstance(one, float) and isinstance(other, float):
            return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
        return one == other and type(one) is type(other)

    assert found.keys() == expected.keys() != set()
    return [
        f"{column} of {customer}: {row[column]}, expected {expected[customer][column]}"
        for customer, row in found.items()
        for column in row.keys() | expected[customer].keys()
        if not is_same(row[column], expected[customer][column])
    ]


def test_by_hand_every_feature_is_the_one_that_the_models_build(files, tmp_path, built, load_files):
    expected = built(features.LAST_DAY)
    found = by_hand(files, features.LAST_DAY, tmp_path / "floor.duckdb")
    first = next(iter(expected))
    assert list(found[first]) == list(expected[first])
    assert differences(found, expected) == []


def test_the_next_day_brings_what_an_ordinary_day_brings(files, tmp_path, built, load_files):
    new = features.make_day(files, tmp_path / "day")
    report = load_files(read_source("canonical"), tmp_path / "day", features.LAST_DAY)
    landed = {table.table: table.accepted for table in report.tables}
    assert landed["order_lines"] == new > 0
    assert landed["events"] > landed["customers"] > 0
    for file in (tmp_path / "day").iterdir():
        file.rename(files / file.name)
    expected = built(features.NEXT_DAY)
    found = by_hand(files, features.NEXT_DAY, tmp_path / "floor.duckdb")
    assert differences(found, expected) == []
