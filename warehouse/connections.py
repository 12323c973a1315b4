"""Addresses of the databases, and connections to them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from warehouse import contract, embedded
from warehouse.settings import PROJECT, Settings, TierhouseError

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_postgresql import dbapi

SCHEMA = [PROJECT / "warehouse" / name for name in ("schema.sql", "analytics.sql", "comments.sql")]
SCHEMAS = (
    "raw", "quarantine", "pii", "ops", "staging", "intermediate", "features", "scores", "analytics",
)  # fmt: skip
# Which schemas a reading role sees. Personal data is for pii_reader alone; `raw` and `quarantine`
# are for none of them.
GRANTS = {
    "analyst": ("analytics",),
    "data_scientist": ("analytics", "features", "scores", "intermediate", "ops"),
    "pii_reader": ("analytics", "pii"),
}


@dataclass(frozen=True)
class Urls:
    """Addresses with passwords: for connections, never for messages."""

    warehouse: str
    reader: str
    analyst: str
    pii: str
    airflow: str
    mlflow: str


def open_warehouse(settings: Settings) -> Urls:
    """Start the embedded server if it is the one in use, and bring the schemas up to date.

    Raises TierhouseError: the server does not start or does not answer.
    """
    if settings.warehouse_url is None:
        port = embedded.start(settings)
        found = Urls(
            warehouse=embedded.url(settings, port, "warehouse", "warehouse"),
            reader=embedded.url(settings, port, "data_scientist", "warehouse"),
            analyst=analyst_url(settings),
            pii=embedded.url(settings, port, "pii_reader", "warehouse"),
            airflow=embedded.url(settings, port, "airflow", "airflow"),
            mlflow=embedded.url(settings, port, "mlflow", "mlflow"),
        )
        administrator = embedded.url(settings, port, embedded.SUPERUSER, "warehouse")
    else:
        warehouse = administrator = settings.warehouse_url.get_secret_value()
        name = urlsplit(warehouse).path.lstrip("/")
        found = Urls(
            warehouse=warehouse,
            reader=warehouse,
            analyst=analyst_url(settings),
            pii=warehouse,
            airflow=_sibling(warehouse, f"{name}_airflow"),
            mlflow=_sibling(warehouse, f"{name}_mlflow"),
        )
    _prepare(found.warehouse, administrator)
    return found


def analyst_url(settings: Settings) -> str:
    """The address with which people's pages read: the role analyst of the embedded server, or
    TIERHOUSE_ANALYST_URL, or else that of the whole warehouse. Starts nothing.

    Raises TierhouseError: the embedded server is down.
    """
    for given in (settings.analyst_url, settings.warehouse_url):
        if given is not None:
            return given.get_secret_value()
    port = embedded.running_port(settings)
    if port is None:
        raise TierhouseError("The warehouse is down. Start it with `tierhouse up`.")
    return embedded.url(settings, port, "analyst", "warehouse")


@contextmanager
def connect(url: str, **options: Any) -> Iterator[psycopg.Connection]:
    """A psycopg connection: commits at the end, rolls back on an exception.

    Raises TierhouseError: the server does not answer.
    """
    try:
        connection = psycopg.connect(url, connect_timeout=10, **options)
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise TierhouseError(_no_answer(url, str(error))) from None
    with connection:
        yield connection


def one_row(connection: psycopg.Connection, query: str, *parameters: Any) -> tuple[Any, ...]:
    """The only row of an aggregate."""
    row = connection.execute(query.encode(), parameters).fetchone()
    if row is None:
        raise TierhouseError(f"No row came back from: {query}")
    return row


@contextmanager
def connect_bulk(url: str) -> "Iterator[dbapi.Connection]":
    """An ADBC connection, for Arrow in and out; one transaction, committed at the end."""
    import adbc_driver_manager
    from adbc_driver_postgresql import dbapi  # loads pandas: a second that most commands save

    try:
        connection = dbapi.connect(url)
    except adbc_driver_manager.Error as error:
        raise TierhouseError(_no_answer(url, str(error))) from None
    try:
        yield connection
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
    finally:
        connection.close()


def read_arrow(url: str, query: str, parameters: Sequence[Any] = ()) -> "pa.Table":
    """The rows of a query as an Arrow table, by COPY. Cast numerics to float8 in the query."""
    with connect_bulk(url) as connection, connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        return cursor.fetch_arrow_table()


def spill_arrow(url: str, query: str, parameters: Sequence[Any], file: Path) -> int:
    """Write the rows of a query to an Arrow file, part by part, and say how many there are.

    `pyarrow.ipc.open_file` reads it part by part.
    """
    import pyarrow as pa

    with connect_bulk(url) as connection, connection.cursor() as cursor:
        cursor.execute(query, parameters or None)
        reader = cursor.fetch_record_batch()
        rows = 0
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            pa.OSFile(str(file), "wb") as sink,
            pa.ipc.new_file(sink, reader.schema, options=options) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        return rows


@contextmanager
def exclusive(url: str, task: str) -> Iterator[None]:
    """Hold the warehouse-wide lock of a task, waiting for whoever has it."""
    with connect(url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [task])
        yield


def describe(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 5432}{parts.path}"


def make_database(url: str, beside: str) -> None:
    """Create the database of `url` through the server of `beside`, unless it is there."""
    name = urlsplit(url).path.lstrip("/")
    with connect(beside, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", [name]).fetchone():
            return
        try:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        except psycopg.errors.InsufficientPrivilege:
            raise TierhouseError(
                f"The database {name!r} is missing on {describe(beside)}, and this role may not "
                f"create it. Have it created and owned by this role."
            ) from None


def _sibling(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


def _no_answer(url: str, reason: str) -> str:
    said = " ".join(reason.split())
    password = urlsplit(url).password
    if password:
        said = said.replace(password, "***")
    return (
        f"The warehouse at {describe(url)} does not answer: {said[:300]} "
        f"Check that the server runs and that TIERHOUSE_WAREHOUSE_URL is right, or unset it to "
        f"use the embedded server (`tierhouse doctor` tells which is in use)."
    )


def _prepare(url: str, administrator: str) -> None:
    """administrator: the same database, for a role that may make extensions, where there is one."""
    statements = "".join(file.read_text() for file in SCHEMA) + contract.ddl()
    mark = f"Tierhouse {sha256((statements + repr(GRANTS)).encode()).hexdigest()[:16]}"
    with connect(url) as connection:
        if connection.info.server_version < 150000:
            raise TierhouseError(
                f"The warehouse at {describe(url)} is PostgreSQL "
                f"{connection.info.server_version // 10000}; Tierhouse needs 15 or newer."
            )
        current = connection.execute(
            "select obj_description(oid) from pg_namespace where nspname = 'ops'"
        ).fetchone()
        if current == (mark,):
            return
        connection.execute("select pg_advisory_xact_lock(hashtextextended('schema', 0))")
        _refuse_older_shape(connection, url)
        try:
            connection.execute(statements.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise TierhouseError(
                f"This role may not make the schemas of Tierhouse on {describe(url)} "
                f"({error.diag.message_primary}). Let it own the database: "
                f"`alter database … owner to …`."
            ) from None
        _add_pgvector(administrator)
        connection.execute(sql.SQL("comment on schema ops is {}").format(sql.Literal(mark)))
        grant(connection)


def _add_pgvector(url: str) -> None:
    """Make the extension where the server has it and this role may: look-alikes do without too."""
    with connect(url, autocommit=True) as connection:
        if connection.execute(
            "select 1 from pg_available_extensions where name = 'vector'"
        ).fetchone():
            with suppress(psycopg.errors.InsufficientPrivilege):
                connection.execute("create extension if not exists vector")


def _refuse_older_shape(connection: psycopg.Connection, url: str) -> None:
    """The tables of raw are made once; an installation from before the contract has others."""
    older = connection.execute(
        "select 1 from information_schema.columns where table_schema = 'raw' "
        "and table_name = 'order_lines' and column_name = 'file_hash'"
    ).fetchone()
    if older:
        raise TierhouseError(
            f"The warehouse at {describe(url)} was made by an earlier Tierhouse, whose tables of "
            f"raw were others. Set TIERHOUSE_HOME to a new directory, or name a new database, and "
            f"load the shop there."
        )


def grant(connection: psycopg.Connection) -> None:
    """Give the reading roles what they may see, and will, and take the rest: after every build.

    dbt replaces tables, and a person may have granted in passing what nobody should see.
    """
    for role, seen in GRANTS.items():
        if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchone():
            continue  # a server of one's own: its roles are its administrator's
        for schema in SCHEMAS:
            given = ("revoke all on all tables in schema {} from {}",)
            if schema in seen:
                given += (
                    "grant usage on schema {} to {}",
                    "grant select on all tables in schema {} to {}",
                    "alter default privileges in schema {} grant select on tables to {}",
                )
            else:
                given += ("revoke all on schema {} from {}",)
            for statement in given:
                connection.execute(
                    sql.SQL(statement).format(sql.Identifier(schema), sql.Identifier(role))
                )


def query_rows(url: str, query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """One reading statement's column names and rows.

    The extended protocol takes one statement only, in a read-only transaction; on the embedded
    server the role cannot write either.
    Raises TierhouseError: what the server said about the statement.
    """
    with connect(url) as connection:
        connection.read_only = True
        try:
            cursor = connection.execute(query.encode(), prepare=True)
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()
        except psycopg.Error as error:
            said = error.diag.message_primary or str(error)
            raise TierhouseError(
                f"The query failed: {said}. It takes one statement that reads, from the schemas "
                f"{', '.join(GRANTS['data_scientist'])}."
            ) from None
