"""From a shop's files to `raw`: what a source can say, and what becomes of every row."""

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import python_calamine
import shop_files
import yaml
from adbc_driver_postgresql import dbapi
from shop_files import pseudonym

from warehouse.loading import Report, replay
from warehouse.mapping import workbench
from warehouse.settings import Refused, TierhouseError, WrongUsage
from warehouse.source import BUILT_IN, Source, read_source

HEADER = [
    "Invoice",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "Price",
    "Customer ID",
    "Country",
]
LINES = [
    ["100", "85123a", "LAMP", 2, "2011-01-03 10:00:00", 1.25, 17850, "United Kingdom"],
    ["100", "85123A", "LAMP", 2, "2011-01-03 10:00:00", 1.25, 17850, "United Kingdom"],
    ["C101", "85123A", "LAMP", -1, "2011-01-04 10:00:00", 1.25, 17850, "United Kingdom"],
    ["102", "22423", "CAKE, \"STAND\"", 1, "2011-01-05 12:30:00", 12.75, None, "France"],
]  # fmt: skip
EXPECTED = [
    ("100", pseudonym("17850"), "85123A", "2011-01-03 10:00:00", Decimal("2.5")),
    ("100", pseudonym("17850"), "85123A", "2011-01-03 10:00:00", Decimal("2.5")),
    ("C101", pseudonym("17850"), "85123A", "2011-01-04 10:00:00", Decimal("-1.25")),
]
RETAIL = read_source("online_retail")

# A shop whose files say the number of a line themselves.
NUMBERED = ["invoice", "line", "customer", "ordered", "item", "price", "currency"]
COLUMNS: Mapping[str, Any] = {
    "invoice": "text",
    "line": "number",
    "customer": "customer",
    "ordered": "time",
    "item": "text",
    "price": "number",
    "currency": {"type": "text", "optional": True},
}
SELECT = (
    "select invoice as order_id, line as line_number, customer as customer_id, "
    "ordered as ordered_at, item as product_id, 1 as quantity, price as unit_price, currency, "
    "source_row from file"
)
# The same for a shop that writes prices as "5 EUR": the SELECT, and the columns.
WITHOUT_UNIT = (
    SELECT.replace("price as", "try_cast(replace(price, ' EUR', '') as decimal(9, 2)) as"),
    COLUMNS | {"price": "text"},
)
PRODUCTS = "select product_id, product_name, source_row from file"
FIRST, SECOND, THIRD = date(2011, 2, 1), date(2011, 2, 2), date(2011, 2, 3)


@pytest.fixture
def warehouse(urls) -> str:
    shop_files.empty(urls.warehouse)
    return urls.warehouse


