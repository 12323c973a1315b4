"""Land a shop's files in `raw`, exactly once, and account for every row.

A source is a folder: `source.yml` (files, the columns they must have, currency) and one DuckDB
SELECT per canonical table, which maps the view `file` to the shop contract.
"""

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml
from adbc_driver_postgresql import dbapi

from warehouse.connections import connect_bulk
from warehouse.settings import PROJECT, TierhouseError, WrongUsage

BUILT_IN = PROJECT / "warehouse" / "sources"
LARGEST_ARROW_BATCH = 200_000

# The shop contract: column -> (DuckDB type, required). Keys first.
CONTRACT: Mapping[str, Mapping[str, tuple[str, bool]]] = {
    "order_lines": {
        "order_id": ("varchar", True),
        "line_number": ("integer", True),
        "customer_id": ("varchar", True),
        "ordered_at": ("timestamp", True),
        "product_id": ("varchar", False),
        "quantity": ("decimal(14, 3)", True),
        "unit_price": ("decimal(18, 6)", True),
        "discount_amount": ("decimal(18, 6)", True),
        "channel": ("varchar", False),
    },
    "products": {
        "product_id": ("varchar", True),
        "product_name": ("varchar", False),
        "category": ("varchar", False),
        "subcategory": ("varchar", False),
        "brand": ("varchar", False),
        "unit_cost": ("decimal(14, 4)", False),
    },
}
KEYS = {"order_lines": ("order_id", "line_number"), "products": ("product_id",)}
# Where a key that comes again with other content is harmless (a product's new name).
FIRST_STANDS = frozenset({"products"})


@dataclass(frozen=True)
class Source:
    """A shop's mapping: `tables` maps a canonical table to its files and required columns."""

    name: str
    folder: Path
    currency: str
    tables: Mapping[str, Mapping[str, Any]]
    package: str | None = None
    package_folder: str = ""


@dataclass(frozen=True)
class Loaded:
    """Where the rows of one file went, for one table. rows_read is the sum of the others.

    duplicate: repeats of another row's key and content (of a product's key), and rows that the
    mapping itself merged or left out.
    """

    table: str
    file: str
    rows_read: int
    accepted: int
    duplicate: int
    anonymous: int
    quarantined: int
    already_loaded: bool = False


def read_source(name: str) -> Source:
    """A built-in source by name, or a user's by the path of its folder.

    Raises WrongUsage: there is no such source. TierhouseError: its source.yml lacks something.
    """
    folder = BUILT_IN / name if (BUILT_IN / name).is_dir() else Path(name)
    try:
        text = (folder / "source.yml").read_text()
    except (FileNotFoundError, NotADirectoryError):
        names = ", ".join(sorted(path.name for path in BUILT_IN.iterdir()))
        raise WrongUsage(
            f"There is no source {name!r}. Built in are {names}; a source of your own is a "
            f"folder with a source.yml."
        ) from None
    try:
        settings = yaml.safe_load(text)
        return Source(
            name=folder.resolve().name,
            folder=folder,
            currency=settings["currency"],
            tables={table: settings["tables"][table] for table in settings["tables"]},
            package=settings.get("package"),
            package_folder=settings.get("folder", ""),
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise TierhouseError(
            f"{folder / 'source.yml'} cannot be used: {error}. It needs `currency` and "
            f"`tables`; the built-in sources in {BUILT_IN} are examples."
        ) from None


def load(
    url: str, source: Source, path: Path | None, progress: Callable[[str], None] = lambda _: None
) -> list[Loaded]:
    """Load the files of `path` (or of the source's package) in one transaction.

    A file whose content was loaded before is left out. Returns one entry per file and table.
    Raises WrongUsage: a path that is not there or holds none of the source's files.
    TierhouseError: a missing column, rows that cannot be mapped, order lines whose key stands
    with other content. Then nothing is written.
    """
    where = path if path is not None else _package_folder(source)
    if not where.exists():
        raise WrongUsage(
            f"There is nothing at {where}. Give `tierhouse load {source.name}` the file or the "
            f"folder that holds the shop's files."
        )
    tables: dict[Path, list[str]] = {}
    for table in source.tables:
        for file in _find(source, table, where):
            tables.setdefault(file, []).append(table)
    report: list[Loaded] = []
    with connect_bulk(url) as warehouse, warehouse.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('load', 0))")
        cursor.fetchall()
        _refuse_other_shop(cursor, source)
        for file, names in tables.items():
            report += _load_file(cursor, source, names, file, progress)
    return report


