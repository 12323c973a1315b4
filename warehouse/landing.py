"""Checked rows into `raw`: which version of a key stands, and which is kept, and where.

The version of a row is (delivered_at, content_hash). Where newer deliveries correct, the highest
version stands and the others are kept in raw.superseded; elsewhere the lowest stands and the
others are quarantined. Two contents of one delivery are a conflict everywhere: nothing says which
is newer. Whatever stands was known when its key first came. So the tables follow from the set of
deliveries, and not from their order.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shutil import rmtree

import duckdb
import pyarrow as pa
from adbc_driver_postgresql import dbapi

from warehouse import mapping
from warehouse.connections import connect_bulk
from warehouse.contract import PROVENANCE, TABLES, Table, time_index
from warehouse.source import Source

LARGEST_ARROW_BATCH = 100_000


@dataclass(frozen=True)
class Delivery:
    """What all rows of a load share. delivered_at is UTC, naive.

    is_daily: it is the delivery of the day of delivered_at, and its rows were not known before.
    """

    source: Source
    delivered_at: datetime
    run_id: str
    is_daily: bool


@dataclass(frozen=True)
class Bench:
    """Both ends of a load: the one transaction that it is, and the DuckDB that works the rows."""

    warehouse: dbapi.Connection
    cursor: dbapi.Cursor
    duck: duckdb.DuckDBPyConnection

    def do(self, statement: str, *parameters: object) -> None:
        """Run a statement in the warehouse."""
        self.cursor.execute(statement, parameters or None)

    def ask(self, query: str, *parameters: object) -> list[tuple]:
        """The rows of a query to the warehouse."""
        self.cursor.execute(query, parameters or None)
        return self.cursor.fetchall()

    def ingest(self, query: str, table: str, schema: str | None = None) -> None:
        """Copy the rows of a DuckDB query into a table, or into a new temporary one."""
        batches = _ahead(self.duck.sql(query).to_arrow_reader(LARGEST_ARROW_BATCH))
        if schema is None:
            self.do(f"drop table if exists pg_temp.{table}")
            self.cursor.adbc_ingest(table, batches, mode="create", temporary=True)
        else:
            self.cursor.adbc_ingest(table, batches, mode="append", db_schema_name=schema)


def _ahead(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same batches, each made while the one before is sent: a quarter of the time of a load."""

    def batches() -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(1) as worker:
            coming = worker.submit(next, reader, None)
            while (batch := coming.result()) is not None:
                coming = worker.submit(next, reader, None)
                yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


@contextmanager
def open_bench(url: str, source: Source, scratch: Path) -> Iterator[Bench]:
    """One load at a time: its transaction, committed at the end, and its empty scratch folder."""
    with connect_bulk(url) as warehouse, warehouse.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('load', 0))")
        cursor.fetchall()
        rmtree(scratch, ignore_errors=True)  # of a load that was killed
        scratch.mkdir(mode=0o700, parents=True)
        try:
            with mapping.workbench(scratch, source) as duck:
                yield Bench(warehouse, cursor, duck)
        finally:
            rmtree(scratch, ignore_errors=True)


def land(bench: Bench, delivery: Delivery, table: str) -> dict[int, int]:
    """Move the rows of `checked_<table>` that may land into raw.<table>.

    Rows that meet their key there get an outcome: 'duplicate', 'conflicting_key', or 'superseded'
    (kept in the history). The table `met` says for each what its meeting was.
    Returns file_id -> how many rows landed, counted where they are.
    """
    contract = TABLES[table]
    delivered_at = f"timestamp '{delivery.delivered_at}'"
    known_at = delivered_at if delivery.is_daily else "cast(null as timestamp)"
    rows = (
        f"select {', '.join(contract.landed)}, content_hash, "
        f"cast(source_row >> {mapping.FILE_SHIFT} as integer) as file_id, "
        f"cast(source_row & {mapping.ROW_NUMBER} as integer) as source_row, "
        f"{delivered_at} as delivered_at, {known_at} as known_at "
        f"from checked_{table} where outcome is null"
    )
    bench.duck.execute("create or replace table met (source_row bigint, outcome varchar)")
    if not bench.duck.execute(f"select exists ({rows})").fetchall()[0][0]:
        landed = {}
    elif _is_empty(bench, f"raw.{table}"):
        by_time = time_index(contract) if contract.times else ""
        # That all of it is new is noted when it is truncated.
        bench.do(f"alter table raw.{table} disable trigger note_insert")
        with _defaults(bench, f"raw.{table}", rows) as sent:
            _fill(bench, "raw", table, contract.key, sent, by_time)
        bench.do(f"alter table raw.{table} enable trigger note_insert")
        landed = dict(bench.ask(f"select file_id, count(*) from raw.{table} group by file_id"))
    else:
        bench.ingest(rows, "incoming")
        landed = _merge(bench, delivery, contract)
    if contract.personal:
        _land_personal(bench, delivery, contract)
    return landed


