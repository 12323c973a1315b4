"""The copy of raw in a DuckDB file is what the warehouse holds, whatever happened meanwhile."""

import random
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from shop_files import midnight

from warehouse import changes, duck
from warehouse.changes import CUSTOMERS, Changes
from warehouse.contract import DATED, PROVENANCE, TABLES
from warehouse.settings import PROJECT, TierhouseError

ROWS = 200
NOBODY = CUSTOMERS.empty_table()
WHOLE = Changes(0, True, frozenset(TABLES), {})
COLUMNS = {
    table: {name: contract.kind(name) for name in contract.landed} | {"known_at": "timestamp"}
    for table, contract in TABLES.items()
}
TEXTS = ("", " ", "Süßes", "蝋燭 🕯", 'it\'s "quoted", \\N', "two\nlines\tand a tab", "x" * 20_000)
TIMES = (
    midnight(1990, 1, 1),
    midnight(2024, 3, 1) - timedelta(microseconds=1),
    midnight(2025, 1, 1) + timedelta(microseconds=1),
    midnight(2099, 12, 31) + timedelta(hours=12),
)


@pytest.fixture
def shop(urls) -> str:
    """The warehouse of a shop with rows of every table."""
    rng = random.Random(0)
    with psycopg.connect(urls.warehouse) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("delete from {}").format(raw(table)))
            insert(connection, table, [row(rng, table, number) for number in range(ROWS)])
    return urls.warehouse


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "features.duckdb"


def raw(table: str) -> sql.Identifier:
    return sql.Identifier("raw", table)


def value(rng: random.Random, table: str, column: str, number: int) -> Any:
    """Any value that the column may hold; keys are of the row's number."""
    contract = TABLES[table]
    kind = "timestamp" if column == "known_at" else contract.kind(column)
    is_required = column in contract.columns and contract.is_required(column)
    if column == contract.key[0]:
        return f"{table} {number} ü"
    if column == "line_number":
        return rng.choice((1, 2**62)) if number % 3 else 0
    if not is_required and rng.random() < 0.3:
        return None
    if column == "customer_id":
        return f"customer {rng.randrange(20)}"
    if column == "category":
        return "light"
    if kind == "text":
        return rng.choice(TEXTS)
    if kind == "integer":
        return rng.choice((0, -1, 1975, 2**31 - 1))
    if kind == "date":
        return rng.choice(TIMES).date()
    if kind == "timestamp":
        some = midnight(2025, 3, 1) + timedelta(minutes=rng.randrange(90 * 1440))
        return rng.choice(TIMES) if rng.random() < 0.1 else some
    width, scale = map(int, kind.removeprefix("decimal(").removesuffix(")").split(", "))
    most = 10**width - 1
    return Decimal(rng.choice((0, 1, -1, most, -most, rng.randint(-most, most)))).scaleb(-scale)


def row(rng: random.Random, table: str, number: int) -> dict[str, Any]:
    origin = {
        "content_hash": rng.getrandbits(60),
        "file_id": 1,
        "source_row": number,
        "delivered_at": midnight(2026, 1, 1),
    }
    return {name: value(rng, table, name, number) for name in COLUMNS[table]} | origin


def insert(connection: psycopg.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = [*COLUMNS[table], *(name for name in PROVENANCE if name != "known_at")]
    listed = sql.SQL(", ").join(map(sql.Identifier, names))
    statement = sql.SQL("copy {} ({}) from stdin").format(raw(table), listed)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for one in rows:
            copy.write_row([one[name] for name in names])


def write(connection: psycopg.Connection, rng: random.Random) -> None:
    """One statement of somebody's: rows come, go, change, or move to another day or customer."""
    table = rng.choice(list(TABLES))
    some = sql.SQL("ctid = any(array(select ctid from {} order by md5({}::text || {}) limit {}))")
    key = sql.Identifier(TABLES[table].key[0])
    where = some.format(raw(table), key, str(rng.random()), rng.randrange(1, 4))
    match rng.choice(("insert", "update", "update", "delete")):
        case "insert":
            number = rng.randrange(10**9)
            insert(connection, table, [row(rng, table, number + more) for more in range(2)])
        case "delete":
            connection.execute(sql.SQL("delete from {} where {}").format(raw(table), where))
        case "update":
            free = [name for name in COLUMNS[table] if name not in TABLES[table].key]
            changed = rng.sample(free, min(2, len(free)))
            pairs = [(name, value(rng, table, name, 0)) for name in changed]
            pairs.append(("content_hash", rng.getrandbits(60)))
            listed = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), new) for name, new in pairs
            )
            connection.execute(
                sql.SQL("update {} set {} where {}").format(raw(table), listed, where)
            )