def write_csv(path: Path, lines: Sequence[Sequence] = LINES, header=HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def write_workbook(path: Path, sheets: Mapping[str, Sequence], header=HEADER) -> Path:
    """Numbers are numbers and times are times, as in the workbook that was published."""
    workbook = openpyxl.Workbook(write_only=True)
    for name, lines in sheets.items():
        sheet = workbook.create_sheet(name)
        sheet.append(header)
        for line in lines:
            sheet.append([int(cell) if str(cell).isdigit() else cell for cell in line])
    workbook.save(path)
    return path


def line(number: int = 1, **changed: Any) -> list:
    """A line of the numbered shop, other values by the names of its columns."""
    values = ["7", number, "ann", "2011-01-03 10:00:00", "lamp", 5, None]
    return [changed.get(name, value) for name, value in zip(NUMBERED, values, strict=True)]


def write_lines(path: Path, *lines: Sequence) -> Path:
    return write_csv(path, lines, NUMBERED)


def write_source(
    folder: Path,
    select: str = SELECT,
    columns: Mapping[str, Any] = COLUMNS,
    reads: Mapping[str, Any] | None = None,
    selects: Mapping[str, str] | None = None,
    tables: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Source:
    """The numbered shop: other settings for reading its lines, other tables beside them."""
    folder.mkdir(exist_ok=True)
    lines = {"files": ["lines*"], "columns": dict(columns), **(reads or {})}
    for table, text in {"order_lines": select, **(selects or {})}.items():
        (folder / f"{table}.sql").write_text(text)
    # Files of a few rows: one bad row is a great part of them.
    found = {"currency": "EUR", "max_quarantined_share": 1, **settings}
    found["tables"] = {"order_lines": lines, **(tables or {})}
    (folder / "source.yml").write_text(yaml.safe_dump(found, sort_keys=False))
    return read_source(str(folder))


def with_products(folder: Path, **settings: Any) -> Source:
    """The numbered shop with a list of its products."""
    listed = {"files": ["products*"], "optional": True,
              "columns": {"product_id": "text", "product_name": "text"}}  # fmt: skip
    return write_source(
        folder, tables={"products": listed}, selects={"products": PRODUCTS}, **settings
    )


def ask(url: str, query: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def landed(url: str) -> list[tuple]:
    return ask(
        url,
        "select order_id, customer_id, product_id, ordered_at::text, "
        "quantity * unit_price - coalesce(discount_amount, 0) from raw.order_lines "
        "order by order_id, line_number",
    )


def times(url: str) -> list[str]:
    """When the lines were ordered, in the order of their numbers."""
    query = "select ordered_at::text from raw.order_lines order by line_number"
    return [text for (text,) in ask(url, query)]


def products(url: str) -> list[tuple]:
    return ask(url, "select product_id, product_name from raw.products order by 1")


def went(report: Report, table: str = "order_lines") -> tuple[int, int, int, int, int]:
    """Rows of a table: read, accepted, duplicate, anonymous, quarantined."""
    entry = next(entry for entry in report.tables if entry.table == table)
    quarantined = sum(entry.quarantined.values())
    return entry.read, entry.accepted, entry.duplicate, entry.anonymous, quarantined


def test_every_row_is_accounted_for_and_equal_lines_are_both_kept(warehouse, load_files, tmp_path):
    report = load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
    assert went(report) == (4, 3, 0, 1, 0)
    assert landed(warehouse) == EXPECTED
    assert ask(warehouse, "select table_name, rows_read, rows_accepted, rows_duplicate, "
                          "rows_anonymous from ops.load_ledger order by 1") == [
        ("customers", 4, 1, 3, 0), ("order_lines", 4, 3, 0, 1), ("products", 4, 2, 2, 0),
    ]  # fmt: skip


def test_the_same_content_is_loaded_once_whatever_the_file_is_called(
    warehouse, load_files, tmp_path
):
    load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
    again = load_files(RETAIL, write_csv(tmp_path / "copy.csv"))
    assert (again.tables, again.loaded_before) == ([], ["copy.csv"])
    assert landed(warehouse) == EXPECTED


def test_a_later_file_that_repeats_lines_adds_only_what_is_new(warehouse, load_files, tmp_path):
    load_files(RETAIL, write_csv(tmp_path / "1.csv"))
    more = [*LINES, ["103", "22423", "CAKE", 1, "2011-01-06 09:00:00", 12.75, 13047, "Spain"]]
    assert went(load_files(RETAIL, write_csv(tmp_path / "2.csv", more))) == (5, 1, 3, 1, 0)


def test_a_workbook_of_two_sheets_counts_the_days_they_share_once(warehouse, load_files, tmp_path):
    sheets = {"Year 2009-2010": LINES[:3], "Year 2010-2011": LINES[2:]}
    report = load_files(RETAIL, write_workbook(tmp_path / "online_retail_II.xlsx", sheets))
    assert went(report) == (5, 3, 1, 1, 0)
    assert landed(warehouse) == EXPECTED


def test_a_workbook_has_the_ids_of_the_csv(warehouse, load_files, tmp_path):
    load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
    real = [[*row[:4], datetime.fromisoformat(row[4]), *row[5:]] for row in LINES]
    report = load_files(RETAIL, write_workbook(tmp_path / "shop.xlsx", {"only": real}))
    assert [entry.accepted for entry in report.tables] == [0, 0, 0]
    assert products(warehouse) == [("22423", 'CAKE, "STAND"'), ("85123A", "LAMP")]


def test_a_workbook_is_opened_once_for_all_its_sheets_and_tables(
    warehouse, load_files, tmp_path, monkeypatch
):
    opened = []

    class Counted:
        @staticmethod
        def from_path(path):
            opened.append(path)
            return workbook.from_path(path)

    workbook = python_calamine.CalamineWorkbook
    monkeypatch.setattr(python_calamine, "CalamineWorkbook", Counted)
    load_files(RETAIL, write_workbook(tmp_path / "shop.xlsx", {"1": LINES[:3], "2": LINES[2:]}))
    assert len(opened) == 1


def test_a_workbook_that_is_none_is_refused(warehouse, load_files, tmp_path):
    (tmp_path / "shop.xlsx").write_bytes(b"PK but not really")
    with pytest.raises(Refused, match=r"shop\.xlsx cannot be read as xlsx"):
        load_files(RETAIL, tmp_path / "shop.xlsx")


def test_a_csv_whose_stock_codes_are_all_numbers_is_read(warehouse, load_files, tmp_path):
    lines = [["103", "22423", "7", *LINES[2][3:]]]
    load_files(RETAIL, write_csv(tmp_path / "1.csv", lines))
    assert products(warehouse) == [("22423", "7")]


def test_a_line_that_a_file_holds_twice_lands_once(warehouse, load_files, tmp_path):
    source = write_source(tmp_path / "shop")
    file = write_lines(tmp_path / "lines.csv", line(), line(), line(2))
    assert went(load_files(source, file)) == (3, 2, 1, 0, 0)


def test_rows_the_mapping_leaves_out_are_accounted_for_beside_repeats(
    warehouse, load_files, tmp_path
):
    source = write_source(tmp_path / "shop", f"{SELECT} where line <> 2")
    file = write_lines(tmp_path / "lines.csv", line(), line(), line(2))
    assert went(load_files(source, file)) == (3, 1, 2, 0, 0)


def test_a_line_that_comes_again_with_other_content_is_quarantined_and_the_first_stands(
    warehouse, load_files, tmp_path
):
    source = write_source(tmp_path / "shop")
    load_files(source, write_lines(tmp_path / "lines1.csv", line(), line(2)), FIRST)
    later = load_files(source, write_lines(tmp_path / "lines2.csv", line(price=4)), SECOND)
    assert went(later) == (1, 0, 0, 0, 1)
    assert [amount for *_, amount in landed(warehouse)] == [5, 5]
    assert shop_files.quarantined(warehouse, "order_lines") == [
        (2, "conflicting_key", "line_number")
    ]


def test_where_lines_are_corrected_the_newest_delivery_stands(warehouse, load_files, tmp_path):
    source = write_source(tmp_path / "shop", reads={"changed_rows": "correction"})
    load_files(source, write_lines(tmp_path / "lines2.csv", line(price=4)), SECOND)
    late = load_files(source, write_lines(tmp_path / "lines1.csv", line(price=5)), FIRST)
    assert [(entry.accepted, entry.corrected) for entry in late.tables] == [(1, 1)]
    assert [amount for *_, amount in landed(warehouse)] == [4]


def test_a_product_that_a_newer_delivery_corrects_is_kept_as_it_was(
    warehouse, load_files, tmp_path
):
    source = with_products(tmp_path / "shop")
    header = ["product_id", "product_name"]
    write_lines(tmp_path / "lines.csv", line())
    write_csv(tmp_path / "products.csv", [["p1", "LAMP"], ["p2", "CUP"]], header)
    load_files(source, tmp_path, FIRST)
    write_csv(tmp_path / "products.csv", [["p1", "LAMP, RED"], ["p2", "CUP"]], header)
    report = load_files(source, tmp_path, SECOND)
    (entry,) = (entry for entry in report.tables if entry.table == "products")
    assert (entry.read, entry.accepted, entry.corrected, entry.duplicate) == (2, 1, 1, 1)
    assert products(warehouse) == [("p1", "LAMP, RED"), ("p2", "CUP")]
    assert ask(
        warehouse,
        "select table_name, key::jsonb, delivered_at::date, source_row, row->>'product_name' "
        "from raw.superseded",
    ) == [("products", ["p1"], FIRST, 2, "LAMP")]


@pytest.mark.parametrize("is_filled", [False, True], ids=["an empty table", "a table with rows"])
def test_the_ledger_refuses_a_load_that_lost_a_row(warehouse, load_files, tmp_path, is_filled):
    if is_filled:
        load_files(RETAIL, write_csv(tmp_path / "1.csv", LINES[:2]))
    before = landed(warehouse)
    with psycopg.connect(warehouse, autocommit=True) as connection:
        connection.execute(
            "create function pg_temp.lose() returns trigger language plpgsql "
            "as $$ begin return null; end $$"
        )
        connection.execute(
            "create trigger loses before insert on raw.order_lines for each row "
            "when (new.order_id = 'C101') execute function pg_temp.lose()"
        )
        try:
            with pytest.raises(dbapi.Error, match="every_row_is_accounted_for"):
                load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
        finally:
            connection.execute("drop trigger loses on raw.order_lines")
    assert landed(warehouse) == before


def test_more_bad_rows_than_the_source_allows_land_nothing_and_are_kept(
    warehouse, load_files, tmp_path
):
    source = write_source(tmp_path / "shop", max_quarantined_share=0.05)
    good = [line(number) for number in range(1, 20)]
    edge = write_lines(tmp_path / "lines1.csv", *good, line(20, price="free"))
    assert went(load_files(source, edge)) == (20, 19, 0, 0, 1)
    beyond = write_lines(tmp_path / "lines2.csv", *good[1:], line(20, price="free"))
    before = landed(warehouse)
    with pytest.raises(
        Refused,
        match=r"1 of 19 rows of order_lines do not fit \(1 unparsable_number\)\. The first is "
        r"lines2\.csv row 20: unparsable_number in price\..*more than the 5\.0%",
    ):
        load_files(source, beyond)
    assert landed(warehouse) == before
    assert ask(warehouse, "select file_name, file_id is null from quarantine.rows order by 1") == [
        ("lines1.csv", False),
        ("lines2.csv", True),
    ]


def test_a_refused_file_that_loads_later_leaves_the_quarantine(warehouse, load_files, tmp_path):
    file = write_lines(tmp_path / "lines.csv", line(), line(2, price="5 EUR"))
    source = write_source(tmp_path / "shop", max_quarantined_share=0)
    with pytest.raises(Refused):
        load_files(source, file)
    mended = write_source(tmp_path / "shop", *WITHOUT_UNIT, max_quarantined_share=0)
    assert went(load_files(mended, file)) == (2, 2, 0, 0, 0)
    assert shop_files.quarantined(warehouse, "order_lines") == []


def test_replay_after_mending_the_mapping_lands_the_rows_and_the_ledger_adds_up(
    warehouse, load_files, settings, tmp_path
):
    file = write_lines(
        tmp_path / "lines.csv", line(), line(2, price="6 EUR"), line(3, price="free"), line()
    )
    source = write_source(tmp_path / "shop")
    assert went(load_files(source, file, FIRST)) == (4, 1, 1, 0, 2)
    mended = write_source(tmp_path / "shop", *WITHOUT_UNIT)

    def again() -> Report:
        return replay(
            warehouse, shop_files.KEY, mended, scratch=settings.home / "scratch", run_id="again"
        )

    ledger = ("select rows_read, rows_accepted, rows_duplicate, rows_anonymous, "
              "rows_quarantined from ops.load_ledger")  # fmt: skip
    assert went(again()) == (2, 1, 0, 0, 1)
    assert ask(warehouse, ledger) == [(4, 2, 1, 0, 1)]
    assert shop_files.quarantined(warehouse, "order_lines") == [(4, "missing_value", "unit_price")]
    query = "select line_number, unit_price, delivered_at::date from raw.order_lines order by 1"
    expected = [(1, 5, FIRST), (2, 6, FIRST)]
    assert ask(warehouse, query) == expected
    again()
    assert ask(warehouse, query) == expected
    assert ask(warehouse, ledger) == [(4, 2, 1, 0, 1)]

    file.unlink()
    with pytest.raises(Refused, match=r"lines\.csv is no longer there.*put it back"):
        again()
    assert shop_files.quarantined(warehouse, "order_lines") == [(4, "missing_value", "unit_price")]


@pytest.mark.parametrize("changed_rows", ["correction", "conflict"])
@pytest.mark.parametrize("price", [6, 7])
def test_a_row_that_another_takes_the_place_of_in_a_replay_is_in_quarantine(
    warehouse, load_files, settings, tmp_path, changed_rows, price
):
    """Two contents of one line in one file, of which the second could not be read at first."""
    declared = {"reads": {"changed_rows": changed_rows}}
    source = write_source(tmp_path / "shop", **declared)
    file = write_lines(tmp_path / "lines.csv", line(price=5), line(price=f"{price} EUR"))
    load_files(source, file, FIRST)
    mended = write_source(tmp_path / "shop", *WITHOUT_UNIT, **declared)
    for _ in range(2):
        replay(warehouse, shop_files.KEY, mended, scratch=settings.home / "scratch", run_id="2")
        ((_, *_, amount),) = landed(warehouse)
        assert shop_files.quarantined(warehouse, "order_lines") == [
            (3 if amount == 5 else 2, "conflicting_key", "line_number")
        ]
        assert ask(warehouse, "select rows_accepted, rows_quarantined from ops.load_ledger") == [
            (1, 1)
        ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "colour"),
        ({"currency": "pounds"}, "currency"),
        ({"rates": {"USD": 0}}, "rates.USD"),
        ({"timezone": "Europe/Londen"}, "there is no time zone 'Europe/Londen'"),
        ({"max_quarantined_share": 5}, "max_quarantined_share"),
        ({"tables": {}}, "tables"),
        ({"tables": {"orders": {}}}, r"orders\.sql is not there"),
        ({"tables": {"reviews": {}}}, r"reviews\.sql is not there"),
        ({"reads": {"delimiter": "||"}}, "delimiter"),
        ({"reads": {"encoding": "utf-9"}}, "there is no encoding 'utf-9'"),
        ({"reads": {"files": []}}, "files"),
        ({"reads": {"bounds": {"prise": [0, 1]}}}, "order_lines has no column prise"),
        ({"reads": {"references": ["order_id"]}}, "order_lines.order_id refers to no table"),
        ({"reads": {"changed_rows": "ignore"}}, "changed_rows"),
        ({"columns": COLUMNS | {"price": "money"}}, "columns.price.type"),
        ({"columns": COLUMNS | {"price": {"type": "number", "form": "x"}}}, "columns.price.form"),
        ({"columns": COLUMNS | {"customer": "text"}}, "needs a column of the type customer"),
        ({"columns": ["invoice", "line"]}, "columns"),
    ],
)
def test_a_mistake_in_source_yml_is_wrong_usage_that_names_the_file_and_the_place(
    tmp_path, change, said
):
    source = write_source(tmp_path / "shop")
    reads = {"columns": change.pop("columns", dict(COLUMNS)), **change.pop("reads", {})}
    found = yaml.safe_load((source.folder / "source.yml").read_text()) | change
    if "tables" not in change:
        found["tables"]["order_lines"] |= reads
    (source.folder / "source.yml").write_text(yaml.safe_dump(found))
    with pytest.raises(WrongUsage, match=rf"shop/source\.yml .*{said}") as refused:
        read_source(str(source.folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "currency: [EUR", "- order_lines", "currency: EUR", "tables: 7", "tables: {orders: }"],
)
def test_a_source_yml_that_is_none_is_wrong_usage(tmp_path, text):
    (tmp_path / "source.yml").write_text(text)
    with pytest.raises(WrongUsage, match=r"/source\.yml"):
        read_source(str(tmp_path))


def test_a_table_that_is_none_of_the_contract_is_wrong_usage(tmp_path):
    source = write_source(tmp_path / "shop")
    (source.folder / "orders.sql").write_text(SELECT)
    found = (source.folder / "source.yml").read_text()
    (source.folder / "source.yml").write_text(found.replace("order_lines:", "orders:"))
    with pytest.raises(WrongUsage, match=r"source\.yml .*orders is no table of the contract: cust"):
        read_source(str(source.folder))


@pytest.mark.parametrize(
    ("select", "said"),
    [
        (f"{SELECT}, range(2)", r"gives 4 rows from 2 rows .*multiplies"),
        (f"{SELECT} union all {SELECT}", r"gives 4 rows from 2 rows"),
        (
            SELECT.replace("source_row", "row_number() over () as source_row"),
            r"source_row",
        ),
        (SELECT.replace("customer as", "invoice as"), "a customer_id that is no pseudonym"),
        (SELECT.replace("customer as", "md5('ann') as"), "a customer_id that is no pseudonym"),
        (SELECT.replace("invoice as order_id, ", ""), "does not give order_id"),
        (SELECT.replace(", source_row", ""), "does not give source_row"),
        (SELECT.replace("item as product_id", "item"), "gives item, which order_lines does not"),
        (SELECT.replace("item as", "article as"), "fails: .*article"),
        (SELECT.replace("item as", "cast(item as integer) as"), "fails: .*Conversion"),
        ("this is no SELECT", "fails: "),
    ],
)
def test_a_mapping_that_does_not_keep_the_contract_loads_nothing_and_names_its_file(
    warehouse, load_files, tmp_path, select, said
):
    source = write_source(tmp_path / "shop", select)
    with pytest.raises(TierhouseError, match=rf"shop/order_lines\.sql .*{said}") as refused:
        load_files(source, write_lines(tmp_path / "lines.csv", line(), line(2)))
    assert "\n" not in str(refused.value)
    assert landed(warehouse) == []
    assert ask(warehouse, "select * from ops.files") == []


def test_times_without_an_offset_are_the_shops_and_those_with_one_their_own(
    warehouse, load_files, tmp_path
):
    """London is an hour ahead of UTC in summer."""
    source = write_source(tmp_path / "shop", timezone="Europe/London")
    written = ["2011-01-03 10:00:00", "2011-07-03 00:30:00", "2011-07-03T10:00:00Z",
               "2011-07-03 10:00:00+05:30", "2011-07-03"]  # fmt: skip
    lines = [line(number, ordered=text) for number, text in enumerate(written)]
    load_files(source, write_lines(tmp_path / "lines.csv", *lines))
    assert times(warehouse) == [
        "2011-01-03 10:00:00", "2011-07-02 23:30:00", "2011-07-03 10:00:00",
        "2011-07-03 04:30:00", "2011-07-02 23:00:00",
    ]  # fmt: skip


def test_a_time_is_read_as_its_format_says(warehouse, load_files, tmp_path):
    column = {"type": "time", "format": "%d/%m/%Y %H:%M"}
    source = write_source(
        tmp_path / "shop", columns=COLUMNS | {"ordered": column}, timezone="Europe/London"
    )
    written = ["03/07/2011 10:00", "03/01/2011 10:00", "2011-01-03 10:00", "13/13/2011 10:00"]
    lines = [line(number, ordered=text) for number, text in enumerate(written)]
    load_files(source, write_lines(tmp_path / "lines.csv", *lines))
    assert times(warehouse) == ["2011-07-03 09:00:00", "2011-01-03 10:00:00"]
    assert shop_files.quarantined(warehouse, "order_lines") == [
        (4, "unparsable_time", "ordered"), (5, "unparsable_time", "ordered"),
    ]  # fmt: skip


@pytest.mark.parametrize("timezone", ["UTC", "Europe/London"])
def test_an_offset_in_the_format_is_honoured(warehouse, load_files, tmp_path, timezone):
    column = {"type": "time", "format": "%d/%m/%Y %H:%M %z"}
    source = write_source(
        tmp_path / "shop", columns=COLUMNS | {"ordered": column}, timezone=timezone
    )
    file = write_lines(tmp_path / "lines.csv", line(ordered="03/07/2011 10:00 +0530"))
    load_files(source, file)
    assert times(warehouse) == ["2011-07-03 04:30:00"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_times_of_a_parquet_file_keep_their_zone_in_every_unit(
    warehouse, load_files, tmp_path, unit
):
    source = write_source(tmp_path / "shop", timezone="Europe/London")
    for number, zone in enumerate((None, "UTC", "Asia/Kolkata")):
        values = dict(zip(NUMBERED, line(number), strict=True))
        columns = {name: pa.array([value]) for name, value in values.items() if value is not None}
        # With a zone it is the same instant, without one ten o'clock in London.
        instant = pa.array([datetime.fromisoformat("2011-07-03T10:00")], pa.timestamp(unit))
        columns["ordered"] = instant.cast(pa.timestamp(unit, zone))
        pq.write_table(pa.table(columns), tmp_path / f"lines{number}.parquet")
    load_files(source, tmp_path)
    assert times(warehouse) == ["2011-07-03 09:00:00", "2011-07-03 10:00:00", "2011-07-03 10:00:00"]


def test_other_currencies_come_at_their_rates_and_without_one_not_at_all(
    warehouse, load_files, tmp_path
):
    select = SELECT.replace("currency,", "currency, 1 as discount_amount,")
    source = write_source(tmp_path / "shop", select, rates={"GBP": 1.25, "USD": 0.8})
    paid = ["EUR", "GBP", "usd", None, "SEK"]
    lines = [line(number, price=10, currency=code) for number, code in enumerate(paid)]
    load_files(source, write_lines(tmp_path / "lines.csv", *lines))
    query = "select currency, unit_price, discount_amount from raw.order_lines order by line_number"
    assert ask(warehouse, query) == [
        ("EUR", 10, 1), ("EUR", Decimal("12.5"), Decimal("1.25")), ("EUR", 8, Decimal("0.8")),
        ("EUR", 10, 1),
    ]  # fmt: skip
    assert shop_files.quarantined(warehouse, "order_lines") == [(6, "unknown_currency", "currency")]


def test_money_that_is_no_product_lands_without_one_and_is_in_no_list(
    warehouse, load_files, tmp_path
):
    source = with_products(tmp_path / "shop", not_products=["POST"])
    write_lines(tmp_path / "lines.csv", line(), line(2, item="POST"), line(3, item="POSTER"))
    write_csv(
        tmp_path / "products.csv",
        [["lamp", "LAMP"], ["POST", "POSTAGE"], ["POSTER", "A POSTER"]],
        ["product_id", "product_name"],
    )
    report = load_files(source, tmp_path)
    assert [(product, amount) for *_, product, _, amount in landed(warehouse)] == [
        ("lamp", 5), (None, 5), ("POSTER", 5),
    ]  # fmt: skip
    assert products(warehouse) == [("POSTER", "A POSTER"), ("lamp", "LAMP")]
    assert went(report, "products") == (3, 2, 1, 0, 0)


def test_a_reference_is_known_from_the_same_delivery_and_from_those_before(
    warehouse, load_files, tmp_path
):
    source = with_products(tmp_path / "shop", reads={"references": ["product_id"]})
    for day, product in ((FIRST, "lamp"), (SECOND, "cup")):
        folder = tmp_path / day.isoformat()
        folder.mkdir()
        lines = [line(10 * day.day + place, item=item)
                 for place, item in enumerate(["lamp", "cup", None])]  # fmt: skip
        write_lines(folder / "lines.csv", *lines)
        write_csv(folder / "products.csv", [[product, "A"]], ["product_id", "product_name"])
        load_files(source, folder, day)
    assert [product for _, _, product, *_ in landed(warehouse)] == [
        "lamp", None, "lamp", "cup", None,
    ]  # fmt: skip
    assert shop_files.quarantined(warehouse, "order_lines") == [(3, "orphan_product", "product_id")]


def test_columns_set_apart_by_spaces_are_read_in_the_encoding_that_is_declared(
    warehouse, load_files, tmp_path
):
    source = write_source(
        tmp_path / "shop", reads={"delimiter": " ", "encoding": "latin-1"}, columns={
            "invoice": "text", "line": "number", "customer": "customer",
            "ordered": {"type": "time", "format": "%Y%m%d"}, "item": "text", "price": "number",
            "currency": {"type": "text", "optional": True},
        },
    )  # fmt: skip
    file = tmp_path / "lines.txt"
    text = (
        "invoice line customer ordered item price\n"
        "  7   1 ann  20110103 café  5.25\n"
        "  7   2 ann  20110103\n"
        " 17   1 bob  20110104 lamp 10\n"
    )
    file.write_bytes(text.encode("latin-1"))
    assert went(load_files(source, file)) == (3, 2, 0, 0, 1)
    assert landed(warehouse) == [
        ("17", pseudonym("bob"), "lamp", "2011-01-04 00:00:00", 10),
        ("7", pseudonym("ann"), "café", "2011-01-03 00:00:00", Decimal("5.25")),
    ]
    assert shop_files.quarantined(warehouse, "order_lines") == [(3, "malformed_row", None)]


def test_a_customer_is_the_same_however_the_file_writes_the_number(warehouse, load_files, tmp_path):
    source = write_source(tmp_path / "shop")
    lines = [line(1, customer="17850"), line(2, customer="17850.0"), line(3, customer=" 17850 ")]
    load_files(source, write_lines(tmp_path / "lines.csv", *lines))
    workbook = {"only": [line(4, customer=17850)]}
    load_files(source, write_workbook(tmp_path / "lines.xlsx", workbook, NUMBERED))
    assert {customer for _, customer, *_ in landed(warehouse)} == {pseudonym("17850")}
    assert ask(warehouse, "select * from pii.customer_ids") == [(pseudonym("17850"), "17850")]


def test_headers_are_found_by_any_of_their_names_in_any_case(warehouse, load_files, tmp_path):
    column = {"type": "number", "from": ["Unit Price", "UnitPrice"]}
    source = write_source(tmp_path / "shop", columns=COLUMNS | {"price": column})
    for number, name in enumerate(("unit price", "UNITPRICE", " UnitPrice ")):
        header = [name if column == "price" else column.upper() for column in NUMBERED]
        load_files(source, write_csv(tmp_path / f"lines{number}.csv", [line(number)], header))
    assert len(landed(warehouse)) == 3


def test_the_same_file_of_another_day_is_that_days_delivery(warehouse, load_files, tmp_path):
    """A shop that exports the same products every day confirms them, and changes nothing else."""
    source = write_source(tmp_path / "shop", reads={"changed_rows": "correction"})
    file = write_lines(tmp_path / "lines.csv", line())
    load_files(source, file, FIRST)
    assert went(load_files(source, file, THIRD)) == (1, 0, 1, 0, 0)
    assert load_files(source, file, THIRD).loaded_before == ["lines.csv"]
    between = write_lines(tmp_path / "lines2.csv", line(price=4))
    load_files(source, between, SECOND)
    assert [amount for *_, amount in landed(warehouse)] == [5]


def test_data_that_comes_with_a_package_is_found_in_it(
    warehouse, load_files, tmp_path, monkeypatch
):
    source = write_source(tmp_path / "shop", package="shop_data", package_folder="data")
    with pytest.raises(TierhouseError, match="package shop_data, which is not installed"):
        load_files(source, None)
    (tmp_path / "site" / "shop_data" / "data").mkdir(parents=True)
    (tmp_path / "site" / "shop_data" / "__init__.py").touch()
    write_lines(tmp_path / "site" / "shop_data" / "data" / "lines.csv", line())
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    assert went(load_files(source, None)) == (1, 1, 0, 0, 0)


def test_a_source_without_a_package_needs_a_path(load_files):
    with pytest.raises(WrongUsage, match="tierhouse load online_retail PATH"):
        load_files(RETAIL, None)


def test_a_path_that_is_not_there_is_wrong_usage(load_files, tmp_path):
    with pytest.raises(WrongUsage, match=r"nothing at .*missing\.csv"):
        load_files(RETAIL, tmp_path / "missing.csv")


def test_a_folder_without_the_files_is_wrong_usage(load_files, tmp_path):
    with pytest.raises(WrongUsage, match=r"holds none of transactions\.parquet"):
        load_files(read_source("complete_journey"), tmp_path)


def test_half_a_delivery_is_refused_by_what_it_lacks(warehouse, load_files, tmp_path):
    (tmp_path / "products.parquet").touch()
    with pytest.raises(Refused, match=r"holds no transactions\.parquet or .* for order_lines and"):
        load_files(read_source("complete_journey"), tmp_path)


def test_two_shops_do_not_mix(warehouse, load_files, tmp_path):
    load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
    other = write_source(tmp_path / "shop")
    with pytest.raises(TierhouseError, match=r"holds the shop 'online_retail'.*TIERHOUSE_HOME"):
        load_files(other, write_lines(tmp_path / "lines.csv", line()))
    assert landed(warehouse) == EXPECTED


def test_customers_under_another_key_do_not_mix(warehouse, load_files, settings, tmp_path):
    load_files(RETAIL, write_csv(tmp_path / "shop.csv"))
    with pytest.raises(TierhouseError, match=r"another key.*secrets/pseudonyms"):
        replay(warehouse, b"other", RETAIL, scratch=settings.home / "scratch", run_id="test")


def test_the_key_of_a_line_never_changes(tmp_path):
    """With another key, the lines of files that overlap would land a second time."""
    line = "row('it''s', 1.5, timestamp '2011-01-03 10:00:00', null, '')"
    with workbench(tmp_path, RETAIL) as duck:
        found = duck.execute(
            f"select line_key({line}), line_key(row('a, b', 'c')), line_key(row('a', 'b, c'))"
        ).fetchall()
    assert found == [(360118746108559582, 2430103667018623007, 3964315573287617655)]


def test_an_unknown_source_names_those_there_are():
    with pytest.raises(WrongUsage, match=r"no source 'no_such_shop'.*canonical.*online_retail"):
        read_source("no_such_shop")


@pytest.mark.parametrize("name", sorted(folder.name for folder in BUILT_IN.iterdir()))
def test_every_source_that_is_built_in_can_be_read(name):
    assert read_source(name).name == name
