"""What the sequence model sees of each customer: a day's embeddings, and who is near to whom.

Arrays of plain numbers, so that any PostgreSQL holds them. Where the extension pgvector is there it
looks for the nearest, and only those leave the server.
"""

from datetime import date

import pyarrow as pa
from psycopg import sql

from warehouse.connections import Urls, connect, connect_bulk, one_row, read_arrow

TABLE = "scores.customer_embeddings"


def replace_day(urls: Urls, day: date, rows: pa.Table, model_version: str) -> None:
    """Make these the embeddings of the day, in one transaction.

    rows: customer_id, embedding (a list of float32); one row per customer.
    """
    with connect_bulk(urls.warehouse) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('embed', 0))")
        cursor.fetchall()
        cursor.adbc_ingest("incoming_embeddings", rows, mode="create", temporary=True)
        cursor.execute(f"delete from {TABLE} where as_of_date = $1::date", (day.isoformat(),))
        cursor.execute(
            f"insert into {TABLE} (as_of_date, customer_id, embedding, model_version) "
            "select $1::date, customer_id, embedding, $2 from pg_temp.incoming_embeddings "
            "order by customer_id",
            (day.isoformat(), model_version),
        )


def newest_day(url: str) -> date | None:
    """The newest day that has embeddings."""
    with connect(url) as connection:
        (day,) = one_row(connection, f"select max(as_of_date) from {TABLE}")
    return day


def is_there(url: str, day: date) -> bool:
    """Whether the day has embeddings."""
    query = f"select 1 from {TABLE} where as_of_date = %s limit 1"
    with connect(url) as connection:
        return connection.execute(query.encode(), [day]).fetchone() is not None


def version_of(url: str, day: date, customer_id: str) -> str | None:
    """The version of the model that embedded the customer on the day, None where nobody did."""
    query = f"select model_version from {TABLE} where as_of_date = %s and customer_id = %s"
    with connect(url) as connection:
        found = connection.execute(query.encode(), [day, customer_id]).fetchone()
    return None if found is None else found[0]


def near(url: str, day: date, customer_id: str, n: int) -> pa.Table:
    """customer_id and embedding of this customer, and of whoever may be of the n nearest by angle.

    With pgvector these are 2 n + 20, because it calculates in single floats and may confuse two who
    are equally near; without it they are all customers of the day.
    """
    where = f"select customer_id, embedding from {TABLE} where as_of_date = $1::date"
    schema = _schema_of_pgvector(url)
    if schema is None:
        return read_arrow(url, where, [day.isoformat()])
    return read_arrow(
        url,
        f"{where} order by customer_id <> $2, embedding::{schema}.vector operator({schema}.<=>) ("
        f"select embedding::{schema}.vector from {TABLE} where as_of_date = $1::date "
        "and customer_id = $2), customer_id limit $3",
        [day.isoformat(), customer_id, 1 + 2 * n + 20],
    )


def _schema_of_pgvector(url: str) -> str | None:
    with connect(url) as connection:
        row = connection.execute(
            "select nspname from pg_extension inner join pg_namespace "
            "on pg_namespace.oid = extnamespace where extname = 'vector'"
        ).fetchone()
    return None if row is None else sql.Identifier(row[0]).as_string()
