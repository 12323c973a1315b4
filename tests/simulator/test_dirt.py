from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulator import dirt, shop
from warehouse.contract import TABLES

SHARE = 0.05
CLEAN = shop.Config(customers=4_000, days=400)
DIRTY = shop.Config(customers=4_000, days=400, dirt=SHARE)


@pytest.fixture(scope="module")
def clean(small_parts, tmp_path_factory) -> Path:
    return shop.simulate(CLEAN, tmp_path_factory.mktemp("clean") / "shop").out


@pytest.fixture(scope="module")
def dirty(small_parts, tmp_path_factory) -> Path:
    return shop.simulate(DIRTY, tmp_path_factory.mktemp("dirty") / "shop").out


@pytest.fixture(scope="module")
def listed(dirty) -> pd.DataFrame:
    return pq.read_table(dirty / "dirt.parquet").to_pandas()


@pytest.fixture(scope="module")
def damaged(dirty, listed) -> dict[tuple[str, str], pa.Table]:
    """The listed rows by table and kind."""
    rows: dict[tuple[str, str], list[pa.Table]] = {}
    for (file, table, kind), group in listed.groupby(["file", "table", "kind"]):
        taken = pq.read_table(dirty / file).take(group["source_row"].to_numpy() - 1)
        rows.setdefault((table, kind), []).append(taken)
    return {key: pa.concat_tables(parts) for key, parts in rows.items()}


def _shop_files(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.name.split("-")[0].split(".")[0] in TABLES)


def test_without_the_listed_rows_the_clean_shop_is_left_row_for_row(clean, dirty, listed):
    assert _shop_files(clean) == _shop_files(dirty)
    assert not (clean / "dirt.parquet").exists()
    for file in _shop_files(clean):
        rows = pq.read_table(dirty / file)
        kept = np.ones(rows.num_rows, dtype=bool)
        kept[listed.loc[listed["file"] == file, "source_row"].to_numpy() - 1] = False
        assert rows.filter(pa.array(kept)).equals(pq.read_table(clean / file)), file


def test_the_share_of_damaged_rows_is_the_one_asked_for(dirty, listed):
    for table, group in listed.groupby("table"):
        rows = sum(pq.read_metadata(dirty / file).num_rows for file in _shop_files(dirty)
                   if file.split("-")[0].split(".")[0] == table)  # fmt: skip
        files = group["file"].nunique()
        assert abs(len(group) - SHARE * rows) <= files + 1


def test_no_row_is_listed_twice_and_the_rows_lie_all_over_the_files(listed):
    assert not listed.duplicated(["file", "source_row"]).any()
    lines = listed[listed["file"] == "order_lines-0001.parquet"]["source_row"]
    assert np.quantile(lines / lines.max(), [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.05)


@pytest.mark.parametrize("table", [name for name in TABLES if name != "campaigns"])
def test_every_kind_of_damage_is_done(damaged, table):
    kinds = {kind.name for kind in dirt.KINDS[table]} | {dirt.DUPLICATE, dirt.CONFLICT}
    assert kinds < {kind for name, kind in damaged if name == table}


def test_every_listed_row_is_broken_in_its_column_alone_and_has_a_key_of_its_own(clean, damaged):
    for (table, name), rows in damaged.items():
        found = {kind.name: kind for kind in dirt.KINDS[table]}.get(name)
        if found is None:
            continue
        values = rows.column(found.column).to_pylist()
        assert all(v == found.value or (v != v and found.value != found.value) for v in values)
        if found.column != dirt.KEYS[table]:
            assert all(key.startswith("X") for key in rows.column(dirt.KEYS[table]).to_pylist())


def test_no_two_damaged_rows_share_a_key(dirty, listed):
    """Or one of them would be called a conflict; the part is in the key, so a file is enough."""
    for (file, table), group in listed.groupby(["file", "table"]):
        rows = pq.read_table(dirty / file, columns=list(TABLES[table].key)).to_pandas()
        keys = rows.iloc[group["source_row"].to_numpy() - 1].dropna()
        assert not keys.duplicated().any()


def test_duplicates_are_rows_of_the_clean_shop_and_conflicts_only_share_their_key(clean, damaged):
    for table, key in ((name, list(TABLES[name].key)) for name in ("order_lines", "events")):
        shop_rows = pd.concat(
            pq.read_table(clean / f).to_pandas() for f in _shop_files(clean) if f.startswith(table)
        )
        same, other = (damaged[table, kind].to_pandas() for kind in (dirt.DUPLICATE, dirt.CONFLICT))
        assert len(same.merge(shop_rows)) == len(same) > 0
        assert len(other.merge(shop_rows)) == 0 < len(other)
        assert len(other.merge(shop_rows, on=key)) == len(other)
