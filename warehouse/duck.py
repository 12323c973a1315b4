"""The copy of `raw` in a DuckDB file, from which the features can be built without the server.

It holds the contract's columns and `known_at`; of what else `raw` says about a row, no change is
noted. A copy is one transaction: killed halfway, it leaves the file as it was.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import adbc_driver_manager
import duckdb
import pyarrow as pa

from warehouse.changes import Changes
from warehouse.connections import connect_bulk, describe
from warehouse.contract import PROVENANCE, TABLES
from warehouse.settings import TierhouseError, one_line

if TYPE_CHECKING:
    from adbc_driver_postgresql import dbapi


def identity(file: Path) -> str:
    """Which state of which file this is, made if the file is not there.

    It belongs in the fingerprint of what is built in the file: when the file was removed, or an
    older one put in its place, all of it has to be built, and not only what changed since.
    Raises TierhouseError: the file is in use, or is no DuckDB file.
    """
    with _open(file) as duck:
        duck.execute("create schema if not exists ops")
        duck.execute("create table if not exists ops.copy as select uuid()::varchar as copy_id")
        return duck.execute("select copy_id from ops.copy").fetchall()[0][0]


def new_identity(file: Path) -> str:
    """Mark the state of the file as a new one, because it was built."""
    with _open(file) as duck:
        duck.execute("update ops.copy set copy_id = uuid()::varchar")
        return duck.execute("select copy_id from ops.copy").fetchall()[0][0]


def has_tables(file: Path, tables: Sequence[str]) -> bool:
    """Whether all of these are in the file. tables: schema.table."""
    with _open(file) as duck:
        there = duck.execute(
            "select table_schema || '.' || table_name from information_schema.tables"
        ).fetchall()
    return set(tables) <= {name for (name,) in there}


def copy_raw(
    url: str,
    file: Path,
    changes: Changes,
    customers: pa.Table,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Bring the tables of `raw` in the file up to what the warehouse holds.

    Of a dated table the days that changed are replaced. Other tables that changed are copied
    whole, as are all when changes.is_whole. `customers` becomes ops.touched_customers.
    `progress` hears the name of each table.
    Raises TierhouseError: the file is in use, damaged or full, or the warehouse does not answer.
    """
    with _open(file) as duck:
        duck.begin()
        duck.execute("create schema if not exists raw")
        duck.execute("create schema if not exists ops")
        try:
            with connect_bulk(url) as warehouse, warehouse.cursor() as cursor:
                cursor.execute("set transaction isolation level repeatable read, read only")
                for table in TABLES:
                    if table in changes.tables:
                        progress(table)
                        _copy(duck, cursor, table, changes)
        except adbc_driver_manager.Error as error:
            raise TierhouseError(
                f"The warehouse at {describe(url)} stopped answering while it was copied: "
                f"{one_line(error)} {file} is as it was. Run the same again."
            ) from None
        duck.register("incoming", customers)
        duck.execute("create or replace table ops.touched_customers as select * from incoming")
        duck.commit()


def _copy(
    duck: duckdb.DuckDBPyConnection, cursor: "dbapi.Cursor", table: str, changes: Changes
) -> None:
    contract = TABLES[table]
    columns = {name: contract.columns[name] for name in contract.landed}
    columns["known_at"] = PROVENANCE["known_at"]
    if contract.times and not changes.is_whole:
        # A row that moved is noted on both its days, a contact on those of all its times.
        condition = _within(contract.times[0], changes.days[table])
        duck.execute(f"delete from raw.{table} where {condition}")
    else:
        condition = "true"
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        duck.execute(f"create or replace table raw.{table} ({listed})")
    decimals = {name: found for name, kind in columns.items() if (found := _decimal(kind))}
    listed = ", ".join(
        f"cast({name} * {10 ** decimals[name].scale} as bigint)" if name in decimals else name
        for name in columns
    )
    cursor.execute(f"select {listed} from raw.{table} where {condition}")
    duck.register("incoming", _with_points(cursor.fetch_record_batch(), list(columns), decimals))
    duck.execute(f"insert into raw.{table} by name select * from incoming")
    duck.unregister("incoming")


def _with_points(
    reader: pa.RecordBatchReader, names: Sequence[str], decimals: Mapping[str, pa.Decimal64Type]
) -> pa.RecordBatchReader:
    """The batches with their columns named, and whole numbers read as the decimals they are.

    PostgreSQL sends a numeric as text, which takes half as long again to send and to read.
    """
    schema = pa.schema(
        [
            pa.field(name, decimals.get(name, field.type))
            for name, field in zip(names, reader.schema, strict=True)
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            arrays = zip(batch.columns, schema.types, strict=True)
            yield pa.RecordBatch.from_arrays(
                [array if array.type == kind else array.view(kind) for array, kind in arrays],
                schema=schema,
            )

    return pa.RecordBatchReader.from_batches(schema, batches())


def _decimal(kind: str) -> pa.Decimal64Type | None:
    """The Arrow type of one of the contract's decimals, all of which fit 64 bits."""
    found = re.match(r"decimal\((\d+), (\d+)\)", kind)
    return found and pa.decimal64(int(found[1]), int(found[2]))


def _within(time: str, days: Sequence[tuple[date, date]]) -> str:
    """The condition, in both engines, that a time is on one of the days of these ranges."""
    return " or ".join(
        f"({time} >= '{first}' and {time} < '{last + timedelta(days=1)}')" for first, last in days
    )


@contextmanager
def _open(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file, made when it is not there; what is not committed at the end is undone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        duck = duckdb.connect(file)
    except duckdb.Error as error:
        if "Could not set lock" in str(error):
            raise TierhouseError(
                f"{file} is in use by another process, and DuckDB lets one at a time write. End "
                f"that one, or wait for it, and run the same again. DuckDB says: "
                f"{one_line(error)}"
            ) from None
        raise TierhouseError(
            f"{file} cannot be opened: {one_line(error)} If it is damaged, remove it: all it "
            f"holds is made again from the warehouse."
        ) from None
    with duck:
        try:
            yield duck
        except duckdb.Error as error:
            raise TierhouseError(
                f"{file} could not be written, and is as it was: {one_line(error)} If it is "
                f"damaged, remove it: all it holds is made again from the warehouse."
            ) from None
