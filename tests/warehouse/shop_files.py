"""A shop in the contract's own columns: its files, what must stand of them, what the tables hold.

Nothing here asks the loader: values are typed, and customers are made pseudonyms, by Python.
"""

import hmac
import shutil
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from psycopg import sql

from warehouse.loading import Report, load
from warehouse.settings import PROJECT
from warehouse.source import Source

KEY = b"the secret of this installation"
DAY = date(2026, 3, 1)

# The shop contract once more, by hand: `customer` becomes a pseudonym, `personal` leaves for pii.
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "customers": {
        "customer_id": "customer",
        "signed_up_at": "time",
        "country": "text",
        "region": "text",
        "birth_year": "integer",
        "gender": "text",
        "income_band": "text",
        "household": "text",
        "acquisition_channel": "text",
        "email": "personal",
        "phone": "personal",
        "full_name": "personal",
    },
    "products": {
        "product_id": "text",
        "product_name": "text",
        "category": "text",
        "subcategory": "text",
        "brand": "text",
        "unit_cost": "decimal",
    },
    "order_lines": {
        "order_id": "text",
        "line_number": "integer",
        "customer_id": "customer",
        "ordered_at": "time",
        "product_id": "text",
        "quantity": "decimal",
        "unit_price": "decimal",
        "discount_amount": "decimal",
        "currency": "text",
        "channel": "text",
    },
    "events": {
        "event_id": "text",
        "customer_id": "customer",
        "session_id": "text",
        "occurred_at": "time",
        "event_type": "text",
        "product_id": "text",
    },
    "reviews": {
        "review_id": "text",
        "customer_id": "customer",
        "product_id": "text",
        "rating": "decimal",
        "body": "text",
        "reviewed_at": "time",
    },
    "campaigns": {
        "campaign_id": "text",
        "campaign_name": "text",
        "channel": "text",
        "offer": "text",
        "starts_on": "date",
        "ends_on": "date",
        "cost_per_contact": "decimal",
    },
    "campaign_contacts": {
        "contact_id": "text",
        "campaign_id": "text",
        "customer_id": "customer",
        "contacted_at": "time",
        "treatment_arm": "text",
        "opened_at": "time",
        "clicked_at": "time",
        "redeemed_at": "time",
    },
}
KEYS = {table: list(columns)[:1] for table, columns in COLUMNS.items()}
KEYS["order_lines"] = ["order_id", "line_number"]
ARROW = {
    "integer": pa.int64(),
    "decimal": pa.float64(),
    "time": pa.timestamp("us"),
    "date": pa.date32(),
}
# Where a row came from and when it was written differ between deliveries of the same content.
INCIDENTAL = frozenset({"file_id", "source_row", "loaded_at"})

Row = dict[str, Any]


def midnight(year: int, month: int, day: int) -> datetime:
    return datetime.combine(date(year, month, day), datetime.min.time())


def canonical(folder: Path, tables: Mapping[str, Mapping[str, Any]], **settings: Any) -> Path:
    """The built-in source `canonical` with these settings on top; every table may be absent."""
    shutil.copytree(PROJECT / "warehouse" / "sources" / "canonical", folder)
    found = yaml.safe_load((folder / "source.yml").read_text())
    for table in found["tables"]:
        found["tables"][table] |= {"optional": True, **tables.get(table, {})}
    (folder / "source.yml").write_text(yaml.safe_dump(found | settings, sort_keys=False))
    return folder


