"""A file of another shape is refused before anything is written; an odd but right one is read."""

import gzip
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shop_files

from warehouse.settings import Refused, TierhouseError
from warehouse.source import Source, read_source

NAMES = list(shop_files.COLUMNS["order_lines"])
LINES = shop_files.rows("order_lines", 12)
QUANTITY = NAMES.index("quantity")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Source:
    folder = tmp_path_factory.mktemp("sources") / "shop"
    return read_source(str(shop_files.canonical(folder, {})))


@pytest.fixture
def url(urls, source, tmp_path_factory) -> str:
    """A warehouse in which a good file stands."""
    shop_files.empty(urls.warehouse)
    good = shop_files.rows("order_lines", 30)[20:]
    before = tmp_path_factory.mktemp("before") / "order_lines.csv"
    shop_files.deliver(urls.warehouse, source, shop_files.write_csv(before, "order_lines", good))
    return urls.warehouse


def records(*changed: tuple[int, bytes]) -> list[bytes]:
    """The header and the lines; `changed` says which of them are other ones."""
    lines = [shop_files.header("order_lines")]
    lines += [shop_files.record(shop_files.fields(row)) for row in LINES]
    for place, line in changed:
        lines[place] = line
    return lines


def named(old: str, new: str) -> bytes:
    """The header with one other name."""
    return ",".join(new if name == old else name for name in NAMES).encode()


def lacking(column: str) -> list[bytes]:
    cells = [[name.encode() for name in NAMES], *(shop_files.fields(row) for row in LINES)]
    place = NAMES.index(column)
    return [shop_files.record(line[:place] + line[place + 1 :]) for line in cells]


def text(lines: list[bytes], end: bytes = b"\n") -> bytes:
    return b"".join(line + end for line in lines)


