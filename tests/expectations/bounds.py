"""What the gate of the features would find, without the seconds that Great Expectations takes."""

from datetime import date

import psycopg

from expectations import run
from expectations.tables import Scope, Table

TABLES = {table.name: table for table in run.STAGES["features"]}


def columns(shop: psycopg.Connection, table: Table) -> list[str]:
    rows = shop.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0",
        [table.full_name],
    )
    return [name for (name,) in rows]


def facts(shop: psycopg.Connection, name: str, day: date) -> dict[str, float | None]:
    table = TABLES[name]
    cursor = shop.execute(table.facts(Scope(day), columns(shop, table)).encode())
    (row,) = cursor.fetchall()
    assert cursor.description
    return dict(zip([column.name for column in cursor.description], row, strict=True))


def broken(shop: psycopg.Connection, name: str, day: date) -> set[tuple[str, str]]:
    """(fact, severity) of every bound that the facts break, as Great Expectations would say."""
    seen = facts(shop, name, day)
    found = set()
    for expectation in TABLES[name].suite(columns(shop, TABLES[name])).expectations:
        value, low, high = seen[expectation.column], expectation.min_value, expectation.max_value
        holds = (
            value is not None
            and (low is None or value > low or (value == low and not expectation.strict_min))
            and (high is None or value < high or (value == high and not expectation.strict_max))
        )
        if not holds:
            found.add((expectation.column, expectation.severity.value))
    return found