def row(table: str, number: int) -> Row:
    """A good row, the same for the same number; fifty customers, twenty products, two campaigns."""
    at = midnight(2026, 1, 1) + timedelta(minutes=37 * number)
    customer, product = f"c{number % 50}", f"p{number % 20}"
    values: dict[str, Row] = {
        "customers": {
            "customer_id": f"c{number}",
            "signed_up_at": at - timedelta(days=400),
            "country": ("DE", "GB", "FR")[number % 3],
            "birth_year": 1950 + number % 50,
            "gender": "f" if number % 2 else "m",
            "email": f"c{number}@shop.example",
            "phone": f"+49 151 {number:07}",
            "full_name": f"Ann No. {number}",
        },
        "products": {
            "product_id": f"p{number}",
            "product_name": f"Lamp {number}",
            "category": "light",
            "unit_cost": Decimal(number % 90 + 1) / 4,
        },
        "order_lines": {
            "order_id": f"o{number // 3}",
            "line_number": number % 3 + 1,
            "customer_id": customer,
            "ordered_at": at,
            "product_id": product,
            "quantity": Decimal(number % 7 + 1),
            "unit_price": Decimal(number % 900 + 99) / 100,
            "discount_amount": Decimal(number % 4) / 10,
            "channel": "web",
        },
        "events": {
            "event_id": f"e{number}",
            "customer_id": customer,
            "session_id": f"s{number // 4}",
            "occurred_at": at,
            "event_type": ("view", "search", "cart_add", "checkout")[number % 4],
            "product_id": product,
        },
        "reviews": {
            "review_id": f"r{number}",
            "customer_id": customer,
            "product_id": product,
            "rating": Decimal(number % 5 + 1),
            "body": "It shines.",
            "reviewed_at": at,
        },
        "campaigns": {
            "campaign_id": f"m{number}",
            "campaign_name": f"Spring {number}",
            "channel": "mail",
            "starts_on": date(2026, 1, 5),
            "ends_on": date(2026, 1, 25),
            "cost_per_contact": Decimal("0.45"),
        },
        "campaign_contacts": {
            "contact_id": f"t{number}",
            "campaign_id": f"m{number % 2}",
            "customer_id": customer,
            "contacted_at": at,
            "treatment_arm": ("offer", "control")[number % 2],
            "redeemed_at": at + timedelta(days=1) if number % 3 == 0 else None,
        },
    }
    return {column: values[table].get(column) for column in COLUMNS[table]}


def rows(table: str, count: int) -> list[Row]:
    return [row(table, number) for number in range(count)]


def fields(values: Row) -> list[bytes]:
    """The cells of a CSV record, not yet quoted."""
    return [
        value if isinstance(value, bytes) else b"" if value is None else str(value).encode()
        for value in values.values()
    ]


def record(cells: Sequence[bytes], delimiter: bytes = b",") -> bytes:
    """A CSV record without its line end; what needs quotes has them."""
    special = (delimiter, b'"', b"\n", b"\r")
    return delimiter.join(
        b'"' + cell.replace(b'"', b'""') + b'"' if any(mark in cell for mark in special) else cell
        for cell in cells
    )


def header(table: str, delimiter: bytes = b",") -> bytes:
    return delimiter.join(column.encode() for column in COLUMNS[table])