def _load_file(
    cursor: dbapi.Cursor,
    source: Source,
    tables: Sequence[str],
    file: Path,
    progress: Callable[[str], None],
) -> list[Loaded]:
    with file.open("rb") as content:
        file_hash = file_digest(content, "sha256").hexdigest()
    report = {table: _loaded_before(cursor, source, table, file, file_hash) for table in tables}
    new = [table for table in tables if report[table] is None]
    if new:
        with duckdb.connect() as duck:
            duck.execute("set timezone = 'UTC'; set preserve_insertion_order = true")
            rows_read = _open_file(duck, file)
            for table in new:
                progress(f"{file.name} -> raw.{table}")
                report[table] = _load_table(cursor, duck, source, table, file, file_hash, rows_read)
    return [loaded for loaded in report.values() if loaded is not None]


def _loaded_before(
    cursor: dbapi.Cursor, source: Source, table: str, file: Path, file_hash: str
) -> Loaded | None:
    cursor.execute(
        "select rows_read, rows_accepted, rows_duplicate, rows_anonymous, rows_quarantined "
        "from ops.load_ledger where source = $1 and file_hash = $2 and table_name = $3",
        (source.name, file_hash, table),
    )
    before = cursor.fetchall()
    return Loaded(table, file.name, *before[0], already_loaded=True) if before else None


def _load_table(
    cursor: dbapi.Cursor,
    duck: duckdb.DuckDBPyConnection,
    source: Source,
    table: str,
    file: Path,
    file_hash: str,
    rows_read: int,
) -> Loaded:
    """Every count is taken where its rows go; the ledger's constraint holds them to rows_read."""
    _pick_columns(duck, source, table, file)
    mapped, anonymous = _map(duck, source, table, file)
    repeated = _repeated_within(duck, table, file)
    columns = [*CONTRACT[table], "source_row"]
    # In key order: the primary key's index fills twice as fast as in file order.
    batches = duck.sql(
        f"select {', '.join(columns)} from landing order by {', '.join(KEYS[table])}"
    ).to_arrow_reader(LARGEST_ARROW_BATCH)
    landed = f"incoming_{table}"
    cursor.execute(f"drop table if exists pg_temp.{landed}")
    cursor.adbc_ingest(landed, batches, mode="create", temporary=True)
    repeated += _repeated_since(cursor, source, table, file, landed)

    constants = {"source": source.name, "file_hash": file_hash}
    if table == "order_lines":
        constants["currency"] = source.currency
    names = ", ".join([*columns, *constants])
    values = ", ".join([*columns, *(f"${n}" for n in range(1, len(constants) + 1))])
    cursor.execute(
        f"insert into raw.{table} ({names}) select {values} from pg_temp.{landed} "
        f"on conflict (source, {', '.join(KEYS[table])}) do nothing",
        tuple(constants.values()),
    )
    cursor.execute(
        f"select count(*) from raw.{table} where source = $1 and file_hash = $2",
        (source.name, file_hash),
    )
    accepted = cursor.fetchall()[0][0]
    merged = rows_read - mapped
    loaded = Loaded(table, file.name, rows_read, accepted, repeated + merged, anonymous, 0)
    cursor.execute(
        "insert into ops.load_ledger (source, file_hash, table_name, file_name, rows_read, "
        "rows_accepted, rows_duplicate, rows_anonymous, rows_quarantined) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        (source.name, file_hash, table, file.name, loaded.rows_read, loaded.accepted,
         loaded.duplicate, loaded.anonymous, loaded.quarantined),
    )  # fmt: skip
    return loaded


def _repeated_within(duck: duckdb.DuckDBPyConnection, table: str, file: Path) -> int:
    """Make the view `landing`, one row per key, and count the rows it leaves out."""
    keys = ", ".join(KEYS[table])
    duck.execute(
        "create or replace view named as select * exclude (is_anonymous) from mapped "
        "where not is_anonymous"
    )
    repeated = _one(
        duck,
        "select cast(coalesce(sum(copies - 1), 0) as bigint) from "
        f"(select count(*) as copies from named group by {keys} having copies > 1)",
    )
    first = f"distinct on ({keys}) * from named order by {keys}, source_row"
    duck.execute(
        f"create or replace view landing as select {first if repeated else '* from named'}"
    )
    if repeated and table not in FIRST_STANDS:
        found = duck.execute(
            f"select count(*), min(first_row), arg_min(({keys}), first_row) from "
            f"(select {keys}, min(source_row) as first_row from named group by {keys} "
            f"having count(distinct ({', '.join(CONTRACT[table])})) > 1)"
        ).fetchall()[0]
        _refuse_other_content(table, file, "more than once in this file", *found)
    return repeated