def _fill(
    bench: Bench, schema: str, table: str, key: tuple[str, ...], rows: str, by_time: str = ""
) -> None:
    """Put rows into an empty table, before its indexes are made: of its key, and `by_time`.

    A table truncated in this transaction is filled without write-ahead log, and an index made
    afterwards costs half of one that grows.
    """
    bench.do(f"truncate {schema}.{table}")
    bench.do(f"alter table {schema}.{table} drop constraint {table}_pkey")
    bench.do(f"drop index if exists {schema}.{table}_by_time")
    bench.ingest(rows, table, schema)
    bench.do(f"alter table {schema}.{table} add primary key ({', '.join(key)})")
    if by_time:
        bench.do(by_time)


def _is_empty(bench: Bench, table: str) -> bool:
    return not bench.ask(f"select exists (select from {table})")[0][0]


@contextmanager
def _defaults(bench: Bench, table: str, rows: str) -> Iterator[str]:
    """The rows without what is the same in all of them, which is the column's default meanwhile.

    Every field sent costs a load of five million rows a quarter of a second.
    """
    shared = ("currency", "file_id", "delivered_at", "known_at")
    candidates = [name for name in shared if name in rows]
    # Each is null in all the rows of a load, or in none.
    bounds = (f"min({name}) is not distinct from max({name}), min({name})" for name in candidates)
    found = bench.duck.execute(f"select {', '.join(bounds)} from ({rows})").fetchall()[0]
    pairs = zip(candidates, found[::2], found[1::2], strict=True)
    same = {name: value for name, is_same, value in pairs if is_same}
    for name, value in same.items():
        if value is not None:
            bench.do(f"alter table {table} alter {name} set default '{value}'")
    yield f"select * exclude ({', '.join(same)}) from ({rows})" if same else rows
    for name in same:
        bench.do(f"alter table {table} alter {name} drop default")


