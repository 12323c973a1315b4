"""What a statement changes in raw is noted: all of it, and nothing else."""

import threading
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
import shop_files
from hypothesis import given
from hypothesis import strategies as st

from warehouse import changes, pseudonyms
from warehouse.changes import Changes
from warehouse.contract import DATED, TABLES
from warehouse.settings import DUCKDB_FILE
from warehouse.source import Source, read_source

DAY = shop_files.DAY
# Values of the columns that may not be null; every other column is null.
TIME = {"order_lines": "ordered_at", "events": "occurred_at", "reviews": "reviewed_at",
        "campaign_contacts": "contacted_at"}  # fmt: skip
REQUIRED = {
    "text not null": "x",
    "bigint not null": 1,
    "decimal(18, 6) not null": 1,
    "timestamp not null": shop_files.midnight(2026, 1, 1),
}


# A change of what a row says, and of nothing that tells where it belongs.
CONTENT = {
    "customers": "country = 'Utopia'",
    "products": "product_name = 'other'",
    "order_lines": "unit_price = unit_price + 1",
    "events": "session_id = 's'",
    "reviews": "rating = 2",
    "campaigns": "offer = 'other'",
    "campaign_contacts": "treatment_arm = 'other'",
}


@pytest.fixture(autouse=True)
def warehouse(urls) -> Iterator[psycopg.Connection]:
    """A connection that commits every statement, to a warehouse without rows or changes."""
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(f"delete from raw.{table}".encode())
        connection.execute("delete from ops.changes")
        connection.execute("delete from ops.consumed")
        yield connection


@pytest.fixture
def url(urls) -> str:
    return urls.warehouse


@pytest.fixture
def since(url):
    """Forget what was done so far, and read what comes after."""

    def start() -> None:
        changes.consume(url, "test", changes.read(url, "test", "a"), "a")

    start()
    return start


def put(connection: psycopg.Connection, table: str, **values: object) -> None:
    """Insert a row that has these values."""
    contract = TABLES[table]
    given = {
        column: REQUIRED[contract.columns[column]]
        for column in contract.landed
        if contract.is_required(column)
    }
    origin = {
        "content_hash": 1,
        "file_id": 1,
        "source_row": 1,
        "delivered_at": shop_files.midnight(2026, 1, 1),
    }
    given |= origin | values
    listed, places = ", ".join(given), ", ".join(["%s"] * len(given))
    connection.execute(
        f"insert into raw.{table} ({listed}) values ({places})".encode(), list(given.values())
    )


def noted(connection: psycopg.Connection) -> list[tuple]:
    """Forget and tell what was noted: table, entity, day, is_whole."""
    return sorted(
        connection.execute(
            "delete from ops.changes returning table_name, entity_id, day, is_whole"
        ).fetchall(),
        key=str,
    )


@pytest.mark.parametrize("table", DATED)
def test_a_dated_row_is_noted_when_it_comes_changes_and_goes(warehouse, table):
    time = TIME[table]
    first, second = (table, "ann", date(2026, 1, 1), False), (table, "ann", date(2026, 1, 5), False)
    put(warehouse, table, customer_id="ann")
    assert noted(warehouse) == [first]
    for change in (CONTENT[table], "known_at = '2026-02-01'", "known_at = null",
                   f"{TABLES[table].key[0]} = 'other'"):  # fmt: skip
        warehouse.execute(f"update raw.{table} set {change}".encode())
        assert noted(warehouse) == [first], change
    warehouse.execute(f"update raw.{table} set {time} = '2026-01-05 23:59:59'".encode())
    assert noted(warehouse) == [first, second]
    warehouse.execute(f"update raw.{table} set customer_id = 'bob'".encode())
    assert noted(warehouse) == [second, (table, "bob", date(2026, 1, 5), False)]
    warehouse.execute(f"delete from raw.{table}".encode())
    assert noted(warehouse) == [(table, "bob", date(2026, 1, 5), False)]
    warehouse.execute(f"truncate raw.{table}".encode())
    assert noted(warehouse) == [(table, None, None, True)]


@pytest.mark.parametrize("table", TABLES)
def test_where_and_when_a_row_came_from_is_no_change(warehouse, table):
    put(warehouse, table)
    noted(warehouse)
    warehouse.execute(
        f"update raw.{table} set delivered_at = '2026-05-05', file_id = 2, source_row = 7".encode()
    )
    warehouse.execute(f"update raw.{table} set content_hash = 2".encode())
    warehouse.execute(f"update raw.{table} set {CONTENT[table]} where false".encode())
    assert noted(warehouse) == []


