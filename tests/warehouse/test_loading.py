import csv
from decimal import Decimal
from pathlib import Path

import openpyxl
import pytest

from warehouse.connections import connect
from warehouse.loading import load, read_source
from warehouse.settings import TierhouseError, WrongUsage

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


@pytest.fixture
def warehouse(urls):
    with connect(urls.warehouse) as connection:
        connection.execute("truncate raw.order_lines, raw.products, ops.load_ledger")
    return urls.warehouse


def write_csv(path: Path, lines=LINES, header=HEADER) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def landed(url: str) -> list[tuple]:
    with connect(url) as connection:
        return connection.execute(
            "select order_id, line_number, customer_id, product_id, ordered_at::text, "
            "quantity * unit_price - discount_amount from raw.order_lines order by 1, 2"
        ).fetchall()


EXPECTED = [
    ("100", 1, "17850", "85123A", "2011-01-03 10:00:00", Decimal("2.5")),
    ("100", 2, "17850", "85123A", "2011-01-03 10:00:00", Decimal("2.5")),
    ("C101", 1, "17850", "85123A", "2011-01-04 10:00:00", Decimal("-1.25")),
]


def test_every_row_is_accounted_for_and_equal_lines_are_both_kept(warehouse, tmp_path):
    orders, _ = load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv"))
    assert (orders.rows_read, orders.accepted, orders.duplicate, orders.anonymous) == (4, 3, 0, 1)
    assert landed(warehouse) == EXPECTED


def test_the_same_content_is_loaded_once_whatever_the_file_is_called(warehouse, tmp_path):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv"))
    again = load(warehouse, read_source("online_retail"), write_csv(tmp_path / "copy.csv"))
    assert [entry.already_loaded for entry in again] == [True, True]
    assert landed(warehouse) == EXPECTED


def test_a_later_file_that_repeats_lines_adds_only_what_is_new(warehouse, tmp_path):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "1.csv"))
    more = [*LINES, ["103", "22423", "CAKE", 1, "2011-01-06 09:00:00", 12.75, 13047, "Spain"]]
    orders, _ = load(warehouse, read_source("online_retail"), write_csv(tmp_path / "2.csv", more))
    assert (orders.rows_read, orders.accepted, orders.duplicate, orders.anonymous) == (5, 1, 3, 1)


def test_a_workbook_of_two_sheets_counts_the_days_they_share_once(warehouse, tmp_path):
    workbook = openpyxl.Workbook()
    first, second = workbook.active, workbook.create_sheet("Year 2010-2011")
    for sheet, lines in ((first, LINES[:3]), (second, LINES[2:])):
        for row in [HEADER, *lines]:
            sheet.append(row)
    workbook.save(tmp_path / "online_retail_II.xlsx")
    orders, _ = load(warehouse, read_source("online_retail"), tmp_path / "online_retail_II.xlsx")
    assert (orders.rows_read, orders.accepted, orders.duplicate, orders.anonymous) == (5, 3, 1, 1)
    assert landed(warehouse) == EXPECTED


def test_a_file_without_a_needed_column_is_refused_by_name_and_leaves_nothing(warehouse, tmp_path):
    path = write_csv(
        tmp_path / "shop.csv", [row[:5] + row[6:] for row in LINES], HEADER[:5] + HEADER[6:]
    )
    with pytest.raises(TierhouseError, match=r"lacks the column Price or UnitPrice.*StockCode"):
        load(warehouse, read_source("online_retail"), path)
    assert landed(warehouse) == []


def test_a_value_that_does_not_fit_is_refused_with_its_row_and_leaves_nothing(warehouse, tmp_path):
    lines = [*LINES, ["103", "22423", "CAKE", "many", "2011-01-06 09:00:00", 12.75, 13047, "Spain"]]
    with pytest.raises(TierhouseError, match=r"1 rows have no usable quantity.*row 6.*'many'"):
        load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv", lines))
    assert landed(warehouse) == []


@pytest.mark.parametrize("name", ["shop.parquet", "shop.xlsx"])
def test_a_file_that_is_not_what_its_name_says_is_refused(warehouse, tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 but not really")
    with pytest.raises(TierhouseError, match="cannot be read"):
        load(warehouse, read_source("online_retail"), tmp_path / name)
    assert landed(warehouse) == []


def test_a_path_that_is_not_there_is_wrong_usage(warehouse, tmp_path):
    with pytest.raises(WrongUsage, match=r"nothing at .*missing\.csv"):
        load(warehouse, read_source("online_retail"), tmp_path / "missing.csv")


def test_a_folder_without_the_files_is_wrong_usage(warehouse, tmp_path):
    with pytest.raises(WrongUsage, match=r"holds no transactions\.parquet"):
        load(warehouse, read_source("complete_journey"), tmp_path)


def test_two_shops_do_not_mix(warehouse, tmp_path):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv"))
    with pytest.raises(TierhouseError, match=r"holds the shop 'online_retail'.*TIERHOUSE_HOME"):
        load(warehouse, read_source("complete_journey"), None)


def test_an_unknown_source_names_those_there_are():
    with pytest.raises(WrongUsage, match="complete_journey, online_retail"):
        read_source("no_such_shop")
