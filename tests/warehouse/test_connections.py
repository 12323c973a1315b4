"""Whoever reads cannot write, and whoever cannot connect learns why without a password."""

import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import psycopg
import pytest
from pydantic import SecretStr

from warehouse import embedded
from warehouse.connections import Urls, connect, connect_bulk, grant, open_warehouse, query_rows
from warehouse.settings import Settings, TierhouseError

CATALOG = """
select 'namespace', nspname, xmin::text, obj_description(oid) from pg_namespace
union all
select 'relation', oid::regclass::text, xmin::text, relacl::text from pg_class
where relnamespace::regnamespace::text in ('raw', 'quarantine', 'pii', 'ops', 'scores', 'analytics')
order by 1, 2
"""
PRODUCT = """
insert into raw.products (product_id, content_hash, file_id, source_row, delivered_at)
values ('p1', 0, 1, 2, '2026-01-01')
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An installation with an embedded server, whatever server the other tests use."""
    settings = Settings(home=tmp_path_factory.mktemp("own"), warehouse_url=None)
    yield settings
    embedded.stop(settings)


@pytest.fixture(scope="module")
def own_urls(own) -> Urls:
    urls = open_warehouse(own)
    with connect(urls.warehouse) as connection:
        connection.execute(
            "insert into pii.customers (customer_id, full_name, delivered_at) "
            "values ('c1', 'Ada', '2026-01-01')"
        )
        connection.execute(PRODUCT)
        grant(connection)  # as after every build
    return urls


@pytest.fixture
def contents(own_urls):
    """What a reader must not change: every row that is there, and what the catalog says."""

    def rows() -> list[tuple]:
        with psycopg.connect(own_urls.warehouse) as connection:
            return [
                *connection.execute(CATALOG),
                *connection.execute("select * from raw.products"),
                *connection.execute("select * from pii.customers"),
                *connection.execute("select rolname, rolconfig::text from pg_roles order by 1"),
            ]

    return rows


def test_a_reader_gets_the_rows_and_the_names_of_the_columns(own_urls):
    query = "select 7 as seven, null as nothing, '50 %s' as sign, '{}' as braces;"
    names, rows = query_rows(own_urls.reader, query)
    assert names == ["seven", "nothing", "sign", "braces"]
    assert rows == [(7, None, "50 %s", "{}")]
    for schema in ("analytics.customer_tiers", "scores.customer_tiers", "ops.load_ledger"):
        assert query_rows(own_urls.reader, f"select * from {schema}")[1] == []


@pytest.mark.parametrize(
    "statement",
    [
        "insert into scores.customer_tiers select",
        "delete from ops.load_ledger",
        "truncate ops.published",
        "create table analytics.mine as select 1",
        "create table public.mine (a int)",
        "drop view analytics.customer_tiers",
        "alter role data_scientist set default_transaction_read_only = off",
        "comment on schema analytics is 'mine'",
        "select * from raw.products",
        "select * from raw.order_lines",
        "select * from raw.superseded",
        "select * from quarantine.rows",
        "select * from pii.customers",
        "select * from pii.customer_ids",
        "copy raw.products to stdout",
        "copy (select 1) to stdout",
        "copy (select 1) to '/tmp/mine'",
        "copy (select 1) to program 'true'",
        "select pg_read_file('PG_VERSION')",
        "select lo_create(0)",
        "vacuum",
        "select rolpassword from pg_authid",
        "set role warehouse",
        "set session authorization warehouse",
        "do $$ begin perform * from pii.customers; end $$",
        "do $$ begin set transaction read write; delete from ops.load_ledger; end $$",
        "do $$ begin commit; set transaction read write; create table public.mine(); end $$",
        "do $$ begin execute 'set role warehouse'; delete from ops.load_ledger; end $$",
        "with gone as (delete from ops.load_ledger returning *) select * from gone",
        "explain analyze delete from ops.load_ledger",
        "select 1; select 2",
        "commit; delete from ops.load_ledger",
        "rollback; set transaction read write; create table public.mine()",
        "selekt 1",
    ],
)
def test_a_reader_cannot_write_nor_escape_nor_see_what_is_raw_or_personal(
    own_urls, contents, statement
):
    before = contents()
    with pytest.raises(TierhouseError, match="The query failed") as refused:
        query_rows(own_urls.reader, statement)
    assert "Ada" not in str(refused.value)
    assert contents() == before


