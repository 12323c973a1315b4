"""Land a shop's files in `raw`, exactly once, and account for every row.

A load is one transaction: killed at any point, nothing of it is there. Every row of every file
is landed, a duplicate, anonymous or in quarantine; the ledger refuses a load whose numbers do not
add up.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import file_digest
from pathlib import Path

from warehouse import mapping, pseudonyms
from warehouse.contract import TABLES
from warehouse.landing import Bench, Delivery, land, land_people, open_bench
from warehouse.reading import DataFile, Rows, open_file, unused_columns
from warehouse.settings import Refused, TierhouseError
from warehouse.source import REFERENCES, Source

NEW_ENTRY = (
    "insert into ops.load_ledger (file_id, table_name, rows_read, rows_accepted, rows_corrected, "
    "rows_duplicate, rows_anonymous, rows_quarantined) values ($1, $2, $3, $4, $5, $6, $7, $8)"
)
MOVE_ENTRY = (
    "update ops.load_ledger set rows_accepted = rows_accepted + $4, "
    "rows_corrected = rows_corrected + $5, rows_duplicate = rows_duplicate + $6, "
    "rows_anonymous = rows_anonymous + $7, rows_quarantined = rows_quarantined - $3 + $8 "
    "where file_id = $1 and table_name = $2"
)


@dataclass(frozen=True)
class TableReport:
    """Where the rows of a table's new files went; read is the sum of the four that follow.

    accepted: landed; of these, `corrected` met their key with other content, and the older of the
    two is kept in raw.superseded. duplicate: repeats, and the `merged`, which the mapping made one
    row of or left out. quarantined: how many rows by reason.
    """

    table: str
    new_files: int
    read: int
    accepted: int
    corrected: int
    duplicate: int
    merged: int
    anonymous: int
    quarantined: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """What a load did. `loaded_before`: files that were left alone."""

    tables: Sequence[TableReport]
    loaded_before: Sequence[str]
    notices: Sequence[str]


def load(
    url: str,
    key: bytes,
    source: Source,
    path: Path | None,
    *,
    scratch: Path,
    delivered_at: datetime,
    run_id: str,
    is_daily: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Load the files of `path` (or of the source's package) in one transaction.

    `delivered_at` (UTC, naive) orders the versions of a row. A file whose content was loaded
    before is left alone; of a daily delivery, if it was loaded for this day. The rows of a daily
    delivery were not known before its day. `scratch` is a folder for loads alone, removed
    afterwards.
    Raises WrongUsage: a path that is not there or holds none of the source's files. Refused: a
    file of another shape, or more rows in quarantine than the source allows; then only the
    quarantine is written. TierhouseError: a mapping that fails, another shop's warehouse.
    """
    found = source.find(source.data(path))
    delivery = Delivery(source, delivered_at, run_id, is_daily)
    with open_bench(url, source, scratch) as bench:
        _refuse_other_shop(bench, source)
        pseudonyms.refuse_other_key(bench.cursor, key)
        new, before = _register(bench, delivery, found)
        opened = _open(bench, source, new, progress)
        reports = _work(bench, delivery, opened, key, progress)
        _refuse_too_many(bench, delivery, opened, reports)
        for table, files in opened.items():
            _quarantine(bench, delivery, table, files)
    return Report(reports, before, notices(source, opened))


