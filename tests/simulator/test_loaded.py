"""The dirty shop through the real loader: every row ends where the list of the dirt says."""

from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from simulator import dirt, shop
from warehouse.connections import connect
from warehouse.contract import TABLES
from warehouse.loading import Report, load
from warehouse.source import read_source

DIRTY = shop.Config(customers=2_000, days=200, dirt=0.03, currencies=("EUR", "GBP", "USD"))


@pytest.fixture(scope="module")
def dirty(tmp_path_factory) -> Path:
    return shop.simulate(DIRTY, tmp_path_factory.mktemp("loaded") / "shop").out


@pytest.fixture(scope="module")
def report(dirty, urls, tmp_path_factory) -> Report:
    return load(
        urls.warehouse,
        b"a secret of the test's installation",
        read_source("simulated"),
        dirty,
        scratch=tmp_path_factory.mktemp("scratch"),
        delivered_at=datetime.fromisoformat("2026-01-01"),
        run_id="simulated",
    )


def test_the_loader_counts_what_the_dirt_lists(dirty, report):
    for table in report.tables:
        listed = Counter(
            row["reason"]
            for row in pq.read_table(dirty / "dirt.parquet").to_pylist()
            if row["table"] == table.table
        )
        found = Counter(table.quarantined)
        found += Counter({"duplicate": table.duplicate, "anonymous": table.anonymous})
        assert found == listed, table.table
        assert table.accepted == table.read - listed.total()


def test_what_lands_is_the_clean_shop(report, urls):
    """No damaged row landed: each of them has a key that begins with X."""
    with connect(urls.warehouse) as connection:
        for name in set(TABLES) - {"customers"}:
            landed = connection.execute(
                f"select count(*), count(*) filter (where {dirt.KEYS[name]} like 'X%') "
                f"from raw.{name}"
            ).fetchone()
            accepted = next(each.accepted for each in report.tables if each.table == name)
            assert landed == (accepted, 0)


def test_the_loader_names_file_row_and_column_of_the_damage(dirty, report, urls):
    listed = {
        (row["file"], row["source_row"], row["reason"], row["column"])
        for row in pq.read_table(dirty / "dirt.parquet").to_pylist()
        if row["reason"] not in ("duplicate", "anonymous", "conflicting_key")
    }
    with connect(urls.warehouse) as connection:
        found = connection.execute(
            "select file_name, source_row, reason, column_name from quarantine.rows "
            "where reason <> 'conflicting_key'"
        ).fetchall()
    assert set(found) == listed
    assert len(found) == len(listed)
