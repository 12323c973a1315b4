"""Rows of the shop's files, mapped to a table of the contract and checked one by one.

Every row of every file ends in one place. `rejected` takes those whose values do not fit the
types that source.yml declares: the mapping never sees them. `checked_<table>` holds what the
mapping made, with `outcome`: null for a row that may land, 'anonymous', 'duplicate', or the
reason for quarantine. What the mapping merged or left out is the rest.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import duckdb

from warehouse import pseudonyms
from warehouse.contract import EVENT_TYPES, TABLES, Table
from warehouse.reading import Rows
from warehouse.settings import Refused, TierhouseError
from warehouse.source import REFERENCES, FileColumn, Source

EARLIEST = "1990-01-01"
LONGEST = {"body": 100_000}  # bytes; 1,000 for other texts
LONGEST_KEY = 200
# Outcomes of rows that neither land nor are quarantined.
SET_ASIDE = ("anonymous", "duplicate", "superseded")
FILE_SHIFT = 40  # source_row in the view `file` is file_id << 40 | tierhouse_row
ROW_NUMBER = (1 << FILE_SHIFT) - 1
NUMBER = "decimal(18, 6)"
NO_OFFSET = "[0-9:. ][+-](1[6-9]|[2-9][0-9])(:?[0-9]{2})?[ ]*$"  # no place is 16 hours from UTC
CONTROL = r"\x00-\x08\x0B\x0C\x0E-\x1F\x7F"  # all but tab and line ends
REPLACED = r"\x{FFFD}"  # stands where bytes were no text
DUCKDB_TYPES = {
    "text": "varchar", "personal": "varchar", "customer": "uuid",
    "number": NUMBER, "time": "timestamp", "date": "date",
}  # fmt: skip


@contextmanager
def _readable(rows: Iterable[Rows]) -> Iterator[None]:
    """A typed file is read when its rows are asked for: only then does a damaged page show."""
    try:
        yield
    except duckdb.Error as error:
        names = ", ".join(dict.fromkeys(str(file.file.path) for file in rows))
        said = " ".join(str(error).split())[:200]
        raise Refused(
            f"{names[:400]} cannot be read to the end: {said} Nothing was loaded. Check that the "
            f"file is whole, or deliver it again."
        ) from None


@contextmanager
def workbench(scratch: Path, source: Source) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB that spills into `scratch`, in the source's time zone, with what mappings use."""
    with duckdb.connect() as duck:
        duck.execute("set preserve_insertion_order = false")  # rows have numbers
        # In memory, and past the limit in scratch: a database file costs twice the time.
        duck.execute(f"set temp_directory = {_literal(str(scratch))}; set memory_limit = '1GB'")
        # DuckDB 2.0 takes from a column's statistics that a cast loses nothing: NaN passes then.
        duck.execute("set disabled_optimizers = 'statistics_propagation'")
        duck.execute(f"set timezone = '{source.timezone}'")
        duck.execute(
            "create macro line_key(line) as "
            "cast(md5_number_lower(cast(line as varchar)) >> 1 as bigint)"
        )
        duck.execute(
            "create table rejected (table_name varchar, source_row bigint, reason varchar, "
            "column_name varchar)"
        )
        yield duck


def clear(duck: duckdb.DuckDBPyConnection) -> None:
    """Forget every file, so that the bench is as new."""
    for name, kind in duck.execute(
        "select view_name, 'view' from duckdb_views() where not internal union all "
        "select table_name, 'table' from duckdb_tables() where table_name <> 'rejected'"
    ).fetchall():
        duck.execute(f"drop {kind} {_quote(name)}")
    duck.execute("delete from rejected")


