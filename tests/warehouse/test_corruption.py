"""Every kind of bad row is caught by its name, one or all of them, and nothing bad lands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import shop_files
from shop_files import midnight

from warehouse.settings import Refused
from warehouse.source import Source, read_source

ROWS = 400
KEPT = ("pii.key_fingerprint", "ops.deadlines")  # what an empty installation holds
SHARES = {"one row": 1, "one percent": 4, "all rows": ROWS}
# The shop of these files: what refers to what, and what is believable.
RULES: Mapping[str, Mapping[str, Any]] = {
    "order_lines": {
        "references": ["product_id", "customer_id"],
        "bounds": {"quantity": [-10_000, 10_000], "unit_price": [0, 100_000]},
    },
    "reviews": {"bounds": {"rating": [1, 5]}},
    "campaign_contacts": {"references": ["campaign_id"]},
}
# What order lines, reviews and contacts refer to. Never spoiled, unless it is the spoiled table.
REFERRED = {"customers": 50, "products": 20, "campaigns": 2}

Spoil = Callable[[shop_files.Row], bytes]


@dataclass(frozen=True)
class Kind:
    """One way to spoil a row of a CSV file: its record, or the one cell of `column`."""

    reason: str
    table: str
    column: str | None
    cell: bytes | None = None
    record: Spoil | None = None

    def spoil(self, row: shop_files.Row) -> bytes:
        if self.record is not None:
            return self.record(row)
        assert self.column is not None and self.cell is not None
        return shop_files.record(shop_files.fields(row | {self.column: self.cell}))


def cell(reason: str, table: str, column: str, spoiled: str | bytes) -> Kind:
    """A record that is well formed, with one bad cell."""
    return Kind(reason, table, column, spoiled if isinstance(spoiled, bytes) else spoiled.encode())


def line(column: str, spoiled: str | bytes, reason: str) -> Kind:
    return cell(reason, "order_lines", column, spoiled)


CSV_KINDS = {
    "no order": line("order_id", "", "missing_key"),
    "an order of spaces": line("order_id", "   ", "missing_key"),
    "an order of tabs": line("order_id", "\t\t", "control_characters"),
    "no line number": line("line_number", "", "missing_key"),
    "no time": line("ordered_at", "", "missing_value"),
    "no quantity": line("quantity", "", "missing_value"),
    "no price": line("unit_price", "", "missing_value"),
    "a text for a quantity": line("quantity", "many", "unparsable_number"),
    "a text for a price": line("unit_price", "free", "unparsable_number"),
    "a decimal comma": line("unit_price", "12,50", "unparsable_number"),
    "a number with a unit": line("unit_price", "12.50 EUR", "unparsable_number"),
    "a number with an underscore": line("quantity", "1_000", "unparsable_number"),
    "a truth for a quantity": line("quantity", "true", "unparsable_number"),
    "a line number with a fraction": line("line_number", "1.5", "impossible_number"),
    "nan": line("quantity", "NaN", "impossible_number"),
    "infinity": line("quantity", "Infinity", "impossible_number"),
    "minus infinity": line("unit_price", "-Infinity", "impossible_number"),
    "overflow": line("unit_price", "1e30", "impossible_number"),
    "a quantity of thirteen digits": line("quantity", "9" * 13, "impossible_number"),
    "a line number of twenty digits": line("line_number", "9" * 20, "impossible_number"),
    "a text for a time": line("ordered_at", "yesterday", "unparsable_time"),
    "the thirtieth of February": line("ordered_at", "2026-02-30 10:00:00", "unparsable_time"),
    "a month that is none": line("ordered_at", "2026-13-01 10:00:00", "unparsable_time"),
    "a time of day alone": line("ordered_at", "10:00:00", "unparsable_time"),
    "seconds for a time": line("ordered_at", "1767225600", "unparsable_time"),
    "a time that moves": line("ordered_at", "now", "unparsable_time"),
    "a day that moves": line("ordered_at", "today", "unparsable_time"),
    "a time with an impossible offset": line(
        "ordered_at", "2026-01-02 10:00:00+99:00", "unparsable_time"
    ),
    "the day after tomorrow": line("ordered_at", "2026-03-03 10:00:00", "future_time"),
    "the year 9999": line("ordered_at", "9999-12-31 23:59:59", "future_time"),
    "the year 1970": line("ordered_at", "1970-01-01 00:00:00", "absurd_time"),
    "before all times": line("ordered_at", "-infinity", "absurd_time"),
    "never": line("ordered_at", "infinity", "absurd_time"),
    "an unknown currency": line("currency", "XTS", "unknown_currency"),
    "an unknown product": line("product_id", "p999", "orphan_product"),
    "an unknown customer": line("customer_id", "c999", "orphan_customer"),
    "a quantity out of bounds": line("quantity", "10001", "out_of_bounds"),
    "a price out of bounds": line("unit_price", "-0.01", "out_of_bounds"),
    "a control character": line("order_id", "o1\x07", "control_characters"),
    "a zero byte": line("order_id", b"o1\x00", "control_characters"),
    "no UTF-8": line("channel", b"web\xe9", "invalid_encoding"),
    "an endless order": line("order_id", "o" * 10_000, "too_long"),
    "too many fields": Kind(
        "malformed_row", "order_lines", None, record=lambda row: plain(row) + b",more"
    ),
    "too few fields": Kind(
        "malformed_row", "order_lines", None, record=lambda row: plain(row).rsplit(b",", 3)[0]
    ),
    "an unknown event": cell("unknown_event_type", "events", "event_type", "teleport"),
    "an event of nothing": cell("missing_value", "events", "event_type", ""),
    "a rating out of bounds": cell("out_of_bounds", "reviews", "rating", "6"),
    "a text for a rating": cell("unparsable_number", "reviews", "rating", "five stars"),
    "an unknown campaign": cell("orphan_campaign", "campaign_contacts", "campaign_id", "m9"),
    "a text for a birth year": cell("unparsable_number", "customers", "birth_year", "unknown"),
    "a customer without an id": cell("missing_key", "customers", "customer_id", ""),
    "a text for a cost": cell("unparsable_number", "products", "unit_cost", "n/a"),
    "a text for a day": cell("unparsable_time", "campaigns", "starts_on", "soon"),
}  # fmt: skip


def plain(row: shop_files.Row) -> bytes:
    return shop_files.record(shop_files.fields(row))


# What a Parquet file can hold: (reason, table, column, value, the column's type).
PARQUET_KINDS: dict[str, tuple[str, str, str, Any, pa.DataType]] = {
    "no order": ("missing_key", "order_lines", "order_id", None, pa.string()),
    "no quantity": ("missing_value", "order_lines", "quantity", None, pa.float64()),
    "no time": ("missing_value", "order_lines", "ordered_at", None, pa.timestamp("us")),
    "nan": ("impossible_number", "order_lines", "quantity", float("nan"), pa.float64()),
    "infinity": ("impossible_number", "order_lines", "quantity", float("inf"), pa.float64()),
    "minus infinity": (
        "impossible_number", "order_lines", "unit_price", float("-inf"), pa.float64(),
    ),
    "overflow": ("impossible_number", "order_lines", "unit_price", 1e30, pa.float64()),
    "the year 9999": (
        "future_time", "order_lines", "ordered_at", midnight(9999, 12, 31), pa.timestamp("us"),
    ),
    "the year 1970": (
        "absurd_time", "order_lines", "ordered_at", midnight(1970, 1, 1), pa.timestamp("us"),
    ),
    "the year 1": (
        "absurd_time", "order_lines", "ordered_at", midnight(1, 1, 1), pa.timestamp("us"),
    ),
    "a quantity out of bounds": (
        "out_of_bounds", "order_lines", "quantity", 1e6, pa.float64(),
    ),
    "an unknown product": ("orphan_product", "order_lines", "product_id", "p999", pa.string()),
    "a control character": (
        "control_characters", "order_lines", "product_id", "p1\x07", pa.string(),
    ),
    "a zero byte": ("control_characters", "order_lines", "product_id", "p1\x00", pa.string()),
    "an unknown event": ("unknown_event_type", "events", "event_type", "teleport", pa.string()),
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    folder = tmp_path_factory.mktemp("sources") / "shop"
    return read_source(str(shop_files.canonical(folder, RULES)))


@pytest.fixture
def url(urls) -> str:
    shop_files.empty(urls.warehouse)
    return urls.warehouse


def refer(folder: Path, but: str) -> None:
    for table, count in REFERRED.items():
        if table != but:
            shop_files.write_csv(folder / f"{table}.csv", table, shop_files.rows(table, count))


def bad_rows(share: str, kind: str) -> list[int]:
    """Which rows are spoiled: other ones for every kind, the same in every run."""
    rng = np.random.default_rng([SHARES[share], *kind.encode()])
    return sorted(rng.choice(ROWS, SHARES[share], replace=False).tolist())


def in_order(table: str, rows: list[shop_files.Row]) -> list[tuple]:
    expected = [shop_files.expected(table, row) for row in rows]
    return sorted(expected, key=lambda row: row[: len(shop_files.KEYS[table])])


def assert_only_good_rows_landed(
    url: str, source: Source, folder: Path, table: str, bad: list[int]
) -> None:
    """Load; the good rows are in raw exactly, or none where all are bad and the load refused."""
    if len(bad) < ROWS:
        report = shop_files.deliver(url, source, folder)
        good = [row for at, row in enumerate(shop_files.rows(table, ROWS)) if at not in set(bad)]
        assert shop_files.landed(url, table) == in_order(table, good)
        counted = next(entry for entry in report.tables if entry.table == table)
        assert (counted.read, counted.accepted) == (ROWS, len(good))
        assert sum(counted.quarantined.values()) == len(bad)
        return
    with pytest.raises(Refused, match=table):
        shop_files.deliver(url, source, folder)
    after = shop_files.contents(url, "raw", "pii", "ops")
    written = {name for name, rows in after.items() if rows and name not in KEPT}
    assert written == set()


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", CSV_KINDS)
def test_a_bad_record_of_a_csv_is_quarantined_by_its_reason(url, source, tmp_path, name, share):
    kind = CSV_KINDS[name]
    bad = bad_rows(share, name)
    records = [
        kind.spoil(row) if at in set(bad) else plain(row)
        for at, row in enumerate(shop_files.rows(kind.table, ROWS))
    ]
    file = tmp_path / "files" / f"{kind.table}.csv"
    shop_files.write_records(file, [shop_files.header(kind.table), *records])
    refer(file.parent, but=kind.table)

    assert_only_good_rows_landed(url, source, file.parent, kind.table, bad)
    found = shop_files.quarantined(url, kind.table)
    # The header is the file's first record.
    assert found == [(at + 2, kind.reason, kind.column) for at in bad]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", PARQUET_KINDS)
def test_a_bad_row_of_a_parquet_file_is_quarantined_by_its_reason(
    url, source, tmp_path, name, share
):
    reason, table, column, value, kind = PARQUET_KINDS[name]
    bad = bad_rows(share, name)
    rows = shop_files.rows(table, ROWS)
    for at in bad:
        rows[at] |= {column: value}
    file = tmp_path / "files" / f"{table}.parquet"
    shop_files.write_parquet(file, table, rows, **{column: kind})
    refer(file.parent, but=table)

    assert_only_good_rows_landed(url, source, file.parent, table, bad)
    found = shop_files.quarantined(url, table)
    assert [(reason, column) for _, reason, column in found] == [(reason, column)] * len(bad)
    assert len({at for at, _, _ in found}) == len(bad)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("write", [shop_files.write_csv, shop_files.write_parquet])
def test_one_of_two_contents_of_a_key_stands_and_the_other_is_quarantined(
    url, source, tmp_path, share, write
):
    bad = set(bad_rows(share, "conflict"))
    rows = shop_files.rows("order_lines", ROWS)
    others = [row | {"unit_price": Decimal(7)} for at, row in enumerate(rows) if at in bad]
    file = tmp_path / "files" / ("order_lines" + write.__name__.replace("write_", "."))
    write(file, "order_lines", [*rows, *others])
    refer(file.parent, but="order_lines")

    if share == "all rows":
        with pytest.raises(Refused, match="order_lines"):
            shop_files.deliver(url, source, file.parent)
        assert shop_files.landed(url, "order_lines") == []
    else:
        shop_files.deliver(url, source, file.parent)
        landed = shop_files.landed(url, "order_lines")
        assert len(landed) == ROWS
        assert set(landed) <= set(in_order("order_lines", [*rows, *others]))
    found = shop_files.quarantined(url, "order_lines")
    assert [reason for _, reason, _ in found] == ["conflicting_key"] * len(bad)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("nobody", ["", "  "])
def test_a_line_of_nobody_is_anonymous_and_no_error(url, source, tmp_path, share, nobody):
    bad = set(bad_rows(share, "nobody"))
    rows = shop_files.rows("order_lines", ROWS)
    spoiled = [row | ({"customer_id": nobody} if at in bad else {}) for at, row in enumerate(rows)]
    shop_files.write_csv(tmp_path / "files" / "order_lines.csv", "order_lines", spoiled)
    refer(tmp_path / "files", but="order_lines")

    report = shop_files.deliver(url, source, tmp_path / "files")
    orders = next(entry for entry in report.tables if entry.table == "order_lines")
    assert (orders.read, orders.anonymous, orders.accepted) == (ROWS, len(bad), ROWS - len(bad))
    assert sum(orders.quarantined.values()) == 0
    assert shop_files.quarantined(url, "order_lines") == []
    good = [row for at, row in enumerate(rows) if at not in bad]
    assert shop_files.landed(url, "order_lines") == in_order("order_lines", good)


def test_every_row_knows_its_place_in_a_file_of_many_blocks(url, source, tmp_path):
    """Lines are not records: some records go over two lines, and some are not well formed."""
    count = 60_000
    rng = np.random.default_rng(0)
    bad = sorted(rng.choice(count, 300, replace=False).tolist())
    spoiled = set(bad)
    records = [shop_files.header("products")]
    for at in range(count):
        name = f"Lamp\n{at} " + "with a long name " * 4
        row = shop_files.row("products", at) | {"product_name": name}
        records.append(plain(row) + b",more" if at in spoiled else plain(row))
    file = shop_files.write_records(tmp_path / "files" / "products.csv", records)
    assert file.stat().st_size > 5 << 20

    shop_files.deliver(url, source, file)
    with psycopg.connect(url) as connection:
        found = connection.execute("select product_id, source_row from raw.products").fetchall()
    # The header is the file's first record.
    assert set(found) == {(f"p{at}", at + 2) for at in set(range(count)) - spoiled}
    assert shop_files.quarantined(url, "products") == [
        (at + 2, "malformed_row", None) for at in bad
    ]


def test_a_row_keeps_its_place_and_its_cells_in_quarantine(url, source, tmp_path):
    rows = shop_files.rows("order_lines", ROWS)
    rows[6] |= {"quantity": "many"}
    file = shop_files.write_csv(tmp_path / "files" / "order_lines.csv", "order_lines", rows)
    refer(file.parent, but="order_lines")
    shop_files.deliver(url, source, file.parent)
    with psycopg.connect(url) as connection:
        (found,) = connection.execute(
            "select source, file_name, table_name, source_row, raw_row->>'quantity', "
            "raw_row->>'order_id', run_id is not null from quarantine.rows"
        ).fetchall()
    assert found == ("shop", "order_lines.csv", "order_lines", 8, "many", "o2", True)


def test_every_reason_of_the_contract_is_tried():
    tried = {kind.reason for kind in CSV_KINDS.values()} | {"conflicting_key"}
    assert tried == {
        "missing_key", "missing_value", "unparsable_number", "impossible_number",
        "unparsable_time", "future_time", "absurd_time", "unknown_currency", "conflicting_key",
        "orphan_product", "orphan_customer", "orphan_campaign", "out_of_bounds",
        "control_characters", "invalid_encoding", "unknown_event_type", "malformed_row",
        "too_long",
    }  # fmt: skip
    assert len(CSV_KINDS) >= 25
