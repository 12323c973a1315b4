import csv
from decimal import Decimal
from pathlib import Path

import openpyxl
import pytest
import python_calamine
from adbc_driver_postgresql import dbapi

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


def products(url: str) -> list[tuple]:
    with connect(url) as connection:
        return connection.execute(
            "select product_id, product_name from raw.products order by 1"
        ).fetchall()


def write_workbook(path: Path) -> Path:
    """Two sheets that share a day. Numbers are numbers, as in the workbook that was published."""
    workbook = openpyxl.Workbook(write_only=True)
    for name, lines in (("Year 2009-2010", LINES[:3]), ("Year 2010-2011", LINES[2:])):
        sheet = workbook.create_sheet(name)
        sheet.append(HEADER)
        for line in lines:
            sheet.append([int(cell) if str(cell).isdigit() else cell for cell in line])
    workbook.save(path)
    return path


def numbered_source(folder: Path, condition: str = "true") -> Path:
    """A shop whose files say the number of a line themselves."""
    folder.mkdir()
    names = ["invoice", "line", "customer", "ordered", "item", "price"]
    (folder / "source.yml").write_text(
        "currency: EUR\ntables:\n  order_lines:\n    files: ['*.csv']\n    columns:\n"
        + "".join(f"      {name}: [{name}]\n" for name in names)
    )
    (folder / "order_lines.sql").write_text(
        "select invoice as order_id, line as line_number, customer as customer_id, "
        "ordered as ordered_at, item as product_id, 1 as quantity, price as unit_price, "
        f"0 as discount_amount, null as channel, source_row from file where {condition}"
    )
    return folder


NUMBERED = ["invoice", "line", "customer", "ordered", "item", "price"]
NUMBERED_LINES = [
    ["7", 1, "ann", "2011-01-03 10:00:00", "lamp", 5],
    ["7", 1, "ann", "2011-01-03 10:00:00", "lamp", 5],
    ["7", 2, "ann", "2011-01-03 10:00:00", "cake", 3],
]

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
    path = write_workbook(tmp_path / "online_retail_II.xlsx")
    orders, _ = load(warehouse, read_source("online_retail"), path)
    assert (orders.rows_read, orders.accepted, orders.duplicate, orders.anonymous) == (5, 3, 1, 1)
    assert landed(warehouse) == EXPECTED


def test_a_workbook_has_the_ids_of_the_csv(warehouse, tmp_path):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv"))
    _, names = load(warehouse, read_source("online_retail"), write_workbook(tmp_path / "shop.xlsx"))
    assert names.accepted == 0
    assert products(warehouse) == [("22423", 'CAKE, "STAND"'), ("85123A", "LAMP")]


def test_a_workbook_is_opened_once_for_all_its_sheets_and_tables(warehouse, tmp_path, monkeypatch):
    opened = []

    class Counted:
        @staticmethod
        def from_path(path):
            opened.append(path)
            return workbook.from_path(path)

    workbook = python_calamine.CalamineWorkbook
    monkeypatch.setattr(python_calamine, "CalamineWorkbook", Counted)
    load(warehouse, read_source("online_retail"), write_workbook(tmp_path / "shop.xlsx"))
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("later", "row"),
    [
        ([[*LINES[0][:5], 1.5, *LINES[0][6:]], LINES[1]], 2),
        ([["103", *LINES[0][1:]], ["100", "22423", "CAKE", 1, *LINES[0][4:]]], 3),
    ],
    ids=["a corrected price", "the rest of an invoice"],
)
def test_a_line_that_stands_with_other_content_is_refused_never_dropped(
    warehouse, tmp_path, later, row
):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "1.csv"))
    with pytest.raises(
        TierhouseError,
        match=rf"1 order_lines .*first row {row} with order_id 100, line_number 1.*TIERHOUSE_HOME",
    ):
        load(warehouse, read_source("online_retail"), write_csv(tmp_path / "2.csv", later))
    assert landed(warehouse) == EXPECTED


def test_files_loaded_together_are_compared_with_each_other(warehouse, tmp_path):
    write_csv(tmp_path / "1.csv")
    write_csv(tmp_path / "2.csv", [["100", "22423", "CAKE", 1, *LINES[0][4:]]])
    with pytest.raises(TierhouseError, match=r"2\.csv: 1 order_lines"):
        load(warehouse, read_source("online_retail"), tmp_path)
    assert landed(warehouse) == []


def test_a_product_that_changed_its_name_keeps_the_first(warehouse, tmp_path):
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "1.csv"))
    later = [["103", "22423", "PLATE", *LINES[2][3:]], ["103", "9", "CUP", *LINES[2][3:]]]
    _, names = load(warehouse, read_source("online_retail"), write_csv(tmp_path / "2.csv", later))
    assert (names.rows_read, names.accepted, names.duplicate) == (2, 1, 1)
    assert products(warehouse)[0] == ("22423", 'CAKE, "STAND"')


def test_a_line_that_a_file_holds_twice_lands_once(warehouse, tmp_path):
    source = read_source(str(numbered_source(tmp_path / "shop")))
    path = write_csv(tmp_path / "1.csv", NUMBERED_LINES, NUMBERED)
    (orders,) = load(warehouse, source, path)
    assert (orders.rows_read, orders.accepted, orders.duplicate) == (3, 2, 1)


def test_a_line_that_a_file_holds_with_two_contents_is_refused(warehouse, tmp_path):
    source = read_source(str(numbered_source(tmp_path / "shop")))
    lines = [*NUMBERED_LINES, [*NUMBERED_LINES[2][:5], 4]]
    with pytest.raises(
        TierhouseError, match=r"1 order_lines .*first row 4 with order_id 7, line_number 2"
    ):
        load(warehouse, source, write_csv(tmp_path / "1.csv", lines, NUMBERED))
    assert landed(warehouse) == []


def test_rows_the_mapping_leaves_out_are_accounted_for_beside_repeats(warehouse, tmp_path):
    source = read_source(str(numbered_source(tmp_path / "shop", "line <> 2")))
    (orders,) = load(warehouse, source, write_csv(tmp_path / "1.csv", NUMBERED_LINES, NUMBERED))
    assert (orders.rows_read, orders.accepted, orders.duplicate) == (3, 1, 2)


def test_the_ledger_refuses_a_load_that_lost_a_row(warehouse, tmp_path):
    with connect(warehouse) as connection:
        connection.execute(
            "create function pg_temp.lose() returns trigger language plpgsql "
            "as $$ begin return null; end $$"
        )
        connection.execute(
            "create trigger loses before insert on raw.order_lines for each row "
            "when (new.line_number = 2) execute function pg_temp.lose()"
        )
        connection.commit()
        with pytest.raises(dbapi.Error, match="every_row_is_accounted_for"):
            load(warehouse, read_source("online_retail"), write_csv(tmp_path / "shop.csv"))
        connection.execute("drop trigger loses on raw.order_lines")
    assert landed(warehouse) == []


def test_a_csv_whose_stock_codes_are_all_numbers_is_read(warehouse, tmp_path):
    lines = [["103", "22423", "7", *LINES[2][3:]]]
    load(warehouse, read_source("online_retail"), write_csv(tmp_path / "1.csv", lines))
    assert products(warehouse) == [("22423", "7")]


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