@pytest.mark.parametrize(
    "statement", ["commit", "rollback", "set transaction read write", "reset role", "", "-- hm"]
)
def test_a_statement_without_rows_gives_none_and_changes_nothing(own_urls, contents, statement):
    before = contents()
    assert query_rows(own_urls.reader, statement) == ([], [])
    assert contents() == before


def test_even_the_owner_of_the_warehouse_cannot_write_where_only_reading_is_meant(
    own_urls, contents
):
    """On a server of one's own there is no role for readers."""
    before = contents()
    for statement in (
        "delete from raw.products",
        "select 1; delete from raw.products",
        "commit; delete from raw.products",
        "do $$ begin set transaction read write; delete from raw.products; end $$",
        "do $$ begin commit; delete from raw.products; end $$",
    ):
        with pytest.raises(TierhouseError, match="one statement that reads"):
            query_rows(own_urls.warehouse, statement)
    assert contents() == before


@pytest.mark.parametrize("way", [connect, connect_bulk])
def test_a_server_that_does_not_answer_is_one_paragraph_without_the_password(own, own_urls, way):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    port = embedded.running_port(own)
    for secret in ("topsecret", quote("top/s@cret", safe=""), "top%secret"):
        for address in (
            f"postgresql://warehouse:{secret}@127.0.0.1:{closed}/warehouse",
            f"postgresql://warehouse:{secret}@127.0.0.1:{port}/warehouse",
            f"postgresql://warehouse:{secret}@127.0.0.1:{port}/not_there",
            f"postgresql+psycopg2://warehouse:{secret}@127.0.0.1:{port}/warehouse",
            f"postgresql://warehouse:{secret}@127.0.0.1:{port}/warehouse?wrong=1",
        ):
            with (
                pytest.raises(TierhouseError, match="TIERHOUSE_WAREHOUSE_URL") as said,
                way(address),
            ):
                pass
            assert "\n" not in str(said.value)
            assert secret not in str(said.value)
            assert "top" not in str(said.value)
            assert said.value.__suppress_context__  # nor in a traceback


def test_schemas_are_made_once(settings, urls):
    with psycopg.connect(urls.warehouse) as connection:
        before = connection.execute(CATALOG).fetchall()
        connection.commit()
        assert ("namespace", "analytics") in [row[:2] for row in before]
        assert open_warehouse(settings) == urls
        assert connection.execute(CATALOG).fetchall() == before


def test_schemas_of_an_older_tierhouse_are_brought_up_to_date_and_keep_their_rows(settings, urls):
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        connection.execute(PRODUCT)
        connection.execute("drop view analytics.model_scoreboard")
        connection.execute("comment on schema ops is 'Tierhouse of old'")
        open_warehouse(settings)
        assert connection.execute("select * from analytics.model_scoreboard").fetchall() == []
        assert connection.execute("select product_id from raw.products").fetchall() == [("p1",)]


def test_two_that_open_an_empty_warehouse_at_once_both_succeed(settings, urls):
    name = f"{urls.warehouse.rpartition('/')[2]}_twice"
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        try:
            address = SecretStr(f"{urls.warehouse.rpartition('/')[0]}/{name}")
            twice = [settings.model_copy(update={"warehouse_url": address})] * 4
            with ThreadPoolExecutor(4) as pool:
                assert len(set(pool.map(open_warehouse, twice))) == 1
        finally:
            connection.execute(f"drop database {name} with (force)")


def test_with_a_server_of_ones_own_nothing_is_started(settings, urls):
    assert not (settings.home / "postgres").exists()
    assert embedded.running_port(settings) is None
    assert urls.warehouse == settings.warehouse_url.get_secret_value()
