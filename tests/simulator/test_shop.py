from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Lock
from time import sleep

import pyarrow.parquet as pq
import pytest

from simulator import customers, dirt, shop
from warehouse.contract import TABLES
from warehouse.source import REFERENCES, read_source

SMALL = shop.Config(3_000, days=120, seed=7, dirt=0.02, currencies=("EUR", "USD"))


def _bytes(folder: Path) -> dict[str, str]:
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def small(small_parts, tmp_path_factory) -> Path:
    return shop.simulate(SMALL, tmp_path_factory.mktemp("small") / "shop").out


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_seed_gives_the_same_bytes_however_many_threads(small, threads, tmp_path):
    again = shop.simulate(replace(SMALL, threads=threads), tmp_path / "again").out
    assert _bytes(again) == _bytes(small)


def test_another_seed_gives_another_shop(small, tmp_path):
    other = _bytes(shop.simulate(replace(SMALL, seed=8), tmp_path / "other").out)
    same = {name for name, content in _bytes(small).items() if other.get(name) == content}
    assert same <= {"campaigns.parquet"}  # a calendar, which no draw has a part in


def test_more_customers_leave_the_full_parts_before_them_as_they_were(small, tmp_path):
    larger = _bytes(shop.simulate(replace(SMALL, customers=9_000), tmp_path / "larger").out)
    full = len(shop.part_sizes(3_000, 120)) - 1
    kept = {
        n: h for n, h in _bytes(small).items() if any(f"{p:04d}." in n for p in range(1, full + 1))
    }
    assert full and kept
    assert kept.items() <= larger.items()


def test_parts_are_of_the_config_and_hold_every_customer():
    for count in (1, 999, 1_000_000):
        assert sum(shop.part_sizes(count, 730)) == count
    assert max(shop.part_sizes(10**6, 3_650)) < max(shop.part_sizes(10**6, 30))


def test_parts_come_in_order_and_few_are_made_at_once():
    made, at_once, most = 0, 0, 0
    lock = Lock()

    def make(number: int) -> int:
        nonlocal made, at_once, most
        with lock:
            made, at_once, most = made + 1, at_once + 1, max(most, at_once + 1)
        sleep(0.002 * (number % 3))
        with lock:
            at_once -= 1
        return number

    numbers = []
    for number in shop.in_order(make, 40, threads=64):
        numbers.append(number)
        assert made <= len(numbers) + 2 * shop.MOST_AT_ONCE
    assert numbers == list(range(1, 41))
    assert 1 < most <= shop.MOST_AT_ONCE


def test_tables_have_the_columns_of_the_contract_and_the_source_reads_them_all(folder):
    source = read_source("simulated")
    assert set(source.tables) == set(TABLES)
    for name, files in source.find(folder).items():
        for file in files:
            assert pq.read_schema(file).names == list(TABLES[name].columns), file
        assert set(source.tables[name].columns) == set(TABLES[name].columns)
    assert source.currency == customers.REPORTING_CURRENCY
    rates = {currency: float(rate) for currency, rate in source.rates.items()}
    assert {source.currency: 1.0, **rates} == customers.RATES


def test_the_summary_counts_every_row(small_parts, tmp_path):
    summary = shop.simulate(SMALL, tmp_path / "shop")
    for name in TABLES:
        found = sum(
            pq.read_metadata(file).num_rows
            for file in summary.out.glob(f"{name}*.parquet")
            if file.stem.split("-")[0] == name
        )
        assert found == summary.rows[name]


@pytest.mark.parametrize("name", TABLES)
def test_keys_are_there_and_unique_across_parts(tables, name):
    keys = ", ".join(TABLES[name].key)
    rows, whole, distinct = tables.execute(
        f"select count(*), count(*) filter (({keys}) is not null), count(distinct ({keys})) "
        f"from {name}"
    ).fetchall()[0]
    assert rows > 0
    assert rows == whole == distinct


@pytest.mark.parametrize(
    ("name", "column"),
    [(n, c) for n in TABLES for c, to in REFERENCES.items() if c in TABLES[n].columns and n != to],
)
def test_whatever_is_referred_to_exists(tables, name, column):
    referred = REFERENCES[column]
    lost = f"select count(*) from {name} where {column} not in (select {column} from {referred})"
    used = f"select count({column}) from {name}"
    assert tables.execute(lost).fetchall() == [(0,)]
    assert tables.execute(used).fetchall() > [(0,)]


@pytest.mark.parametrize(
    ("name", "time"),
    [("order_lines", "ordered_at"), ("events", "occurred_at"), ("reviews", "reviewed_at"),
     ("campaign_contacts", "contacted_at"), ("campaign_contacts", "opened_at")],
)  # fmt: skip
def test_nothing_happens_before_the_sign_up_or_after_the_last_day(tables, name, time):
    wrong = tables.execute(
        f"select count(*) from {name} join customers using (customer_id) "
        f"where {time} < signed_up_at or {time} >= '2026-01-01'"
    ).fetchall()
    assert wrong == [(0,)]
    assert tables.execute(
        f"select cast(max({time}) as date) > '2025-12-01' from {name}"
    ).fetchall() == [(True,)]


@pytest.mark.parametrize(
    "config", [shop.Config(1, 1), shop.Config(1, 28), shop.Config(3, 29, dirt=0.5)]
)
def test_the_smallest_shop_has_every_file(config, tmp_path):
    summary = shop.simulate(config, tmp_path / "new" / "shop")
    assert set(summary.rows) == set(TABLES)
    assert summary.rows["customers"] >= config.customers
    assert read_source("simulated").find(summary.out).keys() == TABLES.keys()


def test_a_run_that_fails_leaves_nothing(tmp_path):
    def stop(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shop.simulate(SMALL, tmp_path / "shop", stop)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_not_mixed_in(tmp_path):
    left = tmp_path / "shop.unfinished"
    left.mkdir()
    (left / "order_lines-0099.parquet").write_bytes(b"half")
    shop.simulate(shop.Config(10, 30), tmp_path / "shop")
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]
    assert not (tmp_path / "shop" / "order_lines-0099.parquet").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [({"customers": 0}, "1 or more"), ({"days": 0}, "1 or more"), ({"dirt": 0.9}, "0 and 0.5"),
     ({"dirt": float("nan")}, "0 and 0.5"), ({"currencies": ("EUR", "DOGE")}, "DOGE"),
     ({"currencies": ()}, "none given"), ({"customers": 10**12}, "too many"),
     ({"days": 20_000}, "13,000")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(change, says, tmp_path):
    with pytest.raises(shop.WrongConfig, match=says):
        shop.simulate(replace(SMALL, **change), tmp_path / "shop")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(shop.WrongConfig, match="not empty"):
        shop.simulate(SMALL, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_every_table_can_be_dirty():
    assert set(dirt.KEYS) == set(dirt.KINDS) == set(TABLES)