def _repeated_since(
    cursor: dbapi.Cursor, source: Source, table: str, file: Path, landed: str
) -> int:
    """Count the incoming rows whose key came with an earlier file."""
    cursor.execute(f"select 1 from raw.{table} where source = $1 limit 1", (source.name,))
    if not cursor.fetchall():
        return 0
    keys = KEYS[table]
    incoming, earlier = (
        ", ".join(f"{side}.{column}" for column in CONTRACT[table])
        for side in ("incoming", "earlier")
    )
    same_key = " and ".join(f"incoming.{key} = earlier.{key}" for key in keys)
    same_keys = (
        f"from pg_temp.{landed} as incoming inner join raw.{table} as earlier "
        f"on {same_key} and earlier.source = $1"
    )
    differs = f"({incoming}) is distinct from ({earlier})"
    cursor.execute(
        f"select count(*), count(*) filter (where {differs}) {same_keys}", (source.name,)
    )
    repeated, other = cursor.fetchall()[0]
    if other and table not in FIRST_STANDS:
        cursor.execute(
            f"select incoming.source_row, {', '.join(f'incoming.{key}' for key in keys)} "
            f"{same_keys} where {differs} order by incoming.source_row limit 1",
            (source.name,),
        )
        row, *key = cursor.fetchall()[0]
        _refuse_other_content(table, file, "in a file loaded before", other, row, key)
    return repeated


def _refuse_other_content(
    table: str, file: Path, where: str, rows: int, row: int, key: Sequence[Any]
) -> None:
    if rows == 0:
        return
    named = ", ".join(f"{column} {value}" for column, value in zip(KEYS[table], key, strict=True))
    raise TierhouseError(
        f"{file}: {rows} {table} stand {where} with other content, first row {row} with {named}. "
        f"Nothing was loaded. Corrections and invoices split over files are not loaded yet: "
        f"deliver an invoice whole, in one file, or load the corrected shop into a "
        f"TIERHOUSE_HOME of its own."
    )


def _open_file(duck: duckdb.DuckDBPyConnection, file: Path) -> int:
    """Make the table `rows` as the file has them, and count them."""
    kind = file.suffix.lower()
    location = "'" + str(file).replace("'", "''") + "'"
    try:
        if kind == ".xlsx":
            duck.register("workbook", _read_workbook(file))
            rows = "select * from workbook"
        elif kind == ".parquet":
            rows = (
                "select *, 1 as sheet, file_row_number + 1 as source_row "
                f"from read_parquet({location}, file_row_number = true)"
            )
        else:
            rows = (
                "select *, 1 as sheet, row_number() over () + 1 as source_row "
                f"from read_csv({location}, header = true, sample_size = -1)"
            )
        duck.execute(f"create table rows as {rows}")
    except (duckdb.Error, OSError, ValueError) as error:
        raise TierhouseError(
            f"{file} cannot be read as {kind.lstrip('.') or 'a data file'}: "
            f"{str(error).splitlines()[0][:300]} Nothing was loaded. Check that the file is "
            f"whole and is what its name says."
        ) from None
    return _one(duck, "select count(*) from rows")


def _pick_columns(duck: duckdb.DuckDBPyConnection, source: Source, table: str, file: Path) -> None:
    """Make the view `file` with the columns the source names."""
    found = [name for (name, *_) in duck.execute("describe rows").fetchall()]
    by_header = {name.casefold().strip(): name for name in found}
    picked, missing = [], []
    for column, headers in source.tables[table]["columns"].items():
        header = next((by_header[h.casefold()] for h in headers if h.casefold() in by_header), None)
        if header is None:
            missing.append(" or ".join(headers))
        else:
            picked.append(f'"{header}" as {column}')
    if missing:
        headers = ", ".join(name for name in found if name not in ("sheet", "source_row"))
        raise TierhouseError(
            f"{file} lacks the column {', '.join(missing)} that the source {source.name!r} reads "
            f"for {table}; it has {headers}. Nothing was loaded. Check that this is the right "
            f"file, or map its columns in a source of your own."
        )
    duck.execute(
        f"create or replace view file as select {', '.join(picked)}, sheet, source_row from rows"
    )