def identify(
    duck: duckdb.DuckDBPyConnection, source: Source, files: Mapping[str, Sequence[Rows]], key: bytes
) -> None:
    """Make the table `people`: every customer of the files, as written there, and the pseudonym.

    The pseudonym is HMAC-SHA-256 (RFC 2104) under `key`, cut to 128 bits. The type uuid tells it
    from the shop's own identifiers, so that no mapping can let one through by mistake.
    """
    found = {
        f"select cast({_quote(header)} as varchar) as written from {rows.relation}"
        for table, opened in files.items()
        for rows in opened
        for column in source.tables[table].columns.values()
        if column.type == "customer" and (header := rows.header(column)) is not None
    }
    union = " union all ".join(sorted(found)) or "select null::varchar as written"
    key = key if len(key) <= 64 else sha256(key).digest()
    inner, outer = (bytes(b ^ pad for b in key.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    # A step of its own, or the identifier of every row is made before the distinct are taken.
    with _readable(rows for opened in files.values() for rows in opened):
        duck.execute(f"create table written as select distinct written from ({union})")
    duck.execute(
        "create table people as select written, source_customer_id, "
        "cast(substr(sha256($outer::blob || unhex(sha256($inner::blob || "
        "encode(source_customer_id)))), 1, 32) as uuid) as pseudonym "
        f"from (select written, {pseudonyms.IDENTIFIER} as source_customer_id from written) "
        "where source_customer_id is not null",
        {"inner": inner, "outer": outer},
    )


def check(
    duck: duckdb.DuckDBPyConnection,
    source: Source,
    table: str,
    files: Sequence[Rows],
    delivered_at: datetime,
) -> None:
    """Make `checked_<table>` and fill `rejected`, for the rows of `files`.

    Tables are checked in the order of the contract; `known_<table>`, where there is one, has the
    keys that landed before.
    Raises TierhouseError: the SELECT does not run, lacks a column, or gives a row twice.
    """
    for rows in files:
        with _readable([rows]):
            _reject(duck, source, table, rows)
    columns = source.tables[table].columns
    typed = ", ".join(_declared(name, column) for name, column in columns.items())
    joined = " ".join(
        f"left join people as {_quote(f'{name} people')} "
        f"on {_quote(f'{name} people')}.written = taken.{_quote(name)}"
        for name, column in columns.items()
        if column.type == "customer"
    )
    union = " union all ".join(_taken(source, table, rows) for rows in files)
    duck.execute(
        f"create or replace view file as select {typed}, file_name, sheet, source_row "
        f"from ({union}) as taken {joined} where source_row not in "
        f"(select source_row from rejected where table_name = '{table}')"
    )
    _map(duck, source, table, delivered_at)
    _refuse_rows_out_of_nowhere(duck, source, table, files)
    for column in source.tables[table].references:
        _find_orphans(duck, table, column)
    _find_repeats(duck, source, table)


def outcomes(duck: duckdb.DuckDBPyConnection, table: str) -> dict[int, Counter[str | None]]:
    """file_id -> outcome -> rows, None for those that may land. What is merged is in none."""
    counted: dict[int, Counter[str | None]] = {}
    for file_id, outcome, rows in duck.execute(
        f"select source_row >> {FILE_SHIFT}, outcome, count(*) from "
        f"(select source_row, outcome from checked_{table} union all "
        f"select source_row, reason from rejected where table_name = '{table}') group by all"
    ).fetchall():
        counted.setdefault(file_id, Counter())[outcome] = rows
    return counted


def bad_rows(table: str) -> str:
    """The query for the rows that go to quarantine: source_row, reason, column_name."""
    return (
        f"select source_row, outcome as reason, outcome_column as column_name "
        f"from checked_{table} where outcome not in {SET_ASIDE} union all "
        f"select source_row, reason, column_name from rejected where table_name = '{table}'"
    )


def count_by_file(duck: duckdb.DuckDBPyConnection, query: str) -> list[tuple[int, int]]:
    """file_id and number of rows, of a query that gives source_row."""
    return duck.execute(
        f"select source_row >> {FILE_SHIFT}, count(*) from ({query}) group by all"
    ).fetchall()


def refused_rows(source: Source, table: str, rows: Rows) -> str:
    """The query for a file's rows that go to quarantine, with what the file says as JSON.

    Customers stand by their pseudonyms. Of files with personal columns nothing else is kept: in a
    row that is wrong, a name may stand anywhere.
    """
    columns = source.tables[table].columns
    is_personal = any(column.type == "personal" for column in columns.values())
    shown: dict[str, str] = {}
    joined = []
    for name, column in columns.items():
        header = rows.header(column)
        if header is None or (is_personal and column.type != "customer"):
            continue
        value = f"replace(cast(rows.{_quote(header)} as varchar), chr(0), '\u2400')"
        if column.type == "customer":
            joined.append(
                f"left join people as {_quote(f'{name} people')} on "
                f"{_quote(f'{name} people')}.written = cast(rows.{_quote(header)} as varchar)"
            )
            value = f"replace(cast({_quote(f'{name} people')}.pseudonym as varchar), '-', '')"
        shown[header] = f"{_quote(header)} := {value}"
    return (
        f"select bad.source_row & {ROW_NUMBER} as source_row, bad.reason, "
        f"bad.column_name, "
        f"cast(to_json(struct_pack({', '.join(shown.values())})) as varchar) as raw_row "
        f"from ({bad_rows(table)}) as bad "
        f"left join {rows.relation} as rows "
        f"on rows.tierhouse_row = bad.source_row & {ROW_NUMBER} {' '.join(joined)} "
        f"where bad.source_row >> {FILE_SHIFT} = {rows.file.file_id}"
    )


def _reject(duck: duckdb.DuckDBPyConnection, source: Source, table: str, rows: Rows) -> None:
    """Note the rows with a value that does not fit its declared type."""
    shift = rows.file.file_id << FILE_SHIFT
    if rows.malformed:
        duck.executemany(
            "insert into rejected values (?, ?, 'malformed_row', null)",
            [(table, shift | number) for number in rows.malformed],
        )
    problems: list[tuple[str, str, str]] = []  # SQL: condition, reason, column
    texts: dict[str, str] = {}
    for name, column in source.tables[table].columns.items():
        header = rows.header(column)
        if header is None:
            continue
        raw, found, said = _quote(header), rows.columns[header], _literal(name)
        value = _typed(header, found, column, source.timezone)
        if column.type == "number" and found != "VARCHAR":
            problems.append((f"{value} is null and {raw} is not null", "'impossible_number'", said))
        elif column.type == "number":
            problems.append(
                (
                    f"{value} is null and {_text(raw)} is not null",
                    f"if(try_cast({_text(raw)} as double) is null or contains({raw}, '_'), "
                    "'unparsable_number', 'impossible_number')",
                    said,
                )
            )
        elif column.type in ("time", "date") and found == "VARCHAR":
            problems.append(
                (f"{value} is null and {_text(raw)} is not null", "'unparsable_time'", said)
            )
        elif found == "VARCHAR":
            texts[said] = raw
    if texts:
        odd = f"regexp_matches(concat({', '.join(texts.values())}), '[{CONTROL}{REPLACED}]')"
        first = " ".join(
            f"when regexp_matches({raw}, '[{CONTROL}{REPLACED}]') then {said}"
            for said, raw in texts.items()
        )
        unread = f"regexp_matches(concat({', '.join(texts.values())}), '[{REPLACED}]')"
        why = f"if({unread}, 'invalid_encoding', 'control_characters')"
        problems.append((odd, why, f"case {first} end"))
    if not problems:
        return
    found_wrong = " ".join(
        f"when {condition} then row({why}, {column})" for condition, why, column in problems
    )
    duck.execute(
        f"insert into rejected select '{table}', {shift} | tierhouse_row, wrong[1], wrong[2] from "
        f"(select tierhouse_row, case {found_wrong} end as wrong from {rows.relation}) "
        f"where wrong is not null"
    )


def _map(
    duck: duckdb.DuckDBPyConnection, source: Source, table: str, delivered_at: datetime
) -> None:
    contract = TABLES[table]
    where = source.folder / f"{table}.sql"
    try:
        duck.execute(
            f"create or replace view draft as {source.selects[table].rstrip().rstrip(';')}"
        )
        found = {name: kind for name, kind, *_ in duck.execute("describe draft").fetchall()}
        _refuse_other_columns(source, contract, found)
        typed = ", ".join(
            f"{_contracted(source, contract, name, found)} as {name}" for name in contract.columns
        )
        lost = [
            f"{_is_lost(source, contract, name, found)} as lost_{name}"
            for name in _castable(contract, found)
        ]
        reasons = _reasons(source, contract, found, delivered_at)
        found_wrong = " ".join(
            f"when {condition} then '{reason} {name}'" for condition, reason, name in reasons
        )
        content = ", ".join(name for name in contract.landed if name not in contract.key)
        duck.execute(
            f"create table checked_{table} as select "
            f"{', '.join(_landed(source, name) for name in contract.columns)}, source_row, "
            f"cast(hash({content}) >> 1 as bigint) as content_hash, "
            f"split_part(wrong, ' ', 1) as outcome, split_part(wrong, ' ', 2) as outcome_column "
            f"from (select *, case {found_wrong} end as wrong from "
            f"(select {', '.join([typed, *lost])}, source_row from draft "
            f"{_left_out(source, table)}))"
        )
    except duckdb.Error as error:
        said = " ".join(str(error).split())[:300]
        if isinstance(error, duckdb.ConversionException | duckdb.InvalidInputException):
            # The message quotes the value, which may be a customer's name.
            said = f"a value of the files does not fit what it does ({type(error).__name__})."
        raise TierhouseError(
            f"{where} fails: {said} Nothing was loaded. Correct the SELECT; `tierhouse sources "
            f"check` tries it without loading."
        ) from None


def _landed(source: Source, name: str) -> str:
    """Amounts are in the reporting currency by now, whatever the line was paid in."""
    return f"'{source.currency}' as currency" if name == "currency" else name


def _left_out(source: Source, table: str) -> str:
    if table != "products" or not source.not_products:
        return ""
    return f"where product_id is null or {_text('product_id')} not in ({_codes(source)})"


def _codes(source: Source) -> str:
    return ", ".join(_literal(code) for code in source.not_products)


def _refuse_other_columns(source: Source, contract: Table, found: Mapping[str, str]) -> None:
    where = source.folder / f"{contract.name}.sql"
    needed = [name for name in contract.columns if contract.is_required(name)]
    lacking = [name for name in needed if name not in found and name != "currency"]
    if "source_row" not in found:
        lacking.append("source_row")
    if lacking:
        raise TierhouseError(
            f"{where} does not give {', '.join(lacking)}, which {contract.name} must have. "
            f"Nothing was loaded. Add it to the SELECT."
        )
    unknown = [name for name in found if name not in (*contract.columns, "source_row")]
    if unknown:
        raise TierhouseError(
            f"{where} gives {', '.join(unknown)}, which {contract.name} does not have; its columns "
            f"are {', '.join(contract.columns)}. Nothing was loaded. Correct the SELECT."
        )
    for name, kind in found.items():
        if name != "source_row" and (name in contract.personal) != kind.startswith(
            "STRUCT(personal"
        ):
            raise TierhouseError(
                f"{where} gives {name} what it may not be. Nothing was loaded. A column whose type "
                f"in {source.folder / 'source.yml'} is personal goes to email, phone or full_name, "
                f"as it is, and nothing else goes there."
            )
    if found.get("customer_id", "UUID") != "UUID":
        raise TierhouseError(
            f"{where} gives a customer_id that is no pseudonym. Nothing was loaded. Take it from a "
            f"column whose type in {source.folder / 'source.yml'} is customer, as it is."
        )


def _contracted(source: Source, contract: Table, name: str, found: Mapping[str, str]) -> str:
    """The value of a contract column, in its type, from the mapping's draft."""
    kind = contract.kind(name)
    if name == "currency":
        given = f"upper({_text(name)})" if name in found else "null"
        return f"coalesce({given}, '{source.currency}')"
    if name not in found:
        return f"cast(null as {kind})"
    if name == "customer_id":
        return "replace(cast(customer_id as varchar), '-', '')"
    if name in contract.personal:
        return f"nullif({name}.personal, '')"
    if kind == "text":
        value = f"nullif(cast({name} as varchar), '')"  # the file's text came trimmed
        if name == "product_id" and source.not_products:
            return f"if({value} in ({_codes(source)}), null, {value})"
        return value
    if name in ("unit_price", "discount_amount") and source.rates and "currency" in found:
        rates = " ".join(
            f"when '{currency}' then cast('{rate}' as decimal(20, 12))"
            for currency, rate in source.rates.items()
        )
        rate = f"case upper({_text('currency')}) {rates} else 1 end"
        return f"try_cast(try_cast({name} as {NUMBER}) * {rate} as {kind})"
    return f"try_cast({name} as {kind})"


def _is_lost(source: Source, contract: Table, name: str, found: Mapping[str, str]) -> str:
    value = _contracted(source, contract, name, found)
    lost = f"{value} is null"
    if contract.kind(name) in ("integer", "bigint"):
        lost += f" or {value} <> try_cast({name} as {NUMBER})"  # 1.5 is no line number
    return f"{name} is not null and ({lost})"


def _castable(contract: Table, found: Mapping[str, str]) -> list[str]:
    """The columns whose value may be lost when it is cast to the contract's type."""
    return [
        name
        for name in contract.columns
        if name in found and contract.kind(name) != "text" and name != "currency"
        and found[name].lower().replace(" ", "") != contract.kind(name).replace(" ", "")
    ]  # fmt: skip


def _reasons(
    source: Source, contract: Table, found: Mapping[str, str], delivered_at: datetime
) -> list[tuple[str, str, str]]:
    """Condition, outcome and column, the first that holds counts."""
    reasons: list[tuple[str, str, str]] = []
    if "customer_id" in contract.columns and "customer_id" not in contract.key:
        reasons.append(("customer_id is null", "anonymous", "customer_id"))
    for name in _castable(contract, found):
        is_time = contract.kind(name) in ("timestamp", "date")
        reasons.append(
            (f"lost_{name}", "unparsable_time" if is_time else "impossible_number", name)
        )
    reasons += [(f"{name} is null", "missing_key", name) for name in contract.key]
    reasons += [
        (f"{name} is null", "missing_value", name)
        for name in contract.columns
        if contract.is_required(name) and name not in contract.key
    ]
    for name in contract.columns:
        if contract.kind(name) in ("timestamp", "date"):
            absurd = f"not isfinite({name}) or {name} < timestamp '{EARLIEST}'"
            reasons.append((absurd, "absurd_time", name))
        if contract.kind(name) == "timestamp":
            end = delivered_at + timedelta(days=1)
            reasons.append((f"{name} >= timestamp '{end}'", "future_time", name))
        if contract.kind(name) == "text":
            longest = LONGEST_KEY if name.endswith("_id") else LONGEST.get(name, 1_000)
            reasons.append((f"strlen({name}) > {longest}", "too_long", name))
            if name.endswith("_id") and name != "customer_id":
                breaks = " or ".join(f"contains({name}, chr({code}))" for code in (9, 10, 13))
                reasons.append((breaks, "control_characters", name))
    if "currency" in contract.columns and "currency" in found:
        known = ", ".join(f"'{currency}'" for currency in (source.currency, *source.rates))
        reasons.append((f"currency not in ({known})", "unknown_currency", "currency"))
    if "event_type" in contract.columns:
        known = ", ".join(f"'{kind}'" for kind in EVENT_TYPES)
        reasons.append((f"event_type not in ({known})", "unknown_event_type", "event_type"))
    for name, (least, greatest) in source.bounds(contract.name).items():
        limits = [f"{name} < {least}"] * (least is not None)
        limits += [f"{name} > {greatest}"] * (greatest is not None)
        reasons.append((" or ".join(limits) or "false", "out_of_bounds", name))
    return reasons


def _refuse_rows_out_of_nowhere(
    duck: duckdb.DuckDBPyConnection, source: Source, table: str, files: Sequence[Rows]
) -> None:
    """Every row carries the source_row of a row of the files, and no two carry the same."""
    given = " union all ".join(
        f"select {rows.file.file_id << FILE_SHIFT} | tierhouse_row as source_row "
        f"from {rows.relation}"
        for rows in files
    )
    # Where the SELECT keeps every row, as most do, the sums are the same and say so at once.
    marks = "row(count(*), sum(hash(source_row)))"
    kept = (
        f"select (select {marks} from checked_{table}) = (select {marks} from ({given}) "
        f"where source_row not in (select source_row from rejected where table_name = '{table}'))"
    )
    if duck.execute(kept).fetchall() == [(True,)]:
        return
    mapped, rows = duck.execute(
        f"select count(*), count(distinct source_row) from checked_{table}"
    ).fetchall()[0]
    invented = duck.execute(
        f"select count(*) from checked_{table} anti join ({given}) as given using (source_row)"
    ).fetchall()[0][0]
    where = source.folder / f"{table}.sql"
    if invented:
        raise TierhouseError(
            f"{where} gives {invented:,} rows a source_row that is none of the view file's. "
            f"Nothing was loaded. Pass source_row on as it is, or one of a group's."
        )
    if mapped != rows:
        raise TierhouseError(
            f"{where} gives {mapped:,} rows from {rows:,} rows of the files. Nothing was loaded. "
            f"A row may become one row at most, and carries its source_row: look for a join that "
            f"multiplies rows."
        )


def _find_orphans(duck: duckdb.DuckDBPyConnection, table: str, column: str) -> None:
    referred = REFERENCES[column]
    tables = {name for (name,) in duck.execute("select table_name from duckdb_tables()").fetchall()}
    known = [
        f"select {column} from {name}"
        for name in (f"known_{referred}", f"checked_{referred} where outcome is null")
        if name.split()[0] in tables
    ]
    if not known:
        return  # a preview of files without the table that is referred to
    duck.execute(
        f"update checked_{table} set outcome = 'orphan_{column.removesuffix('_id')}', "
        f"outcome_column = '{column}' where outcome is null and {column} is not null "
        f"and {column} not in ({' union all '.join(known)})"
    )


def _find_repeats(duck: duckdb.DuckDBPyConnection, source: Source, table: str) -> None:
    """Of the rows of one key in one delivery the one that stands follows from their contents."""
    keys = ", ".join(TABLES[table].key)
    duck.execute(
        f"create or replace table repeated as select {keys} from checked_{table} "
        f"where outcome is null group by {keys} having count(*) > 1"
    )
    if not duck.execute("select 1 from repeated limit 1").fetchall():
        return
    order = "desc" if source.corrects(table) else "asc"
    duck.execute(
        f"update checked_{table} set outcome = "
        f"if(ranked.is_same, 'duplicate', 'conflicting_key'), "
        f"outcome_column = if(ranked.is_same, null, '{TABLES[table].key[-1]}') from ("
        f"select source_row, "
        f"row_number() over one_key as place, "
        f"content_hash = first_value(content_hash) over one_key as is_same "
        f"from checked_{table} semi join repeated using ({keys}) where outcome is null "
        f"window one_key as (partition by {keys} order by content_hash {order}, source_row)"
        f") as ranked where ranked.place > 1 and ranked.source_row = checked_{table}.source_row"
    )


def _declared(name: str, column: FileColumn) -> str:
    """A column of the view `file`. What is personal is wrapped: only `pii` columns take it."""
    if column.type == "customer":
        return f"{_quote(f'{name} people')}.pseudonym as {_quote(name)}"
    if column.type == "personal":
        return f"struct_pack(personal := taken.{_quote(name)}) as {_quote(name)}"
    return f"taken.{_quote(name)}"


def _taken(source: Source, table: str, rows: Rows) -> str:
    """The declared columns of a file, typed; a customer is still the shop's own identifier."""
    values = []
    for name, column in source.tables[table].columns.items():
        header = rows.header(column)
        if header is None:
            kind = "varchar" if column.type == "customer" else DUCKDB_TYPES[column.type]
            values.append(f"cast(null as {kind}) as {_quote(name)}")
        else:
            found = rows.columns[header]
            values.append(f"{_typed(header, found, column, source.timezone)} as {_quote(name)}")
    return (
        f"select {', '.join(values)}, {_literal(str(rows.file.path))} as file_name, "
        f"tierhouse_sheet as sheet, "
        f"{rows.file.file_id << FILE_SHIFT} | tierhouse_row as source_row "
        f"from {rows.relation}"
    )


def _typed(header: str, found: str, column: FileColumn, timezone: str) -> str:
    raw = _quote(header)
    is_text = found == "VARCHAR"
    if column.type == "customer":
        return f"cast({raw} as varchar)"
    if column.type == "number" and is_text:  # DuckDB reads 1_000 as a number
        return f"if(contains({raw}, '_'), null, try_cast({_text(raw)} as {NUMBER}))"
    if column.type == "number":
        return f"try_cast({raw} as {NUMBER})"
    if column.type == "date":
        if is_text and column.format:
            return f"cast(try_strptime({_text(raw)}, {_literal(column.format)}) as date)"
        return f"try_cast({_text(raw) if is_text else raw} as date)"
    if column.type == "time":
        if is_text and not column.format:
            read = f"timezone('UTC', try_cast({_text(raw)} as timestamptz))"
            return f"if(regexp_matches({raw}, '{NO_OFFSET}'), null, {read})"
        if found == "TIMESTAMP WITH TIME ZONE" or found.startswith("TIMESTAMPTZ"):
            return f"timezone('UTC', cast({raw} as timestamptz))"
        local = f"cast({raw} as timestamp)"
        if is_text and column.format:
            local = f"try_strptime({_text(raw)}, {_literal(column.format)})"
            if "%z" in column.format.lower():
                return f"timezone('UTC', {local})"
        return (
            local
            if timezone == "UTC"
            else f"timezone('UTC', timezone({_literal(timezone)}, {local}))"
        )
    return _text(raw)


def _text(value: str) -> str:
    return f"nullif(trim(cast({value} as varchar)), '')"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