def test_of_many_rows_every_customer_and_day_is_noted_once(warehouse):
    warehouse.execute(
        "insert into raw.events (event_id, customer_id, occurred_at, event_type, content_hash, "
        "file_id, source_row, delivered_at) select number::text, 'c' || number % 2, "
        "timestamp '2026-01-01' + interval '1 hour' * number, 'view', 1, 1, number, '2026-01-01' "
        "from generate_series(0, 47) as numbers (number)"
    )
    found = [(customer, day) for _, customer, day, _ in noted(warehouse)]
    assert found == [(c, date(2026, 1, d)) for c in ("c0", "c1") for d in (1, 2)]
    warehouse.execute("update raw.events set session_id = 's' where event_id = '5'")
    warehouse.execute(
        "update raw.events set delivered_at = '2026-01-09', "
        "session_id = case event_id when '6' then 's' else session_id end"
    )
    assert noted(warehouse) == [
        ("events", "c0", date(2026, 1, 1), False),
        ("events", "c1", date(2026, 1, 1), False),
    ]


def test_all_times_of_a_contact_are_days_that_change(warehouse):
    put(
        warehouse,
        "campaign_contacts",
        customer_id="ann",
        clicked_at=shop_files.midnight(2026, 1, 9),
    )
    noted(warehouse)
    warehouse.execute("update raw.campaign_contacts set opened_at = '2026-01-03'")
    assert [day for _, _, day, _ in noted(warehouse)] == [date(2026, 1, day) for day in (1, 3, 9)]


def test_of_products_those_whose_category_changed_are_named(warehouse):
    put(warehouse, "products", product_id="lamp", category="light")
    assert noted(warehouse) == [("products", "lamp", None, False)]
    warehouse.execute("update raw.products set product_name = 'Lamp', content_hash = 2")
    assert noted(warehouse) == [("products", None, None, False)]
    warehouse.execute("update raw.products set category = null, content_hash = 3")
    assert noted(warehouse) == [("products", "lamp", None, False)]
    warehouse.execute("update raw.products set product_id = 'lux', content_hash = 4")
    assert noted(warehouse) == [("products", name, None, False) for name in ("lamp", "lux")]
    warehouse.execute("delete from raw.products")
    assert noted(warehouse) == [("products", "lux", None, False)]


@pytest.mark.parametrize("table", ["customers", "campaigns"])
def test_of_customers_and_campaigns_any_change_is_one_of_the_whole_table(warehouse, table):
    whole = [(table, None, None, True)]
    put(warehouse, table)
    assert noted(warehouse) == whole
    warehouse.execute(f"update raw.{table} set {CONTENT[table]}".encode())
    assert noted(warehouse) == whole
    warehouse.execute(f"delete from raw.{table}".encode())
    assert noted(warehouse) == whole


def test_a_statement_that_changes_very_much_is_noted_as_the_whole_table(warehouse):
    def add(first: int, last: int) -> None:
        warehouse.execute(
            "insert into raw.reviews (review_id, customer_id, reviewed_at, content_hash, file_id, "
            "source_row, delivered_at) select number::text, 'ann', '2026-01-01', 1, 1, 1, "
            f"'2026-01-01' from generate_series({first}, {last}) as numbers (number)".encode()
        )

    day, whole = ("reviews", "ann", date(2026, 1, 1), False), ("reviews", None, None, True)
    add(1, 200_000)
    assert noted(warehouse) == [day]
    warehouse.execute("update raw.reviews set delivered_at = '2026-02-01'")
    assert noted(warehouse) == []
    warehouse.execute("update raw.reviews set rating = 2")  # both versions of every row
    assert noted(warehouse) == [whole]
    add(200_001, 400_001)
    assert noted(warehouse) == [whole]
    warehouse.execute("delete from raw.reviews")
    assert noted(warehouse) == [whole]


def test_what_a_target_has_not_built_is_told_and_afterwards_no_more(warehouse, url, since):
    put(warehouse, "order_lines", customer_id="ann")
    put(
        warehouse,
        "order_lines",
        customer_id="bob",
        order_id="y",
        ordered_at=shop_files.midnight(2026, 1, 2),
    )
    put(warehouse, "events", customer_id="ann", occurred_at=shop_files.midnight(2026, 1, 9))
    put(warehouse, "customers")
    found = changes.read(url, "test", "a")
    put(warehouse, "reviews", customer_id="late")
    assert not found.is_whole
    assert found.tables == {"order_lines", "events", "customers"}
    assert found.days == {
        "order_lines": ((date(2026, 1, 1), date(2026, 1, 2)),),
        "events": ((date(2026, 1, 9), date(2026, 1, 9)),),
    }
    whose = changes.customers(url, "test", found)
    assert whose.schema == changes.CUSTOMERS
    assert sorted(map(tuple, (row.values() for row in whose.to_pylist()))) == [
        ("events", "ann"), ("order_lines", "ann"), ("order_lines", "bob"),
    ]  # fmt: skip
    changes.consume(url, "test", found, "a")
    rest = changes.read(url, "test", "a")
    assert (rest.is_whole, rest.tables, list(rest.days)) == (False, {"reviews"}, ["reviews"])
    assert rest.up_to > found.up_to
    assert changes.customers(url, "test", rest).to_pylist() == [
        {"table_name": "reviews", "customer_id": "late"}
    ]


