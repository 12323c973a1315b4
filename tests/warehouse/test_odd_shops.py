"""Shops that a strict reader thought of: each once landed something else than its files said."""

from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shop_files
import yaml

from warehouse import pseudonyms
from warehouse.connections import connect
from warehouse.settings import Refused, TierhouseError, WrongUsage
from warehouse.source import Source, read_source

THREE = {
    "customer": {"type": "customer", "from": "who"},
    "at": {"type": "time", "from": "when"},
    "amount": {"type": "number", "from": "much"},
}
SELECT = (
    "select line_key(row(\"at\", amount, row_number() over (partition by file_name, \"at\", amount "
    "order by source_row))) as order_id, 1 as line_number, customer as customer_id, "
    "\"at\" as ordered_at, 1 as quantity, amount as unit_price, source_row from file"
)  # fmt: skip


@pytest.fixture
def warehouse(urls) -> str:
    shop_files.empty(urls.warehouse)
    return urls.warehouse


def source(
    folder: Path, files: str = "*.csv", select: str = SELECT, columns=THREE, **more
) -> Source:
    """A shop of three columns."""
    folder.mkdir(exist_ok=True)
    tables = {"order_lines": {"files": [files], "columns": columns}}
    (folder / "source.yml").write_text(yaml.safe_dump({"currency": "EUR", "tables": tables} | more))
    (folder / "order_lines.sql").write_text(select)
    return read_source(str(folder))


def csv_of(path: Path, *rows: str, header: str = "who,when,much") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def ask(url: str, query: str) -> list[tuple]:
    with connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def canonical(path: Path, **columns) -> Path:
    """A Parquet file of order lines in the contract's columns."""
    rows = len(next(iter(columns.values()), range(100)))
    frame = {
        "order_id": [str(n) for n in range(rows)], "line_number": [1] * rows,
        "customer_id": ["a"] * rows, "ordered_at": [datetime.fromisoformat("2024-01-01")] * rows,
        "quantity": [1.0] * rows, "unit_price": [2.0] * rows,
    }  # fmt: skip
    pq.write_table(pa.table(frame | columns), path)
    return path


@pytest.mark.parametrize("column", ["quantity", "unit_price", "discount_amount"])
def test_one_nan_among_equal_values_is_seen(warehouse, load_files, tmp_path, column):
    path = canonical(tmp_path / "order_lines.parquet", **{column: [5.0] * 99 + [float("nan")]})
    (lines,) = load_files(read_source("canonical"), path).tables
    assert (lines.accepted, lines.quarantined) == (99, {"impossible_number": 1})


def test_a_column_of_the_shop_may_have_any_name(warehouse, load_files, tmp_path):
    names = ("row_number", "sheet_number", "file_id", "source_row")
    more = {name: [1 + n % 2 for n in range(100)] for name in names}
    path = canonical(tmp_path / "order_lines.parquet", quantity=[1.0] * 99 + [float("inf")], **more)
    (lines,) = load_files(read_source("canonical"), path).tables
    assert (lines.accepted, lines.duplicate) == (99, 0)


@pytest.mark.parametrize(
    "name", ["order", "Bought at", 'a "b"', "select", "when it was", "o'clock"]
)
def test_a_column_of_the_view_may_have_any_name(warehouse, load_files, tmp_path, name):
    quoted = '"' + name.replace('"', '""') + '"'
    columns = {name if column == "at" else column: how for column, how in THREE.items()}
    shop = source(tmp_path / "shop", select=SELECT.replace('"at"', quoted), columns=columns)
    rows = [*["ann,2024-01-01,5"] * 39, "ann,never,5"]
    (lines,) = load_files(shop, csv_of(tmp_path / "a.csv", *rows)).tables
    assert (lines.accepted, lines.quarantined) == (39, {"unparsable_time": 1})
    assert ask(warehouse, "select column_name from quarantine.rows") == [(name,)]


def test_files_of_one_name_in_two_folders_are_two_files(warehouse, load_files, tmp_path):
    rows = ["ann,2024-01-01,5", "ann,2024-01-01,5", "bob,2024-01-02,6"]
    csv_of(tmp_path / "files" / "a.csv").unlink()
    csv_of(tmp_path / "files" / "1" / "a.csv", *rows[:2])
    csv_of(tmp_path / "files" / "2" / "a.csv", *rows)
    (lines,) = load_files(source(tmp_path / "shop", "*/*.csv"), tmp_path / "files").tables
    assert (lines.accepted, lines.duplicate) == (3, 2)


def test_an_identifier_means_the_same_to_files_and_to_a_lookup(warehouse, load_files, tmp_path):
    written = ["17850", "17850.0", "17850.00", '"17850\t"', "v1", "v1.0", '"\t"']
    rows = [f"{who},2024-01-0{n},5" for n, who in enumerate(written, start=1)]
    (lines,) = load_files(source(tmp_path / "shop"), csv_of(tmp_path / "a.csv", *rows)).tables
    assert (lines.accepted, lines.anonymous) == (6, 1)
    assert ask(warehouse, "select source_customer_id from pii.customer_ids order by 1") == [
        ("17850",), ("v1",), ("v1.0",),
    ]  # fmt: skip
    known = {pseudonyms.look_up(warehouse, who.strip('"')) for who in written[:4]}
    assert len(known | {pseudonyms.look_up(warehouse, "v1.0")}) == 2