def write_records(path: Path, records: Sequence[bytes], end: bytes = b"\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + end for line in records))
    return path


def write_csv(path: Path, table: str, given: Sequence[Row]) -> Path:
    return write_records(path, [header(table), *(record(fields(values)) for values in given)])


def write_parquet(path: Path, table: str, given: Sequence[Row], **types: pa.DataType) -> Path:
    """Numbers as doubles and integers, times as timestamps, the rest as text, as shops export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for column, kind in COLUMNS[table].items():
        as_type = types.get(column) or ARROW.get(kind, pa.string())
        cells = [values[column] for values in given]
        if pa.types.is_floating(as_type):
            cells = [None if cell is None else float(cell) for cell in cells]
        arrays[column] = pa.array(cells, as_type)
    pq.write_table(pa.table(arrays), path)
    return path


def pseudonym(customer_id: str, key: bytes = KEY) -> str:
    return hmac.new(key, customer_id.encode(), "sha256").hexdigest()[:32]


def expected(table: str, values: Row) -> tuple:
    """The row as `raw` must hold it, personal columns left out."""
    return tuple(
        pseudonym(value) if kind == "customer" else value
        for kind, value in zip(COLUMNS[table].values(), values.values(), strict=True)
        if kind != "personal"
    )


def deliver(
    url: str, source: Source, path: Path, day: date = DAY, *, is_daily: bool = True
) -> Report:
    """Load a day's delivery from a file or a folder; else what was loaded by hand on that day."""
    return load(
        url,
        KEY,
        source,
        path,
        scratch=path.parent / "scratch",
        delivered_at=datetime.combine(day, datetime.min.time()),
        run_id="test",
        is_daily=is_daily,
    )


def landed(url: str, table: str) -> list[tuple]:
    """What `raw` holds in the contract's columns, in key order; the currency is not asked for."""
    names = [
        "null" if column == "currency" else column
        for column, kind in COLUMNS[table].items()
        if kind != "personal"
    ]
    query = f"select {', '.join(names)} from raw.{table} order by {', '.join(KEYS[table])}"
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def quarantined(url: str, table: str) -> list[tuple[int, str, str | None]]:
    """Source row, reason and column of every refused row of a table."""
    with psycopg.connect(url) as connection:
        return connection.execute(
            "select source_row, reason, column_name from quarantine.rows "
            "where table_name = %s order by 1, 2",
            [table],
        ).fetchall()


def contents(url: str, *schemas: str, but: frozenset[str] = frozenset()) -> dict[str, list[str]]:
    """Every row of every table as text, columns in `but` left out, in a fixed order."""
    with psycopg.connect(url) as connection:
        return {
            ".".join(name): sorted(text for (text,) in connection.execute(_as_text(name, columns)))
            for name, columns in _columns(connection, schemas, but).items()
        }


def checksums(
    url: str, *schemas: str, but: frozenset[str] = frozenset()
) -> dict[str, tuple[int, int]]:
    """How many rows every table has, and the sum of their hashes, columns in `but` left out."""
    found = {}
    with psycopg.connect(url) as connection:
        for name, columns in _columns(connection, schemas, but).items():
            query = sql.SQL(
                "select count(*), coalesce(sum(hashtextextended(one, 0)), 0) from ({}) as rows(one)"
            ).format(_as_text(name, columns))
            found[".".join(name)] = connection.execute(query).fetchone() or (0, 0)
    return found


def _columns(
    connection: psycopg.Connection, schemas: Sequence[str], but: frozenset[str]
) -> dict[tuple[str, str], list[str]]:
    """Columns by schema and table, of these schemas; of all that are ours, when none is named."""
    found: dict[tuple[str, str], list[str]] = {}
    for schema, table, column in connection.execute(
        "select nspname, relname, attname from pg_class inner join pg_namespace "
        "on pg_namespace.oid = relnamespace inner join pg_attribute on attrelid = pg_class.oid "
        "where relkind in ('r', 'p') and attnum > 0 and not attisdropped "
        "and nspname <> 'information_schema' and left(nspname, 3) <> 'pg_' "
        "and (%(schemas)s::text[] = '{}' or nspname = any(%(schemas)s)) order by 1, 2, attnum",
        {"schemas": list(schemas)},
    ):
        columns = found.setdefault((schema, table), [])
        if column not in but:
            columns.append(column)
    return found


def _as_text(name: tuple[str, str], columns: Sequence[str]) -> sql.Composed:
    return sql.SQL("select row({})::text from {}").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(*name)
    )


def landed_contents(url: str) -> dict[str, list[str]]:
    """All that a delivery decides: raw, what was superseded, and what pii knows."""
    return contents(url, "raw", "pii", but=INCIDENTAL)


def empty(url: str) -> None:
    """As if nothing had ever been loaded."""
    with psycopg.connect(url) as connection:
        loaded = [*_columns(connection, ("raw", "pii", "quarantine"), frozenset())]
        kept = [("ops", table) for table in ("load_ledger", "files", "changes", "consumed")]
        for name in [*loaded, *kept]:
            # Few rows leave faster one by one than with their table's file.
            connection.execute(sql.SQL("delete from {}").format(sql.Identifier(*name)))