def test_a_target_that_never_built_and_other_definitions_ask_for_everything(url, since):
    assert not changes.read(url, "test", "a").is_whole
    for target, fingerprint in (("test", "b"), ("other", "a")):
        found = changes.read(url, target, fingerprint)
        assert (found.is_whole, found.tables, found.days) == (True, set(TABLES), {})
        assert changes.customers(url, target, found).num_rows == 0


@pytest.mark.parametrize(
    ("table", "is_whole"),
    [(table, table not in ("customers", "campaigns")) for table in TABLES],
)
def test_a_table_that_is_emptied_asks_for_everything_but_where_no_day_hangs_on_it(
    warehouse, url, since, table, is_whole
):
    warehouse.execute(f"truncate raw.{table}".encode())
    found = changes.read(url, "test", "a")
    assert found.is_whole == is_whole
    assert found.tables == (set(TABLES) if is_whole else {table})


@pytest.mark.parametrize("table", ["order_lines", "events", "reviews"])
def test_another_category_asks_for_everything_if_the_product_has_rows_of_before(
    warehouse, url, since, table
):
    put(warehouse, "products", product_id="lamp", category="light")
    put(warehouse, "products", product_id="lux", category="light")
    put(warehouse, table, product_id="lamp")
    assert not changes.read(url, "test", "a").is_whole  # its rows are as new as the product
    since()
    warehouse.execute("update raw.products set category = 'other' where product_id = 'lux'")
    warehouse.execute("update raw.products set product_name = 'other'")
    assert not changes.read(url, "test", "a").is_whole
    warehouse.execute("update raw.products set category = 'other' where product_id = 'lamp'")
    assert changes.read(url, "test", "a").is_whole
    since()
    assert not changes.read(url, "test", "a").is_whole


def test_a_writer_that_has_not_committed_is_waited_for(warehouse, url, since):
    found: list[Changes] = []
    reader = threading.Thread(target=lambda: found.append(changes.read(url, "test", "a")))
    with psycopg.connect(url) as writer:
        put(writer, "events", customer_id="ann")
        put(warehouse, "reviews", customer_id="bob")  # a later number, committed before
        reader.start()
        while not warehouse.execute(
            "select from pg_locks where relation = 'ops.changes'::regclass and not granted"
        ).fetchall():
            assert reader.is_alive()
    reader.join(20)
    assert found[0].tables == {"events", "reviews"}


def test_what_every_target_has_built_is_forgotten_and_nothing_else(warehouse, url, since):
    changes.consume(url, "slow", changes.read(url, "slow", "s"), "s")
    put(warehouse, "events", customer_id="ann")
    since()
    put(warehouse, "reviews", customer_id="ann")
    since()

    def left() -> list[tuple]:
        return warehouse.execute("select table_name from ops.changes order by 1").fetchall()

    assert left() == [("events",), ("reviews",)]
    slow = changes.read(url, "slow", "s")
    assert slow.tables == {"events", "reviews"}
    changes.consume(url, "slow", slow, "s")
    assert left() == []
    again = changes.read(url, "slow", "s")
    assert (again.up_to, again.is_whole, again.tables) == (slow.up_to, False, set())
    put(warehouse, "events", event_id="y")
    assert changes.read(url, "slow", "s").tables == {"events"}


days = st.lists(st.dates(date(2020, 1, 1), date(2021, 12, 31)), max_size=200)


@given(days, st.integers(1, 60))
def test_ranges_cover_the_days_and_close_the_smallest_gaps(days, most):
    found = changes.ranges(days, most)
    assert len(found) <= most
    assert all(first <= last for first, last in found)
    assert all(a < b - timedelta(days=1) for (_, a), (b, _) in pairwise(found))
    covered = {
        first + timedelta(days=number)
        for first, last in found
        for number in range((last - first).days + 1)
    }
    assert covered >= set(days)
    assert {day for pair in found for day in pair} <= set(days)
    # By counting: a gap that was closed is no larger than one that was left.
    ordered = sorted(set(days))
    closed = [(b - a).days for a, b in pairwise(ordered) if b - timedelta(days=1) in covered]
    left = [(b - a).days for (_, a), (b, _) in pairwise(found)]
    assert max(closed, default=0) <= min(left, default=10**6)
    if len(found) < most:
        assert covered == set(days)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    return read_source(str(shop_files.canonical(tmp_path_factory.mktemp("shop") / "shop", {})))