# What came instead of the file, and what the refusal must say: column, expected, found.
DRIFTED_CSV: dict[str, tuple[bytes, list[str]]] = {
    "a column missing": (text(lacking("quantity")), ["quantity", "number", "unit_price"]),
    "a key missing": (text(lacking("order_id")), ["order_id", "text", "line_number"]),
    "the customer missing": (text(lacking("customer_id")), ["customer_id", "customer", "order_id"]),
    "a column renamed": (
        text(records((0, named("quantity", "qty")))), ["quantity", "number", "qty"],
    ),
    "a column twice": (text(records((0, named("channel", "quantity")))), ["quantity", "once"]),
    "no header": (text(records()[1:]), ["order_id", "text"]),
    "a header of two equal names": (
        text(records((0, b",".join([b"x"] * 10)))), ["order_id", "10 fields"],
    ),
    "nothing": (b"", ["empty"]),
    "an empty line": (b"\n", []),
    "a header only": (text(records()[:1]), ["no rows"]),
    "another delimiter": (
        text([line.replace(b",", b";") for line in records()]), ["order_id", "','"],
    ),
    "tabs": (text([line.replace(b",", b"\t") for line in records()]), ["order_id", "','"]),
    "UTF-16": (text(records()).decode().encode("utf-16"), ["UTF-16|utf-16", "utf-8|UTF-8"]),
    "UTF-16 without its mark": (text(records()).decode().encode("utf-16-le"), []),
    "UTF-32": (text(records()).decode().encode("utf-32"), []),
    "compressed": (gzip.compress(text(records())), []),
    "Parquet in a CSV's name": (b"PAR1" + bytes(range(256)) * 9 + b"PAR1", []),
    "a page of a proxy": (b"<html><body>\n502 Bad Gateway\n</body></html>\n", ["order_id"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DRIFTED_CSV)
def test_a_csv_of_another_shape_is_refused_and_leaves_everything_as_it_was(
    url, source, tmp_path, kind
):
    drifted, said = DRIFTED_CSV[kind]
    file = tmp_path / "order_lines.csv"
    file.write_bytes(drifted)
    assert_refused_untouched(url, source, file, said)


def assert_refused_untouched(url: str, source: Source, file: Path, said: list[str]) -> None:
    before = shop_files.contents(url, "raw", "quarantine", "ops", "pii")
    assert before["raw.order_lines"]
    with pytest.raises(TierhouseError) as caught:
        shop_files.deliver(url, source, file)
    message = str(caught.value)
    for what in [str(file), *said]:
        assert any(option in message for option in what.split("|")), (what, message)
    assert "Nothing was loaded" in message
    assert shop_files.contents(url, "raw", "quarantine", "ops", "pii") == before


@pytest.mark.parametrize(
    ("column", "spoiled"), [("quantity", b"two"), ("ordered_at", b"monday"), ("unit_price", b"1,5")]
)
def test_a_csv_whose_column_holds_another_type_is_refused_naming_it(
    url, source, tmp_path, column, spoiled
):
    rows = [shop_files.record(shop_files.fields(row | {column: spoiled})) for row in LINES]
    file = shop_files.write_records(tmp_path / "order_lines.csv", [records()[0], *rows])
    before = shop_files.contents(url, "raw", "ops")
    with pytest.raises(Refused, match=column):
        shop_files.deliver(url, source, file)
    assert shop_files.contents(url, "raw", "ops") == before


@pytest.mark.parametrize("at", [1, 200, 400])
def test_a_quote_that_is_never_closed_swallows_no_rows(url, source, tmp_path, at):
    lines = [
        shop_files.record(shop_files.fields(row)) for row in shop_files.rows("order_lines", 400)
    ]
    place = lines[at - 1].rindex(b"web")
    lines[at - 1] = lines[at - 1][:place] + b'"' + lines[at - 1][place:]
    file = shop_files.write_records(tmp_path / "order_lines.csv", [records()[0], *lines])
    assert_refused_untouched(url, source, file, ["quote"])


def write_typed(path: Path, **types: pa.Array) -> Path:
    """The lines as Parquet, with other arrays for some columns."""
    shop_files.write_parquet(path, "order_lines", LINES)
    table = pq.read_table(path)
    for column, array in types.items():
        table = table.set_column(table.column_names.index(column), column, array)
    pq.write_table(table, path)
    return path


def many(value: Any, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array([value] * len(LINES), kind)


RETYPED = {
    "text for a number": ("quantity", many("2"), ["quantity", "number", "VARCHAR"]),
    "text for a time": ("ordered_at", many("2026-01-01"), ["ordered_at", "time", "VARCHAR"]),
    "a number for a time": ("ordered_at", many(1767225600), ["ordered_at", "time", "BIGINT"]),
    "a fraction for a text": ("order_id", many(7.5), ["order_id", "text", "DOUBLE"]),
    "a list for a text": ("channel", many(["web"]), ["channel", "text", "VARCHAR[]"]),
    "a list for a number": ("quantity", many([1.5]), ["quantity", "number", "DOUBLE[]"]),
    "a record for a text": ("product_id", many({"id": "p1"}), ["product_id", "STRUCT"]),
    "bytes for a text": ("order_id", many(b"o1"), ["order_id", "text", "BLOB"]),
    "truth for a number": ("quantity", many(True), ["quantity", "number", "BOOLEAN"]),
}


@pytest.mark.parametrize("kind", RETYPED)
def test_a_parquet_file_whose_column_has_another_type_is_refused(url, source, tmp_path, kind):
    column, array, said = RETYPED[kind]
    file = write_typed(tmp_path / "order_lines.parquet", **{column: array})
    assert_refused_untouched(url, source, file, said)


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "half of it": cut(0.5),
    "all but the last byte": lambda content: content[:-1],
    "the first four bytes": lambda content: content[:4],
    "nothing": lambda content: b"",
    "zeros in its middle": lambda content: content[:60] + bytes(200) + content[260:],
    "a CSV": lambda content: text(records()),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_parquet_file_is_refused(url, source, tmp_path, kind):
    file = write_typed(tmp_path / "order_lines.parquet")
    file.write_bytes(DAMAGED[kind](file.read_bytes()))
    assert_refused_untouched(url, source, file, [])


def test_a_parquet_file_without_a_column_is_refused(url, source, tmp_path):
    file = write_typed(tmp_path / "order_lines.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["quantity"]), file)
    assert_refused_untouched(url, source, file, ["quantity", "number", "unit_price"])


def test_a_parquet_file_without_rows_is_refused(url, source, tmp_path):
    file = write_typed(tmp_path / "order_lines.parquet")
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    assert_refused_untouched(url, source, file, ["no rows"])


def test_one_drifted_file_keeps_the_whole_delivery_out(url, source, tmp_path):
    shop_files.write_csv(
        tmp_path / "files" / "products.csv", "products", shop_files.rows("products", 9)
    )
    drifted = tmp_path / "files" / "order_lines.csv"
    drifted.write_bytes(text(lacking("unit_price")))
    before = shop_files.contents(url, "raw", "quarantine", "ops", "pii")
    with pytest.raises(TierhouseError, match="unit_price"):
        shop_files.deliver(url, source, drifted.parent)
    assert shop_files.contents(url, "raw", "quarantine", "ops", "pii") == before


def test_a_whole_file_in_another_encoding_is_refused(url, source, tmp_path):
    rows = [row | {"channel": "café".encode("latin-1")} for row in LINES]
    file = shop_files.write_csv(tmp_path / "order_lines.csv", "order_lines", rows)
    before = shop_files.contents(url, "raw", "ops")
    with pytest.raises(Refused, match="order_lines"):
        shop_files.deliver(url, source, file)
    assert shop_files.contents(url, "raw", "ops") == before


# Files that look odd and are right.
READ_RIGHT: dict[str, bytes] = {
    "a byte order mark": b"\xef\xbb\xbf" + text(records()),
    "carriage returns": text(records(), b"\r\n"),
    "carriage returns and a mark": b"\xef\xbb\xbf" + text(records(), b"\r\n"),
    "no line end at the end": text(records()).rstrip(b"\n"),
    "a header in capitals": text(records((0, shop_files.header("order_lines").upper()))),
    "a header with spaces": text(records((0, b" , ".join(name.encode() for name in NAMES)))),
    "every cell in quotes": text(
        [b",".join(b'"' + cell + b'"' for cell in line.split(b",")) for line in records()]
    ),
    "columns in another order": text(
        [b",".join(reversed(line.split(b","))) for line in records()]
    ),
    "a column more": text(
        [line + b"," + (b"note" if at == 0 else b"x") for at, line in enumerate(records())]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", READ_RIGHT)
def test_an_odd_file_is_read_to_the_last_value(urls, source, tmp_path, kind):
    shop_files.empty(urls.warehouse)
    file = tmp_path / "order_lines.csv"
    file.write_bytes(READ_RIGHT[kind])
    report = shop_files.deliver(urls.warehouse, source, file)
    assert shop_files.landed(urls.warehouse, "order_lines") == expected(LINES)
    assert bool(report.notices) == (kind == "a column more")


def expected(rows: list[shop_files.Row]) -> list[tuple]:
    return sorted(shop_files.expected("order_lines", row) for row in rows)


def test_a_column_that_nobody_reads_is_named_in_a_notice(urls, source, tmp_path):
    shop_files.empty(urls.warehouse)
    file = tmp_path / "order_lines.csv"
    file.write_bytes(READ_RIGHT["a column more"])
    (notice,) = shop_files.deliver(urls.warehouse, source, file).notices
    assert "note" in notice and "order_lines.csv" in notice


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_delimiters_quotes_and_newlines_inside_a_field_are_its_own(urls, source, tmp_path, end):
    shop_files.empty(urls.warehouse)
    odd = ["a,b", 'the "best" lamp', "two\nlines", 'all, "of\nit"', "'single'", "é ß 灯 🪔", "\\n"]
    given = [
        row | {"product_name": name, "category": None, "unit_cost": Decimal("1.25")}
        for name, row in zip(odd, shop_files.rows("products", len(odd)), strict=True)
    ]
    lines = [shop_files.record(shop_files.fields(row)) for row in given]
    file = tmp_path / "products.csv"
    shop_files.write_records(file, [shop_files.header("products"), *lines], end)
    shop_files.deliver(urls.warehouse, source, file)
    assert [row[:2] for row in shop_files.landed(urls.warehouse, "products")] == [
        (f"p{number}", name) for number, name in enumerate(odd)
    ]


def test_another_delimiter_and_encoding_are_read_where_they_are_declared(urls, tmp_path):
    shop_files.empty(urls.warehouse)
    declared = {"delimiter": ";", "encoding": "latin-1"}
    source = read_source(str(shop_files.canonical(tmp_path / "shop", {"order_lines": declared})))
    rows = [row | {"channel": "café; bar"} for row in LINES]
    lines = [
        shop_files.record(
            [cell.decode().encode("latin-1") for cell in shop_files.fields(row)], b";"
        )
        for row in rows
    ]
    file = tmp_path / "order_lines.csv"
    shop_files.write_records(file, [shop_files.header("order_lines", b";"), *lines])
    shop_files.deliver(urls.warehouse, source, file)
    assert shop_files.landed(urls.warehouse, "order_lines") == expected(rows)
