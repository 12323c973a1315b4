"""Open a shop's files as DuckDB relations, in the shape that the source declares, or refuse them.

A file becomes the relation `rows_<file_id>`: the declared columns under the headers of the file,
and `tierhouse_sheet` and `tierhouse_row`. Text files are read as text, so that no value changes on
the way: types are the mapping's.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv

from warehouse.settings import Refused
from warehouse.source import FileColumn, Source, TableMapping

NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
           "UINTEGER", "UBIGINT", "UHUGEINT")  # fmt: skip
DECIMALS = ("FLOAT", "DOUBLE", "DECIMAL")
TIMES = ("TIMESTAMP", "DATE")
# Which types of a typed file a declared type takes.
TAKES: Mapping[str, tuple[str, ...]] = {
    "text": ("VARCHAR", "UUID", "ENUM", *NUMBERS),
    "personal": ("VARCHAR", *NUMBERS),
    "customer": ("VARCHAR", "UUID", *NUMBERS, *DECIMALS),
    "number": (*NUMBERS, *DECIMALS),
    "time": TIMES,
    "date": TIMES,
}
ALWAYS = ("tierhouse_sheet", "tierhouse_row")
RUNS_ON = -1  # the fields of a malformed row that holds other rows


@dataclass(frozen=True)
class DataFile:
    """One file of a delivery. `file_id` is its number in ops.files."""

    path: Path
    hash: str
    file_id: int


@dataclass
class Rows:
    """What a file holds: header -> DuckDB type, and how many rows.

    `repeated`: headers that stand more than once. `malformed`: the numbers of the rows with too few
    or too many fields, and how many they have.
    """

    file: DataFile
    columns: Mapping[str, str]
    repeated: frozenset[str] = frozenset()
    count: int = 0
    malformed: dict[int, int] = field(default_factory=dict)

    @property
    def relation(self) -> str:
        """The name of the relation in DuckDB."""
        return f"rows_{self.file.file_id}"

    def header(self, column: FileColumn) -> str | None:
        """The file's own spelling of a declared column, or None where the file lacks it."""
        spelled = {name.casefold().strip(): name for name in self.columns}
        return next(
            (spelled[h.casefold()] for h in column.headers if h.casefold() in spelled), None
        )