def write(folder: Path, **tables: list[shop_files.Row]) -> Path:
    for table, rows in tables.items():
        shop_files.write_csv(folder / f"{table}.csv", table, rows)
    return folder


def test_a_load_notes_what_it_changed(warehouse, url, source, tmp_path):
    products, lines = shop_files.rows("products", 20), shop_files.rows("order_lines", 60)
    first = write(tmp_path / "1", products=products, order_lines=lines[:50], events=[])
    shop_files.deliver(url, source, first, DAY)
    assert noted(warehouse) == [(t, None, None, True) for t in ("order_lines", "products")]

    products[3]["product_name"] = "Another lamp"
    second = write(tmp_path / "2", products=products, order_lines=lines, events=[])
    shop_files.deliver(url, source, second, DAY + timedelta(days=1))
    new = {(shop_files.pseudonym(row["customer_id"]), row["ordered_at"].date())
           for row in lines[50:]}  # fmt: skip
    found = noted(warehouse)
    assert found.pop() == ("products", None, None, False)
    assert {(customer, day) for _, customer, day, _ in found} == new
    assert len(found) == len(new)

    third = write(tmp_path / "3", order_lines=list(reversed(lines)))
    shop_files.deliver(url, source, third, DAY + timedelta(days=2))
    assert noted(warehouse) == []
    known = "select known_at::date, count(*) from raw.order_lines group by 1 order by 1"
    assert warehouse.execute(known).fetchall() == [(DAY, 50), (DAY + timedelta(days=1), 10)]

    fourth = write(tmp_path / "4", order_lines=lines[:1])
    shop_files.deliver(url, source, fourth, DAY, is_daily=False)
    assert [row[1:3] for row in noted(warehouse)] == [
        (shop_files.pseudonym(lines[0]["customer_id"]), lines[0]["ordered_at"].date())
    ]
    assert warehouse.execute(
        "select count(*) from raw.order_lines where known_at is null"
    ).fetchone() == (1,)


def test_the_first_fill_leaves_the_triggers_and_the_indexes_as_they_were(
    warehouse, url, source, tmp_path
):
    def things() -> list[tuple]:
        return warehouse.execute(
            "select tgrelid::regclass::text, tgname, tgenabled::text from pg_trigger "
            "union all select tablename, indexname, indexdef from pg_indexes "
            "where schemaname = 'raw' order by 1, 2, 3"
        ).fetchall()

    before = things()
    rows = {table: shop_files.rows(table, 20) for table in TABLES}
    shop_files.deliver(url, source, write(tmp_path / "all", **rows), date(2026, 9, 1))
    assert things() == before
    assert all(count == 20 for count, in warehouse.execute(
        " union all ".join(f"select count(*) from raw.{table}" for table in TABLES).encode()
    ))  # fmt: skip
    assert [(table, whole) for table, _, _, whole in noted(warehouse)] == [
        (table, True) for table in sorted(TABLES)
    ]


def test_another_key_asks_for_everything_and_leaves_no_old_name(warehouse, settings, url, since):
    warehouse.execute("delete from pii.key_fingerprint")
    put(warehouse, "order_lines", customer_id="old")
    warehouse.execute("insert into pii.customer_ids values ('old', '17') on conflict do nothing")
    warehouse.execute("insert into ops.touched_customers values ('order_lines', 'old')")
    copy = settings.home / DUCKDB_FILE
    copy.parent.mkdir()
    copy.touch()
    pseudonyms.rotate(settings, url)
    assert changes.read(url, "test", "a").is_whole
    assert not copy.exists()
    assert warehouse.execute("select count(*) from ops.touched_customers").fetchone() == (0,)
    assert warehouse.execute(
        "select count(*) from ops.changes where entity_id is not null"
    ).fetchone() == (0,)
    since()
    (name,) = warehouse.execute("select customer_id from raw.order_lines").fetchone() or ("",)
    assert name == pseudonyms.pseudonym(settings.secret("pseudonyms").encode(), "17")
    warehouse.execute("delete from raw.order_lines")
    assert changes.customers(url, "test", changes.read(url, "test", "a")).num_rows == 1