def warehouse_rows(url: str) -> dict[str, list[tuple]]:
    with psycopg.connect(url) as connection:
        return {
            table: sorted(
                connection.execute(
                    sql.SQL("select {} from {}").format(
                        sql.SQL(", ").join(map(sql.Identifier, columns)), raw(table)
                    )
                ).fetchall(),
                key=repr,
            )
            for table, columns in COLUMNS.items()
        }


def file_rows(file: Path) -> dict[str, list[tuple]]:
    with duckdb.connect(file, read_only=True) as connection:
        return {
            table: sorted(
                connection.execute(f"select {', '.join(columns)} from raw.{table}").fetchall(),
                key=repr,
            )
            for table, columns in COLUMNS.items()
        }


def copy_changes(url: str, file: Path, **options: Any) -> Changes:
    """Bring the file up to date, as a build does."""
    fingerprint = duck.identity(file)
    found = changes.read(url, "duckdb", fingerprint)
    touched = changes.customers(url, "duckdb", found)
    duck.copy_raw(url, file, found, touched, **options)
    changes.consume(url, "duckdb", found, fingerprint)
    return found


def during(table: str, do: Callable[[], Any]) -> Callable[[str], None]:
    """A progress that does this once, when the copy comes to the table."""

    def progress(coming: str) -> None:
        if coming == table:
            do()

    return progress


def test_a_whole_copy_is_the_warehouse_row_for_row(shop, file):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    assert file_rows(file) == warehouse_rows(shop)
    assert {len(rows) for rows in file_rows(file).values()} == {ROWS}
    with duckdb.connect(file) as connection:
        for table, columns in COLUMNS.items():
            described = connection.execute(f"describe raw.{table}").fetchall()
            kinds = {name: kind.replace("VARCHAR", "text") for name, kind, *_ in described}
            assert {name: kind.lower() for name, kind in kinds.items()} == {
                name: kind.replace(", ", ",") for name, kind in columns.items()
            }


def test_an_empty_warehouse_is_copied_as_empty_tables(urls, file):
    with psycopg.connect(urls.warehouse) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("delete from {}").format(raw(table)))
    duck.copy_raw(urls.warehouse, file, WHOLE, NOBODY)
    assert set(map(len, file_rows(file).values())) == {0}


@pytest.mark.parametrize("seed", range(4))
def test_after_any_changes_the_copy_is_the_warehouse_again(shop, file, seed):
    rng = random.Random(seed)
    assert copy_changes(shop, file).is_whole
    copied_by_days = set()
    for _ in range(5):
        with psycopg.connect(shop) as connection:
            for _ in range(rng.randrange(20)):
                write(connection, rng)
        found = copy_changes(shop, file)
        copied_by_days |= set() if found.is_whole else set(found.days)
        assert file_rows(file) == warehouse_rows(shop)
    assert copied_by_days == set(DATED)


def test_only_what_changed_is_copied(shop, file):
    copy_changes(shop, file)
    with duckdb.connect(file) as connection:
        connection.execute("update raw.order_lines set channel = 'of the copy before'")
        connection.execute("update raw.events set session_id = 'of the copy before'")
    with psycopg.connect(shop) as connection:
        (at,) = connection.execute(
            "update raw.order_lines set content_hash = content_hash + 1, channel = 'new' "
            "where order_id = (select min(order_id) from raw.order_lines) returning ordered_at"
        ).fetchone() or (None,)
    found = copy_changes(shop, file)
    assert found.days == {"order_lines": ((at.date(), at.date()),)}
    with duckdb.connect(file) as connection:
        before = "channel is not distinct from 'of the copy before'"
        wrong = connection.execute(
            f"select * from raw.order_lines "
            f"where (cast(ordered_at as date) = ?) = ({before}) "
            f"union all by name select * from raw.events where session_id <> 'of the copy before'",
            [at.date()],
        ).fetchall()
    assert wrong == []