def replay(
    url: str,
    key: bytes,
    source: Source,
    *,
    scratch: Path,
    run_id: str,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Map the quarantined rows of loaded files again, with today's mapping, from the files.

    Rows that fit now land as rows of their old delivery; the others stay, with today's reason.
    Raises Refused: a file is no longer where it was loaded from, or not the same.
    """
    reports: list[TableReport] = []
    with open_bench(url, source, scratch) as bench:
        _refuse_other_shop(bench, source)
        pseudonyms.refuse_other_key(bench.cursor, key)
        waiting = bench.ask(
            "select distinct files.delivered_at, files.is_daily, files.file_id, files.path, "
            "files.file_hash, waiting.table_name from quarantine.rows as waiting "
            "inner join ops.files as files on files.source = waiting.source "
            "and files.file_hash = waiting.file_hash "
            "inner join ops.load_ledger as ledger on ledger.file_id = files.file_id "
            "and ledger.table_name = waiting.table_name "
            "where waiting.source = $1 order by files.delivered_at, files.file_id",
            source.name,
        )
        for delivered_at, is_daily in dict.fromkeys(row[:2] for row in waiting):
            mapping.clear(bench.duck)
            again: dict[str, list[DataFile]] = {}
            for *kind, file_id, path, file_hash, table in waiting:
                if kind == [delivered_at, is_daily] and table in source.tables:
                    file = _same_file(Path(path), file_hash, file_id)
                    again.setdefault(table, []).append(file)
            opened = _open(bench, source, again, progress)
            delivery = Delivery(source, delivered_at, run_id, is_daily)
            reports += _work(bench, delivery, opened, key, progress, again=True)
            for table, files in opened.items():
                _quarantine(bench, delivery, table, files)
    return Report(reports, [], [])


def _work(
    bench: Bench,
    delivery: Delivery,
    opened: Mapping[str, Sequence[Rows]],
    key: bytes,
    progress: Callable[[str], None],
    again: bool = False,
) -> list[TableReport]:
    """Map, check, land and account for the rows of the opened files."""
    source = delivery.source
    mapping.identify(bench.duck, source, opened, key)
    reports = []
    for table, files in opened.items():
        progress(f"{', '.join(rows.file.path.name for rows in files)[:40]} -> {table}")
        _know(bench, source, table)
        mapping.check(bench.duck, source, table, files, delivery.delivered_at)
        if again:
            _leave_what_landed(bench, table, files)
        _forget(bench, table, files)
        landed = land(bench, delivery, table)
        reports.append(_account(bench, table, files, landed, again))
    land_people(bench)
    return reports


def _register(
    bench: Bench, delivery: Delivery, found: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, list[DataFile]], list[str]]:
    """Number the files that are new for a table, and name those that were loaded before."""
    new: dict[str, list[DataFile]] = {}
    before: list[str] = []
    registered: dict[str, int] = {}
    hashes = {file: _hash(file) for file in {f for files in found.values() for f in files}}
    for table, files in found.items():
        seen: set[str] = set()
        for file in files:
            file_hash = hashes[file]
            same_day = " and files.delivered_at::date = $4::date" if delivery.is_daily else ""
            known = bench.ask(
                "select 1 from ops.files as files inner join ops.load_ledger as ledger "
                "on ledger.file_id = files.file_id where files.source = $1 "
                f"and files.file_hash = $2 and ledger.table_name = $3{same_day}",
                delivery.source.name, file_hash, table,
                *([delivery.delivered_at] if delivery.is_daily else []),
            )  # fmt: skip
            if known or file_hash in seen:
                before.append(file.name)
                continue
            seen.add(file_hash)
            if file_hash not in registered:
                registered[file_hash] = bench.ask(
                    "insert into ops.files "
                    "(source, file_hash, file_name, path, delivered_at, run_id, is_daily) "
                    "values ($1, $2, $3, $4, $5, $6, $7) returning file_id",
                    delivery.source.name, file_hash, file.name, str(file.absolute()),
                    delivery.delivered_at, delivery.run_id, delivery.is_daily,
                )[0][0]  # fmt: skip
            new.setdefault(table, []).append(DataFile(file, file_hash, registered[file_hash]))
    return new, list(dict.fromkeys(before))


def _open(
    bench: Bench,
    source: Source,
    files: Mapping[str, Sequence[DataFile]],
    progress: Callable[[str], None],
) -> dict[str, list[Rows]]:
    """Open every file once, for all the tables that read it."""
    rows: dict[int, Rows] = {}
    for file in dict.fromkeys(file for of_table in files.values() for file in of_table):
        progress(f"Reading {file.path.name}")
        reading = {t: m for t, m in source.tables.items() if file in files.get(t, ())}
        part = source.model_copy(update={"tables": reading})
        rows[file.file_id] = open_file(bench.duck, part, file)
    return {t: [rows[file.file_id] for file in files[t]] for t in TABLES if t in files}


def _know(bench: Bench, source: Source, table: str) -> None:
    """Fetch the keys that a table's rows refer to and that landed before."""
    for column in source.tables[table].references:
        referred = REFERENCES[column]
        bench.cursor.execute(f"select {column} from raw.{referred}")
        bench.duck.register("keys", bench.cursor.fetch_record_batch())
        bench.duck.execute(f"create or replace table known_{referred} as select * from keys")
        bench.duck.unregister("keys")


def _leave_what_landed(bench: Bench, table: str, files: Sequence[Rows]) -> None:
    """Of files that are mapped again, keep the rows that wait in quarantine."""
    ids = ", ".join(str(rows.file.file_id) for rows in files)
    bench.cursor.execute(
        f"select cast(file_id as bigint) << {mapping.FILE_SHIFT} | source_row as source_row "
        f"from quarantine.rows where table_name = $1 and file_id in ({ids})",
        (table,),
    )
    bench.duck.register("rows_in_quarantine", bench.cursor.fetch_record_batch())
    bench.duck.execute("create or replace table waiting as select * from rows_in_quarantine")
    bench.duck.unregister("rows_in_quarantine")
    waits = "source_row in (select source_row from waiting)"
    bench.duck.execute(f"delete from rejected where table_name = '{table}' and not {waits}")
    bench.duck.execute(f"delete from checked_{table} where not {waits}")


def _account(
    bench: Bench, table: str, files: Sequence[Rows], landed: Mapping[int, int], again: bool
) -> TableReport:
    """Write the ledger: what landed was counted where it landed, the rest where it was set aside.

    Of files that are mapped again only the waiting rows are counted, and the entry moves by them.
    """
    read = {rows.file.file_id: rows.count for rows in files}
    if again:
        read |= dict(mapping.count_by_file(bench.duck, "select source_row from waiting"))
    corrected = dict(
        mapping.count_by_file(
            bench.duck, "select source_row from met where outcome in ('corrects', 'superseded')"
        )
    )
    outcomes = mapping.outcomes(bench.duck, table)
    entries = {
        file_id: tally(table, rows_read, landed.get(file_id, 0), corrected.get(file_id, 0),
                       outcomes.get(file_id, Counter()))
        for file_id, rows_read in read.items()
    }  # fmt: skip
    for file_id, entry in entries.items():
        bench.do(
            MOVE_ENTRY if again else NEW_ENTRY, file_id, table, entry.read, entry.accepted,
            entry.corrected, entry.duplicate, entry.anonymous, sum(entry.quarantined.values()),
        )  # fmt: skip
    return add_up(table, list(entries.values()))


def tally(
    table: str, read: int, landed: int, corrected: int, outcomes: Counter[str | None]
) -> TableReport:
    """The account of one file from the outcomes of its rows."""
    bad = Counter({why: n for why, n in outcomes.items() if why and why not in mapping.SET_ASIDE})
    return TableReport(
        table=table,
        new_files=1,
        read=read,
        accepted=landed + outcomes["superseded"],
        corrected=corrected,
        duplicate=outcomes["duplicate"] + read - outcomes.total(),
        merged=read - outcomes.total(),
        anonymous=outcomes["anonymous"],
        quarantined=bad,
    )


def add_up(table: str, entries: Sequence[TableReport]) -> TableReport:
    """The account of a table from those of its files; reasons come most frequent first."""
    reasons = sum((Counter(entry.quarantined) for entry in entries), Counter())
    return TableReport(
        table=table,
        new_files=len(entries),
        read=sum(entry.read for entry in entries),
        accepted=sum(entry.accepted for entry in entries),
        corrected=sum(entry.corrected for entry in entries),
        duplicate=sum(entry.duplicate for entry in entries),
        merged=sum(entry.merged for entry in entries),
        anonymous=sum(entry.anonymous for entry in entries),
        quarantined=dict(reasons.most_common()),
    )


def excess(source: Source, reports: Sequence[TableReport]) -> str:
    """Which tables have more refused rows than the source allows, and why; empty if none has."""
    said = []
    for report in reports:
        bad = sum(report.quarantined.values())
        if bad > source.max_quarantined_share * report.read:
            why = ", ".join(f"{rows:,} {reason}" for reason, rows in report.quarantined.items())
            said.append(f"{bad:,} of {report.read:,} rows of {report.table} do not fit ({why})")
    return "; ".join(said)


def _refuse_too_many(
    bench: Bench,
    delivery: Delivery,
    opened: Mapping[str, Sequence[Rows]],
    reports: Sequence[TableReport],
) -> None:
    """Undo the load when a table has too many rows in quarantine, and keep what is there."""
    source = delivery.source
    said = excess(source, reports)
    if not said:
        return
    first = next(
        _first_refused(bench, report.table, opened[report.table])
        for report in reports
        if excess(source, [report])
    )
    bench.warehouse.rollback()
    bench.ask("select pg_advisory_xact_lock(hashtextextended('load', 0))")
    for table, files in opened.items():
        _forget(bench, table, files)
        _quarantine(bench, delivery, table, files, refused=True)
    bench.warehouse.commit()
    raise Refused(
        f"{said}. The first is {first}. That is more than the {source.max_quarantined_share:.1%} "
        f"that the source {source.name!r} allows, so nothing was loaded. `tierhouse quarantine "
        f"list` tells where they are. Mend the files or the mapping, or raise "
        f"max_quarantined_share in {source.folder / 'source.yml'}."
    )


def _first_refused(bench: Bench, table: str, files: Sequence[Rows]) -> str:
    source_row, reason, column = bench.duck.execute(
        f"select source_row, reason, column_name from ({mapping.bad_rows(table)}) "
        "order by source_row limit 1"
    ).fetchall()[0]
    names = {rows.file.file_id: rows.file.path.name for rows in files}
    where = f"{names[source_row >> mapping.FILE_SHIFT]} row {source_row & mapping.ROW_NUMBER}"
    return f"{where}: {reason} in {column}" if column else f"{where}: {reason}"


def _forget(bench: Bench, table: str, files: Sequence[Rows]) -> None:
    """Take out of quarantine what earlier tries of the files, or of others so named, left there."""
    for rows in files:
        bench.do(
            "delete from quarantine.rows where table_name = $1 and (file_id = $2 "
            "or file_id is null and (file_hash = $3 or file_name = $4))",
            table, rows.file.file_id, rows.file.hash, rows.file.path.name,
        )  # fmt: skip


def _quarantine(
    bench: Bench,
    delivery: Delivery,
    table: str,
    files: Sequence[Rows],
    refused: bool = False,
) -> None:
    """Put every refused row of the files into quarantine."""
    bad = dict(mapping.count_by_file(bench.duck, mapping.bad_rows(table)))
    for rows in files:
        file_id = None if refused else rows.file.file_id
        if rows.file.file_id not in bad:
            continue
        bench.ingest(mapping.refused_rows(delivery.source, table, rows), "refused")
        bench.do(
            "insert into quarantine.rows (run_id, source, file_id, file_name, file_hash, "
            "table_name, source_row, reason, column_name, raw_row) "
            f"select $1, $2, {'null' if refused else file_id}, $3, $4, $5, source_row, reason, "
            "column_name, raw_row::jsonb from pg_temp.refused",
            delivery.run_id, delivery.source.name, rows.file.path.name, rows.file.hash, table,
        )  # fmt: skip


def notices(source: Source, opened: Mapping[str, Sequence[Rows]]) -> list[str]:
    """What a person may want to know of the files: their columns that no table reads."""
    unread = {
        rows.file.path.name: unused_columns(rows, [*source.tables.values()])
        for files in opened.values()
        for rows in files
    }
    return [
        f"{name}: not read: {', '.join(columns)}" for name, columns in unread.items() if columns
    ]


def _same_file(path: Path, file_hash: str, file_id: int) -> DataFile:
    if not path.is_file() or _hash(path) != file_hash:
        raise Refused(
            f"{path} is no longer there, or not the file that was loaded. Its rows in quarantine "
            f"are mapped again from the file itself: put it back."
        )
    return DataFile(path, file_hash, file_id)


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise TierhouseError(f"{file} cannot be read: {error.strerror}.") from None


def _refuse_other_shop(bench: Bench, source: Source) -> None:
    other = bench.ask("select min(source) from ops.files where source <> $1", source.name)[0][0]
    if other is not None:
        raise TierhouseError(
            f"This warehouse holds the shop {other!r}. Customers and currencies of two shops do "
            f"not mix: set TIERHOUSE_HOME to a directory for {source.name!r} and load it there."
        )