def open_file(duck: duckdb.DuckDBPyConnection, source: Source, file: DataFile) -> Rows:
    """Make the relation of a file. `source` holds only the tables that are read from it.

    Raises Refused: the file is not what its name says, is empty, lacks a column, or has one of
    another type.
    """
    mapping = next(iter(source.tables.values()))
    kind = file.path.suffix.lower()
    try:
        if kind == ".parquet":
            rows = _open_parquet(duck, source, file)
        elif kind == ".xlsx":
            rows = _open_workbook(duck, source, file)
        else:
            rows = _open_csv(duck, source, mapping, file)
    except (duckdb.Error, csv.Error, pa.ArrowInvalid, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise Refused(
            f"{file.path} cannot be read as {kind.lstrip('.') or 'a data file'}: {said} Nothing "
            f"was loaded. Check that the file is whole and is what its name says."
        ) from None
    if rows.count == 0 and not all(wanted.may_be_empty for wanted in source.tables.values()):
        raise Refused(
            f"{file.path} has a header and no rows. Nothing was loaded. Deliver the file with its "
            f"rows, or say `may_be_empty: true` in {source.folder / 'source.yml'}."
        )
    return rows


def _refuse_other_shape(source: Source, rows: Rows) -> None:
    for table, mapping in source.tables.items():
        _refuse_other_columns(source, table, mapping, rows)


def _refuse_other_columns(source: Source, table: str, mapping: TableMapping, rows: Rows) -> None:
    wrong = []
    for column in mapping.columns.values():
        header = rows.header(column)
        if header is None:
            if not column.optional:
                wrong.append(f"it lacks the column {' or '.join(column.headers)} ({column.type})")
            continue
        if header in rows.repeated:
            wrong.append(f"its column {header} is there more than once")
        found = rows.columns[header]
        text_is_fine = column.type in ("time", "date") and column.format is not None
        is_text_file = rows.file.path.suffix.lower() != ".parquet"
        taken = ("VARCHAR",) if is_text_file or text_is_fine else TAKES[column.type]
        if not found.startswith(taken) or found.endswith("[]"):
            wrong.append(f"its column {header} is {found}, not a {column.type}")
    if wrong:
        names = "Found: " + ", ".join(repr(name) for name in rows.columns)
        hint = ""
        if all(rows.header(column) is None for column in mapping.columns.values()):
            # It may be a row of data, with a name in it.
            names = f"Its first line has {len(rows.columns)} fields, and none is such a header"
        if not is_delimited(rows, mapping):
            hint = (
                f" Fields are expected to be separated by {mapping.delimiter!r} (`delimiter` in "
                f"source.yml)."
            )
        raise Refused(
            f"{rows.file.path} is not as the source {source.name!r} reads it for {table}: "
            f"{'; '.join(wrong[:5])}. {names}.{hint} Nothing was loaded. Check that this "
            f"is the right file, or correct {source.folder / 'source.yml'}."
        )


def is_delimited(rows: Rows, mapping: TableMapping) -> bool:
    """Whether a text file's header was cut into columns where more than one was expected."""
    return len(rows.columns) > 1 or len(mapping.columns) == 1


def unused_columns(rows: Rows, mappings: Sequence[TableMapping]) -> list[str]:
    """The file's columns that no table reads."""
    used = {rows.header(column) for mapping in mappings for column in mapping.columns.values()}
    return [name for name in rows.columns if name not in used]


def _used(source: Source, rows: Rows) -> list[str]:
    """The headers of the file that some table reads, each once."""
    headers = (
        rows.header(column)
        for mapping in source.tables.values()
        for column in mapping.columns.values()
    )
    return [header for header in dict.fromkeys(headers) if header is not None]


def _open_parquet(duck: duckdb.DuckDBPyConnection, source: Source, file: DataFile) -> Rows:
    location = "'" + str(file.path).replace("'", "''") + "'"
    described = duck.execute(f"describe select * from read_parquet({location})").fetchall()
    rows = Rows(file, {name: kind for name, kind, *_ in described})
    _refuse_other_shape(source, rows)
    used = "".join('"' + name.replace('"', '""') + '", ' for name in _used(source, rows))
    duck.execute(
        f"create view {rows.relation} as select {used}1 as tierhouse_sheet, "
        f"file_row_number + 1 as tierhouse_row "
        f"from read_parquet({location}, file_row_number = true)"
    )
    _count(duck, rows)
    return rows


def _open_csv(
    duck: duckdb.DuckDBPyConnection, source: Source, mapping: TableMapping, file: DataFile
) -> Rows:
    with file.path.open("rb") as content:
        start = content.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") and not mapping.encoding.startswith("utf-16"):
            raise ValueError(
                f"it is encoded in UTF-16, {mapping.encoding} was expected (`encoding` in "
                f"source.yml)."
            )
        if not start:
            raise ValueError("it is empty.")
        content.seek(0)
        names = _header(content, mapping)
        rows = Rows(file, dict.fromkeys(_each_once(names), "VARCHAR"), _repeated(names))
        _refuse_other_shape(source, rows)
        content.seek(0)
        if mapping.delimiter == " ":
            _split_at_spaces(duck, mapping, rows, content)
        elif is_delimited(rows, mapping):
            batches = _csv_batches(
                content, mapping, list(rows.columns), _used(source, rows), rows.malformed
            )
            _create(duck, rows, batches)
            _refuse_open_quote(content, mapping)
            for number, fields in rows.malformed.items():
                if fields == RUNS_ON:
                    raise ValueError(
                        f"its row {number} holds the rows that follow it: a quote is not closed, "
                        f"or not doubled."
                    )
    return rows


def _refuse_open_quote(content: BinaryIO, mapping: TableMapping) -> None:
    """A quote that is never closed takes all that follows into one field, which may be no error."""
    content.seek(0)
    quotes = sum(block.count(b'"') for block in iter(partial(content.read, 1 << 20), b""))
    if quotes % 2 == 0:
        return
    content.seek(0)
    text = io.TextIOWrapper(content, mapping.encoding, errors="replace", newline="")
    reader = csv.reader(text, delimiter=mapping.delimiter, strict=True)
    line = 0
    try:
        for _ in reader:
            line = reader.line_num
    except csv.Error:
        raise ValueError(
            f"a quote that opens in line {line + 1} is not closed, and takes what follows with it."
        ) from None
    finally:
        text.detach()


def _split_at_spaces(
    duck: duckdb.DuckDBPyConnection, mapping: TableMapping, rows: Rows, content: BinaryIO
) -> None:
    """Columns set apart by one or more spaces: read as lines, then split."""
    lines = mapping.model_copy(update={"delimiter": "\x1f"})
    duck.register("incoming", _csv_batches(content, lines, ["line"], ["line"], {}))
    duck.execute(
        f"create table {rows.relation}_split as select "
        "string_split_regex(trim(line), ' +') as fields, tierhouse_sheet, tierhouse_row "
        "from incoming"
    )
    duck.unregister("incoming")
    width = len(rows.columns)
    rows.malformed |= duck.execute(
        f"select tierhouse_row, len(fields) from {rows.relation}_split where len(fields) <> {width}"
    ).fetchall()
    named = ", ".join(
        f'fields[{place}] as "{name}"' for place, name in enumerate(rows.columns, start=1)
    )
    duck.execute(
        f"create table {rows.relation} as select {named}, {', '.join(ALWAYS)} "
        f"from {rows.relation}_split where len(fields) = {width}"
    )
    _count(duck, rows)


def _header(content: BinaryIO, mapping: TableMapping) -> list[str]:
    reader = io.TextIOWrapper(content, mapping.encoding, errors="replace", newline="")
    names = next(csv.reader(reader, delimiter=mapping.delimiter, strict=True), [])
    reader.detach()
    names = [name.removeprefix("\ufeff") for name in names]
    if mapping.delimiter == " ":
        names = " ".join(names).split()
    return names


def _repeated(names: Sequence[str]) -> frozenset[str]:
    return frozenset(name for name, times in Counter(names).items() if times > 1)


def _each_once(names: Sequence[str]) -> Iterator[str]:
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"


def _csv_batches(
    content: BinaryIO,
    mapping: TableMapping,
    columns: Sequence[str],
    used: Sequence[str],
    malformed: dict[int, int],
) -> pa.RecordBatchReader:
    """The rows as text. Bytes that are no text in the encoding become U+FFFD, which the checks
    find; rows with another number of fields are left out and noted in `malformed`."""

    def note(row: pyarrow.csv.InvalidRow) -> str:
        # Two quotes that are not closed take the rows between them into one: it has their fields.
        text = row.text or ""
        runs_on = text.count(mapping.delimiter) >= 2 * (row.expected_columns - 1) and "\n" in text
        malformed[row.number] = RUNS_ON if runs_on else row.actual_columns
        return "skip"

    readable = codecs.EncodedFile(content, "utf-8", mapping.encoding, errors="replace")
    reader = pyarrow.csv.open_csv(
        pa.PythonFile(readable, mode="r"),
        # One thread: only then does a malformed row know its number.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False,
            column_names=list(columns),
            skip_rows_after_names=1,
            block_size=4 << 20,
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=mapping.delimiter,
            newlines_in_values=True,
            invalid_row_handler=note,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(used),
            check_utf8=False,
        ),
    )
    schema = pa.schema(
        [
            *reader.schema,
            pa.field("tierhouse_sheet", pa.int32()),
            pa.field("tierhouse_row", pa.int64()),
        ]
    )

    def numbered() -> Iterator[pa.RecordBatch]:
        last = 1  # the header
        for batch in reader:
            bad = np.array([number for number in malformed if number > last], dtype="int64")
            numbers = np.arange(last + 1, last + 1 + batch.num_rows + len(bad))
            numbers = np.setdiff1d(numbers, bad)[: batch.num_rows]
            if len(numbers):
                last = int(numbers[-1])
            sheet = pa.array(np.ones(len(numbers), "int32"))
            yield pa.record_batch([*batch.columns, sheet, pa.array(numbers)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, numbered())


def _open_workbook(duck: duckdb.DuckDBPyConnection, source: Source, file: DataFile) -> Rows:
    """All sheets below each other, as text."""
    from python_calamine import CalamineError, CalamineWorkbook

    def cells() -> Iterator[pa.Table]:
        first_row = 2
        workbook = CalamineWorkbook.from_path(file.path)
        for number, sheet in enumerate(workbook.sheet_names, start=1):
            values = workbook.get_sheet_by_name(sheet).to_python()
            if not values:
                continue
            header, *body = values
            columns = [
                pa.array([_text(row[place]) for row in body], pa.string())
                for place in range(len(header))
            ]
            numbers = pa.array(range(first_row, first_row + len(body)), pa.int64())
            first_row += len(body)
            headers.append([str(name) for name in header])
            if headers[-1] != headers[0]:
                raise ValueError(f"its sheet {number} has other columns than its first.")
            yield pa.table(
                [*columns, pa.array([number] * len(body), pa.int32()), numbers],
                names=[*_each_once(headers[0]), *ALWAYS],
            )

    headers: list[list[str]] = []
    try:
        table = pa.concat_tables(cells())
    except (CalamineError, pa.ArrowInvalid) as error:
        raise ValueError(str(error)) from None
    names = [name for name in table.column_names if name not in ALWAYS]
    rows = Rows(file, dict.fromkeys(names, "VARCHAR"), _repeated(headers[0]))
    _refuse_other_shape(source, rows)
    _create(duck, rows, table.to_reader())
    return rows


def _create(duck: duckdb.DuckDBPyConnection, rows: Rows, batches: pa.RecordBatchReader) -> None:
    duck.register("incoming", batches)
    duck.execute(f"create table {rows.relation} as select * from incoming")
    duck.unregister("incoming")
    _count(duck, rows)


def _count(duck: duckdb.DuckDBPyConnection, rows: Rows) -> None:
    counted = duck.execute(f"select count(*) from {rows.relation}").fetchall()
    rows.count = counted[0][0] + len(rows.malformed)


def _text(cell: object) -> str | None:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # a workbook has no whole numbers: 489434 is 489434.0
    return None if cell is None or cell == "" else str(cell)
