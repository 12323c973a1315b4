"""What changed in `raw` since an engine built from it, so that it builds that again and no more.

The triggers of raw's tables write ops.changes, whoever changes a row. A target is an engine's name;
ops.consumed knows up to which change it has built, and by which definitions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import psycopg
import pyarrow as pa
from psycopg import sql

from warehouse.connections import connect, one_row, read_arrow
from warehouse.contract import DATED, TABLES

MOST_RANGES = 50
LONGEST_BACKLOG = 1_000_000  # changes
CUSTOMERS = pa.schema({"table_name": pa.string(), "customer_id": pa.string()})


@dataclass(frozen=True)
class Changes:
    """What changed in raw since a target was built last.

    up_to: the newest change there is. is_whole: build everything, as nothing was built before, or
    by other definitions, or there is no telling what changed, or a product that rows of before
    refer to has another category. tables: the tables of raw with any change. days: per dated table
    at most 50 ranges, sorted, both ends inclusive; when is_whole, none, and `tables` are all.
    """

    up_to: int
    is_whole: bool
    tables: frozenset[str]
    days: Mapping[str, tuple[tuple[date, date], ...]]


def read(url: str, target: str, fingerprint: str) -> Changes:
    """What this target has not built yet. Waits for whoever is writing, so that nothing is missed.

    fingerprint: of the definitions that it will build by.
    """
    with connect(url) as connection:
        # Numbers are drawn in this order under locks that this one waits for: what is not there
        # yet will have a higher one.
        connection.execute("lock table ops.changes in share mode")
        (up_to,) = one_row(
            connection,
            "select coalesce(max(change_id), 0) from (select change_id from ops.changes "
            "union all select change_id from ops.consumed) as numbers",
        )
        built = connection.execute(
            "select change_id from ops.consumed where target = %s and fingerprint = %s",
            [target, fingerprint],
        ).fetchone()
        if built is None or _is_whole(connection, *built):
            return Changes(up_to, True, frozenset(TABLES), {})
        found = connection.execute(
            "select table_name, array_agg(distinct day) filter (where day is not null) "
            "from ops.changes where change_id > %s group by table_name",
            built,
        ).fetchall()
    days = {table: ranges(of_table) for table, of_table in found if of_table}
    return Changes(up_to, False, frozenset(table for table, _ in found), days)


def consume(url: str, target: str, changes: Changes, fingerprint: str) -> None:
    """Note that the target has built all of these, and forget what every target has built."""
    with connect(url) as connection:
        connection.execute(
            "insert into ops.consumed (target, change_id, fingerprint) values (%s, %s, %s) "
            "on conflict (target) do update "
            "set change_id = excluded.change_id, fingerprint = excluded.fingerprint",
            [target, changes.up_to, fingerprint],
        )
        # Who has not built for so long builds everything again, and need not be waited for.
        connection.execute(
            "delete from ops.consumed where change_id < %s", [changes.up_to - LONGEST_BACKLOG]
        )
        connection.execute(
            "delete from ops.changes where change_id <= (select min(change_id) from ops.consumed)"
        )


def customers(url: str, target: str, changes: Changes) -> pa.Table:
    """Whose rows of dated tables changed: distinct (table_name, customer_id).

    Of the changes that `read` told of; ask before they are consumed. Empty when is_whole.
    """
    if changes.is_whole:
        return CUSTOMERS.empty_table()
    listed = ", ".join(f"'{table}'" for table in DATED)
    return read_arrow(
        url,
        "select distinct table_name, entity_id as customer_id from ops.changes "
        f"where table_name in ({listed}) and change_id <= $2 "
        "and change_id > (select change_id from ops.consumed where target = $1)",
        [target, changes.up_to],
    )


def ranges(days: Iterable[date], most: int = MOST_RANGES) -> tuple[tuple[date, date], ...]:
    """At most so many ranges that cover the days, the smallest gaps between them closed first."""
    found = sorted(set(days))
    if not found:
        return ()
    gaps = [number for number in range(1, len(found))
            if found[number] - found[number - 1] > timedelta(days=1)]  # fmt: skip
    gaps.sort(key=lambda number: found[number - 1] - found[number])
    begins = [0, *sorted(gaps[: most - 1])]
    ends = [number - 1 for number in begins[1:]] + [len(found) - 1]
    return tuple((found[first], found[last]) for first, last in zip(begins, ends, strict=True))


def _is_whole(connection: psycopg.Connection, built: int) -> bool:
    """Whether what changed since cannot be told by days and customers."""
    (is_any,) = one_row(
        connection,
        "select exists (select from ops.changes "
        "where change_id > %s and is_whole and table_name = any(%s))",
        built,
        [*DATED, "products"],
    )
    return is_any or any(_are_moved(connection, built, table) for table in DATED)


def _are_moved(connection: psycopg.Connection, built: int, table: str) -> bool:
    """Whether a product has another category and rows of the table that are not new themselves."""
    contract = TABLES[table]
    if "product_id" not in contract.columns:
        return False
    query = sql.SQL(
        "with moved as (select distinct entity_id as product_id from ops.changes "
        "where change_id > %(built)s and table_name = 'products' and entity_id is not null) "
        "select exists (select from raw.{table} as rows inner join moved using (product_id) "
        "where not exists (select from ops.changes where change_id > %(built)s "
        "and table_name = %(table)s and entity_id = rows.customer_id "
        "and day = cast(rows.{time} as date)))"
    ).format(table=sql.Identifier(table), time=sql.Identifier(contract.times[0]))
    row = connection.execute(query, {"built": built, "table": table}).fetchone()
    return row is not None and row[0]