def test_what_was_paid_in_another_currency_lands_in_the_reporting_one(
    warehouse, load_files, tmp_path
):
    columns = THREE | {"currency": "text"}
    select = SELECT.replace("source_row from", "currency, source_row from")
    shop = source(tmp_path / "shop", select=select, columns=columns, rates={"LBP": "0.0000101"})
    rows = ["ann,2024-01-01,5,EUR", "ann,2024-01-02,900000,LBP"]
    load_files(shop, csv_of(tmp_path / "a.csv", *rows, header="who,when,much,currency"))
    landed = ask(
        warehouse, "select unit_price::text, currency from raw.order_lines order by 1 desc"
    )
    assert landed == [("9.090000", "EUR"), ("5.000000", "EUR")]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"rates": {"EUR": 2}}, "reporting currency"),
        ({"rates": {"USD": "4e-13"}}, "12 decimal places"),
        ({"rates": {"USD": ".inf"}}, "rates"),
        ({"grace_hours": float("inf")}, "grace_hours"),
    ],
)
def test_settings_that_would_end_in_wrong_money_are_refused(tmp_path, more, said):
    with pytest.raises(WrongUsage, match=said):
        source(tmp_path / "shop", **more)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"at": {"type": "time", "from": "when", "format": "%Q"}}, "no format of a time"),
        ({"at": {"type": "time", "from": []}}, "names no header"),
        ({"sheet": "text"}, "anyway"),
    ],
)
def test_columns_that_cannot_be_read_are_refused(tmp_path, columns, said):
    with pytest.raises(WrongUsage, match=said):
        source(tmp_path / "shop", columns=THREE | columns)


@pytest.mark.parametrize("files", ["/etc/*.csv", "../*.csv"])
def test_files_lie_below_their_folder(tmp_path, files):
    with pytest.raises(WrongUsage, match="below the folder"):
        source(tmp_path / "shop", files)


def test_a_folder_of_mine_is_mine_whatever_it_is_called(tmp_path, monkeypatch):
    source(tmp_path / "canonical")
    monkeypatch.chdir(tmp_path)
    assert set(read_source("./canonical").tables) == {"order_lines"}
    assert len(read_source("canonical").tables) == 7
    monkeypatch.chdir(tmp_path / "canonical")
    assert read_source(".").name == "canonical"


def test_a_header_read_twice_can_be_quarantined(warehouse, load_files, tmp_path):
    columns = THREE | {"written": {"type": "text", "from": "much"}}
    shop = source(tmp_path / "shop", columns=columns, max_quarantined_share=1)
    (lines,) = load_files(shop, csv_of(tmp_path / "a.csv", "ann,2024-01-01,free")).tables
    assert lines.quarantined == {"unparsable_number": 1}


def test_a_header_of_two_lines_is_one_row(warehouse, load_files, tmp_path):
    path = csv_of(tmp_path / "a.csv", "ann,2024-01-01,5,x", header='who,when,much,"of\nshop"')
    (lines,) = load_files(source(tmp_path / "shop"), path).tables
    assert (lines.read, lines.accepted) == (1, 1)


def test_a_failing_mapping_does_not_quote_what_it_fails_on(warehouse, load_files, tmp_path):
    select = SELECT.replace("1 as quantity", "cast(note as integer) as quantity")
    shop = source(tmp_path / "shop", select=select, columns=THREE | {"note": "text"})
    path = csv_of(
        tmp_path / "a.csv", "ann,2024-01-01,5,O'Brien of Cork", header="who,when,much,note"
    )
    with pytest.raises(TierhouseError, match=r"order_lines\.sql fails") as error:
        load_files(shop, path)
    assert "Brien" not in str(error.value)


def test_a_name_is_let_into_no_other_column(warehouse, load_files, tmp_path):
    select = SELECT.replace("source_row from", "name as channel, source_row from")
    shop = source(tmp_path / "shop", select=select, columns=THREE | {"name": "personal"})
    path = csv_of(tmp_path / "a.csv", "ann,2024-01-01,5,Ann", header="who,when,much,name")
    with pytest.raises(TierhouseError, match="gives channel what it may not be"):
        load_files(shop, path)


def test_a_refused_file_that_is_mended_leaves_nothing_in_quarantine(
    warehouse, load_files, tmp_path
):
    shop = source(tmp_path / "shop")
    with pytest.raises(Refused):
        load_files(shop, csv_of(tmp_path / "a.csv", "ann,2024-01-01,free"))
    assert ask(warehouse, "select count(*) from quarantine.rows") == [(1,)]
    load_files(shop, csv_of(tmp_path / "a.csv", "ann,2024-01-01,5"))
    assert ask(warehouse, "select count(*) from quarantine.rows") == [(0,)]


def test_no_delivery_is_of_a_day_to_come(tierhouse, settings, urls, tmp_path):
    source(tmp_path / "shop")
    path = csv_of(tmp_path / "a.csv", "ann,2024-01-01,5")
    for day in (date(2206, 11, 5), date(9999, 12, 31)):
        ended = tierhouse(
            "load", str(tmp_path / "shop"), str(path), "--day", day.isoformat(),
            TIERHOUSE_HOME=str(settings.home), TIERHOUSE_WAREHOUSE_URL=urls.warehouse,
        )  # fmt: skip
        assert ended.returncode == 2
        assert "still to come" in ended.stderr