def _map(
    duck: duckdb.DuckDBPyConnection, source: Source, table: str, file: Path
) -> tuple[int, int]:
    """Make the view `mapped` in the contract's types, or refuse rows that do not fit them.

    Returns how many rows it has, and how many of them are anonymous.
    """
    select = (source.folder / f"{table}.sql").read_text()
    columns = CONTRACT[table]
    typed = ", ".join(f"{_cast(name, kind)} as {name}" for name, (kind, _) in columns.items())
    anonymous = "customer_id is null" if "customer_id" in columns else "false"
    try:
        duck.execute(f"create or replace table draft as {select}")
        duck.execute(f"create or replace table typed as select {typed}, source_row from draft")
    except duckdb.Error as error:
        raise TierhouseError(
            f"{source.folder / table}.sql fails on {file}: {str(error).splitlines()[0][:300]} "
            f"Nothing was loaded. Correct the mapping, or check that this is the right file."
        ) from None
    duck.execute(
        f"create or replace view mapped as select *, {anonymous} as is_anonymous from typed"
    )
    for name, (kind, required) in columns.items():
        lost = f"mapped.{name} is null and draft.{name} is not null"
        absent = f"or mapped.{name} is null and not is_anonymous" if required else ""
        bad = duck.execute(
            f"select count(*), min(source_row), arg_min(cast(draft.{name} as varchar), source_row) "
            f"from mapped positional join (select {name} from draft) as draft "
            f"where ({lost}) {absent}"
        ).fetchall()[0]
        if bad[0]:
            raise TierhouseError(
                f"{file}: {bad[0]} rows have no usable {name} ({kind}), first row {bad[1]} with "
                f"{bad[2]!r}. Nothing was loaded. Correct the file, or the mapping in "
                f"{source.folder / table}.sql."
            )
    return duck.execute("select count(*), count_if(is_anonymous) from mapped").fetchall()[0]


def _cast(name: str, kind: str) -> str:
    cast = f"try_cast({name} as {kind})"
    return f"nullif(trim({cast}), '')" if kind == "varchar" else cast


def _read_workbook(file: Path) -> pa.Table:
    """All sheets of a workbook below each other, with the number of the sheet and of the row."""
    from python_calamine import CalamineError, CalamineWorkbook

    def cells() -> Iterator[pa.Table]:
        first_row = 2
        workbook = CalamineWorkbook.from_path(file)
        for number, sheet in enumerate(workbook.sheet_names, start=1):
            rows = workbook.get_sheet_by_name(sheet).to_python()
            if not rows:
                continue
            header, *body = rows
            columns = [
                pa.array([_text(row[place]) for row in body], pa.string())
                for place in range(len(header))
            ]
            numbers = pa.array(range(first_row, first_row + len(body)), pa.int64())
            first_row += len(body)
            yield pa.table(
                [*columns, pa.array([number] * len(body), pa.int32()), numbers],
                names=[*(str(name) for name in header), "sheet", "source_row"],
            )

    try:
        return pa.concat_tables(cells())
    except (CalamineError, pa.ArrowInvalid) as error:
        raise ValueError(str(error)) from None


def _text(cell: object) -> str | None:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # a workbook has no whole numbers: 489434 is 489434.0
    return None if cell is None or cell == "" else str(cell)


def _find(source: Source, table: str, where: Path) -> Sequence[Path]:
    patterns = source.tables[table]["files"]
    if where.is_file():
        if not any(where.match(pattern) for pattern in patterns):
            raise WrongUsage(
                f"{where} is none of {', '.join(patterns)}, which the source {source.name!r} reads."
            )
        return [where]
    files = sorted({file for pattern in patterns for file in where.glob(pattern)})
    if not files:
        raise WrongUsage(
            f"{where} holds no {' or '.join(patterns)}, which the source {source.name!r} reads "
            f"for {table}. Give the folder that holds the shop's files."
        )
    return files


def _package_folder(source: Source) -> Path:
    if source.package is None:
        raise WrongUsage(f"Say where the files are: `tierhouse load {source.name} PATH`.")
    package = importlib.util.find_spec(source.package)
    if package is None or package.origin is None:
        raise TierhouseError(
            f"The data of {source.name!r} comes with the package {source.package}, which is not "
            f"installed. Run `make install`, which installs the extra `demo`, or give a path."
        )
    return Path(package.origin).parent / source.package_folder


def _refuse_other_shop(cursor: dbapi.Cursor, source: Source) -> None:
    cursor.execute("select min(source) from ops.load_ledger where source <> $1", (source.name,))
    other = cursor.fetchall()[0][0]
    if other is not None:
        raise TierhouseError(
            f"This warehouse holds the shop {other!r}. Customers and currencies of two shops do "
            f"not mix: set TIERHOUSE_HOME to a directory for {source.name!r} and load it there."
        )


def _one(duck: duckdb.DuckDBPyConnection, query: str) -> int:
    return duck.execute(query).fetchall()[0][0]