def _merge(bench: Bench, delivery: Delivery, contract: Table) -> dict[int, int]:
    """Let the rows of pg_temp.incoming meet those that stand in raw, and land those that win.

    What stands afterwards was known when its key first came; a null, always, is before all times.
    """
    table, corrects = f"raw.{contract.name}", delivery.source.corrects(contract.name)
    same_key = " and ".join(f"incoming.{key} = standing.{key}" for key in contract.key)
    key_text = f"jsonb_build_array({', '.join(f'standing.{key}' for key in contract.key)})::text"
    version, standing_version = (
        f"({side}.delivered_at, {side}.content_hash)" for side in ("incoming", "standing")
    )
    content, standing_content = (
        ", ".join(f"{side}.{name}" for name in contract.landed if name not in contract.key)
        for side in ("incoming", "standing")
    )
    # The hash orders versions; whether contents are the same is asked of the contents.
    is_same = f"row({content}) is not distinct from row({standing_content})"
    if corrects:
        outcome = (
            f"case when {is_same} then 'duplicate' "
            "when incoming.delivered_at > standing.delivered_at then 'corrects' "
            "when incoming.delivered_at < standing.delivered_at then 'superseded' "
            f"when {version} > {standing_version} then 'displaces' else 'conflicting_key' end"
        )
    else:
        outcome = (
            f"case when {is_same} then 'duplicate' "
            f"when {version} < {standing_version} then 'displaces' else 'conflicting_key' end"
        )
    bench.do("analyze pg_temp.incoming")
    bench.do("drop table if exists pg_temp.met")
    bench.do(
        f"create temporary table met as select incoming.*, {key_text} as key_text, "
        f"{outcome} as outcome, "
        "case when incoming.known_at is not null and standing.known_at is not null "
        "then least(incoming.known_at, standing.known_at) end as first_known_at "
        f"from pg_temp.incoming as incoming inner join {table} as standing on {same_key}"
    )
    if not bench.ask("select exists (select from pg_temp.met)")[0][0]:
        return dict(bench.ask(_insert(contract, "pg_temp.incoming as incoming")))
    met_key = " and ".join(f"met.{key} = standing.{key}" for key in contract.key)
    latest = ">" if corrects else "<"
    moves = f"met.outcome = 'duplicate' and met.delivered_at {latest} standing.delivered_at"
    bench.do(
        f"update {table} as standing set known_at = met.first_known_at, "
        f"delivered_at = case when {moves} then met.delivered_at else standing.delivered_at end "
        f"from pg_temp.met as met where met.outcome not in ('corrects', 'displaces') "
        f"and {met_key} and ({moves} or met.first_known_at is distinct from standing.known_at)"
    )
    # What is in the history already came before: a duplicate, whose version may move.
    bench.do(
        "update pg_temp.met as met set outcome = 'known' from raw.superseded as superseded "
        "where met.outcome = 'superseded' and superseded.table_name = $1 "
        "and superseded.key = met.key_text and superseded.content_hash = met.content_hash",
        contract.name,
    )
    # Of two contents of one older delivery one is kept, the one that would have stood then.
    bench.do(
        "update pg_temp.met as met set outcome = 'conflicting_key' "
        "from raw.superseded as superseded where met.outcome = 'superseded' "
        "and superseded.table_name = $1 and superseded.key = met.key_text "
        "and superseded.delivered_at = met.delivered_at "
        "and superseded.content_hash > met.content_hash",
        contract.name,
    )
    _displace(
        bench,
        delivery,
        contract,
        "raw.superseded as loser inner join pg_temp.met as met on loser.key = met.key_text "
        f"and loser.delivered_at = met.delivered_at and loser.table_name = '{contract.name}' "
        "and met.outcome = 'superseded'",
        "loser.row",
        corrected=1,
    )
    bench.do(
        "delete from raw.superseded as loser using pg_temp.met as met "
        "where met.outcome = 'superseded' and loser.table_name = $1 "
        "and loser.key = met.key_text and loser.delivered_at = met.delivered_at",
        contract.name,
    )
    _keep(bench, contract, "pg_temp.met", "met", "met.outcome in ('superseded', 'known')")
    _keep(
        bench,
        contract,
        f"{table} as standing inner join pg_temp.met as met on {met_key}",
        "standing",
        "met.outcome = 'corrects'",
    )
    bench.do(
        "delete from raw.superseded as superseded using pg_temp.met as met "
        "where met.outcome = 'corrects' and superseded.table_name = $1 "
        "and superseded.key = met.key_text and superseded.content_hash = met.content_hash",
        contract.name,
    )
    _displace(
        bench,
        delivery,
        contract,
        f"{table} as loser inner join pg_temp.met as met on met.outcome = 'displaces' and "
        + " and ".join(f"met.{key} = loser.{key}" for key in contract.key),
        _as_json(contract, "loser"),
        corrected=0,
    )
    changed = ", ".join(
        f"{name} = met.{'first_known_at' if name == 'known_at' else name}"
        for name in (*contract.landed, *PROVENANCE)
        if name not in contract.key
    )
    landed = Counter[int](
        dict(
            bench.ask(
                f"with landed as (update {table} as standing set {changed} "
                f"from pg_temp.met as met where met.outcome in ('corrects', 'displaces') "
                f"and {met_key} returning standing.file_id) "
                f"select file_id, count(*) from landed group by file_id"
            )
        )
    )
    met_incoming = " and ".join(f"met.{key} = incoming.{key}" for key in contract.key)
    landed.update(
        dict(
            bench.ask(
                _insert(
                    contract,
                    f"pg_temp.incoming as incoming left join pg_temp.met as met "
                    f"on {met_incoming} where met.outcome is null",
                )
            )
        )
    )
    bench.cursor.execute(
        f"select cast(file_id as bigint) << {mapping.FILE_SHIFT} | source_row as source_row, "
        f"outcome from pg_temp.met"
    )
    bench.duck.register("outcomes", bench.cursor.fetch_record_batch())
    bench.duck.execute("insert into met select * from outcomes")
    bench.duck.unregister("outcomes")
    bench.duck.execute(
        f"update checked_{contract.name} as checked set "
        f"outcome = if(met.outcome = 'known', 'duplicate', met.outcome), "
        f"outcome_column = if(met.outcome = 'conflicting_key', '{contract.key[-1]}', null) "
        f"from met where met.source_row = checked.source_row "
        f"and met.outcome in ('duplicate', 'known', 'superseded', 'conflicting_key')"
    )
    return landed


