"""One simulated shop in several parts, read back as a user would: as tables in DuckDB."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from simulator import shop
from warehouse.contract import TABLES


@pytest.fixture(scope="session")
def config() -> shop.Config:
    return shop.Config(customers=12_000, days=400, seed=7)


@pytest.fixture(scope="session")
def small_parts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shop, "LINES_PER_PART", 10_000)
        yield


@pytest.fixture(scope="session")
def folder(config, small_parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("simulated") / "shop"
    shop.simulate(config, out)
    assert len(list(out.glob("order_lines-*.parquet"))) > 3
    return out


@pytest.fixture(scope="session")
def tables(folder) -> Iterator[duckdb.DuckDBPyConnection]:
    """A view for each table of the contract and each file of the truth."""
    with duckdb.connect() as duck:
        duck.execute("set timezone = 'UTC'")
        for name in TABLES:
            own = f"{folder}/{name}.parquet" if name in ("products", "campaigns") else None
            duck.execute(f"create view {name} as from '{own or f'{folder}/{name}-*.parquet'}'")
        for name in ("truth", "truth_contacts"):
            duck.execute(f"create view {name} as from '{folder}/{name}.parquet'")
        yield duck