def test_the_customers_who_are_told_of_are_those_of_the_last_copy(shop, file):
    for names in (["a", "b"], ["b"], []):
        told = pa.table({"table_name": ["events"] * len(names), "customer_id": names}, CUSTOMERS)
        duck.copy_raw(shop, file, Changes(1, False, frozenset(), {}), told)
        with duckdb.connect(file) as connection:
            found = connection.execute("from ops.touched_customers order by all").fetchall()
        assert found == [("events", name) for name in names]


def test_a_copy_that_fails_midway_leaves_the_file_as_it_was(shop, file):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    before = file_rows(file)
    with psycopg.connect(shop) as connection:
        connection.execute("delete from raw.customers")

    def fail() -> None:
        raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="the power is gone"):
        duck.copy_raw(shop, file, WHOLE, NOBODY, during("reviews", fail))
    assert file_rows(file) == before


def test_a_killed_copy_leaves_the_file_as_it_was(shop, file):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    before = file_rows(file)
    with psycopg.connect(shop) as connection:
        connection.execute("delete from raw.customers")
    program = (
        "import os, signal, sys; from pathlib import Path; from warehouse import changes, duck\n"
        "whole = changes.Changes(0, True, frozenset(duck.TABLES), {})\n"
        "die = lambda said: said == 'reviews' and os.kill(os.getpid(), signal.SIGKILL)\n"
        "nobody = changes.CUSTOMERS.empty_table()\n"
        "duck.copy_raw(sys.argv[1], Path(sys.argv[2]), whole, nobody, die)"
    )
    killed = subprocess.run([sys.executable, "-c", program, shop, str(file)], cwd=PROJECT)
    assert killed.returncode == -9
    assert file_rows(file) == before
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    assert file_rows(file) == warehouse_rows(shop)


def test_a_server_that_goes_away_is_said_and_the_file_is_as_it_was(shop, server, file):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    before = file_rows(file)
    with psycopg.connect(shop) as connection:
        connection.execute("delete from raw.customers")

    def hang_up() -> None:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = %s and pid <> pg_backend_pid() "
                "and backend_type = 'client backend'",
                [shop.rpartition("/")[2]],
            )

    with pytest.raises(TierhouseError, match=r"stopped answering.*Run the same again") as caught:
        duck.copy_raw(shop, file, WHOLE, NOBODY, during("reviews", hang_up))
    assert (psycopg.conninfo.conninfo_to_dict(shop).get("password") or "@") not in str(caught.value)
    assert file_rows(file) == before


def test_a_file_that_another_process_writes_is_said_to_be_in_use(shop, file):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    program = "import duckdb, sys; held = duckdb.connect(sys.argv[1]); print('held'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(TierhouseError, match=f"in use by another process.*{other.pid}"):
            duck.copy_raw(shop, file, WHOLE, NOBODY)
        with pytest.raises(TierhouseError, match="in use by another process"):
            duck.identity(file)
        other.communicate("\n")
    duck.copy_raw(shop, file, WHOLE, NOBODY)


@pytest.mark.parametrize("damage", ("rubbish", "cut short", "empty", "overwritten"))
def test_a_damaged_file_is_said_to_be_one(shop, file, damage):
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    whole = file.read_bytes()
    file.write_bytes(
        {
            "rubbish": b"this is no database" * 1000,
            "cut short": whole[:10_000],
            "empty": b"",
            "overwritten": whole[:12_288] + bytes(len(whole) - 12_288),
        }[damage]
    )
    with pytest.raises(TierhouseError, match="remove it") as caught:
        duck.copy_raw(shop, file, WHOLE, NOBODY)
    assert str(file) in str(caught.value)
    file.unlink()
    duck.copy_raw(shop, file, WHOLE, NOBODY)
    assert file_rows(file) == warehouse_rows(shop)


def test_a_file_that_was_removed_is_built_whole_again(shop, file):
    copy_changes(shop, file)
    first = duck.identity(file)
    assert not copy_changes(shop, file).is_whole
    assert duck.identity(file) == first
    file.unlink()
    assert copy_changes(shop, file).is_whole
    assert duck.identity(file) != first
    assert file_rows(file) == warehouse_rows(shop)


def test_what_is_beside_the_file_is_for_its_owner_alone(shop, tmp_path):
    duck.copy_raw(shop, tmp_path / "closed" / "features.duckdb", WHOLE, NOBODY)
    assert (tmp_path / "closed").stat().st_mode & 0o777 == 0o700