def _insert(contract: Table, origin: str) -> str:
    columns = [*contract.landed, *PROVENANCE]
    return (
        f"with landed as (insert into raw.{contract.name} ({', '.join(columns)}) "
        f"select {', '.join(f'incoming.{column}' for column in columns)} from {origin} "
        f"returning file_id) select file_id, count(*) from landed group by file_id"
    )


def _keep(bench: Bench, contract: Table, origin: str, side: str, condition: str) -> None:
    """Put older versions into the history, each content once."""
    bench.do(
        f"insert into raw.superseded "
        f"(table_name, key, content_hash, delivered_at, file_id, source_row, row) "
        f"select $1, met.key_text, {side}.content_hash, {side}.delivered_at, {side}.file_id, "
        f"{side}.source_row, {_as_json(contract, side)} from {origin} where {condition} "
        f"on conflict (table_name, key, content_hash) do update "
        f"set delivered_at = greatest(superseded.delivered_at, excluded.delivered_at)",
        contract.name,
    )


def _displace(
    bench: Bench, delivery: Delivery, contract: Table, losers: str, raw_row: str, corrected: int
) -> None:
    """Quarantine rows that landed and lost their place to another content of their key.

    What was said of them in the ledger moves with them. corrected: 1 where they were that.
    """
    bench.do(
        f"insert into quarantine.rows (run_id, source, file_id, file_name, file_hash, table_name, "
        f"source_row, reason, column_name, raw_row) "
        f"select $1, $2, files.file_id, files.file_name, files.file_hash, $3, loser.source_row, "
        f"'conflicting_key', $4, {raw_row} from {losers} "
        f"inner join ops.files as files on files.file_id = loser.file_id",
        delivery.run_id, delivery.source.name, contract.name, contract.key[-1],
    )  # fmt: skip
    bench.do(
        f"update ops.load_ledger as ledger set rows_accepted = rows_accepted - displaced.rows, "
        f"rows_corrected = rows_corrected - displaced.rows * {corrected}, "
        f"rows_quarantined = rows_quarantined + displaced.rows from "
        f"(select loser.file_id, count(*) as rows from {losers} group by loser.file_id) "
        f"as displaced where ledger.file_id = displaced.file_id and ledger.table_name = $1",
        contract.name,
    )


def _as_json(contract: Table, side: str) -> str:
    pairs = ", ".join(
        f"'{name}', cast({side}.{name} as {contract.kind(name)})" for name in contract.landed
    )
    return f"jsonb_build_object({pairs})"


def _land_personal(bench: Bench, delivery: Delivery, contract: Table) -> None:
    """Names and addresses go to the schema pii.

    As in raw, the newest stand where deliveries correct, else the first; of one delivery those
    that come last in the alphabet. Nothing older is kept.
    """
    content = ", ".join(f"coalesce({column}, '')" for column in contract.personal)
    columns = ("customer_id", *contract.personal)
    bench.ingest(
        f"select distinct on (customer_id) {', '.join(columns)}, "
        f"timestamp '{delivery.delivered_at}' as delivered_at from checked_{contract.name} "
        f"where outcome is null or outcome in ('duplicate', 'superseded', 'conflicting_key') "
        f"order by customer_id, row({content}) desc",
        "personal",
    )
    changes = ", ".join(f"{column} = excluded.{column}" for column in (*columns, "delivered_at"))
    new, old = (
        ", ".join(f"coalesce({side}.{column}, '')" for column in contract.personal)
        for side in ("excluded", contract.name)
    )
    newer = ">" if delivery.source.corrects(contract.name) else "<"
    bench.do(
        f"insert into pii.{contract.name} ({', '.join(columns)}, delivered_at) "
        f"select {', '.join(columns)}, delivered_at from pg_temp.personal "
        f"on conflict (customer_id) do update set {changes} "
        f"where excluded.delivered_at {newer} {contract.name}.delivered_at "
        f"or excluded.delivered_at = {contract.name}.delivered_at and row({new}) > row({old})"
    )


def land_people(bench: Bench) -> None:
    """Keep whose pseudonym is whose, for those who may look it up."""
    people = (
        "select distinct replace(cast(pseudonym as varchar), '-', '') as customer_id, "
        "source_customer_id from people"
    )
    if _is_empty(bench, "pii.customer_ids"):
        _fill(bench, "pii", "customer_ids", ("customer_id",), people)
        return
    bench.ingest(people, "people")
    bench.do(
        "insert into pii.customer_ids (customer_id, source_customer_id) "
        "select customer_id, source_customer_id from pg_temp.people on conflict do nothing"
    )
