"""What a source would make of files: the account and some mapped rows, without a warehouse."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from warehouse import mapping
from warehouse.contract import TABLES
from warehouse.loading import Report, add_up, notices, tally
from warehouse.reading import DataFile, Rows, open_file
from warehouse.source import Source

SHOWN = 5


@dataclass(frozen=True)
class Preview:
    """`report` is what a load into an empty warehouse would say. `rows`: table -> columns, rows."""

    report: Report
    rows: Mapping[str, tuple[Sequence[str], Sequence[tuple]]]


def preview(source: Source, path: Path | None, key: bytes, delivered_at: datetime) -> Preview:
    """Map and check the files as a load would, and write nothing.

    Personal columns are not shown. Raises what `loading.load` raises about files and mappings.
    """
    found = source.find(source.data(path))
    files = dict.fromkeys(file for of_table in found.values() for file in of_table)
    with TemporaryDirectory() as scratch, mapping.workbench(Path(scratch), source) as duck:
        rows: dict[Path, Rows] = {}
        for number, file in enumerate(files, start=1):
            reading = {t: m for t, m in source.tables.items() if file in found.get(t, ())}
            part = source.model_copy(update={"tables": reading})
            rows[file] = open_file(duck, part, DataFile(file, "", number))
        opened = {table: [rows[file] for file in found[table]] for table in found}
        mapping.identify(duck, source, opened, key)
        reports, shown = [], {}
        for table, of_table in opened.items():
            mapping.check(duck, source, table, of_table, delivered_at)
            outcomes = mapping.outcomes(duck, table)
            entries = []
            for file in of_table:
                counts = outcomes.get(file.file.file_id, Counter())
                entries.append(tally(table, file.count, counts[None], 0, counts))
            reports.append(add_up(table, entries))
            columns = TABLES[table].landed
            shown[table] = (
                columns,
                duck.execute(
                    f"select {', '.join(columns)} from checked_{table} "
                    f"where outcome is null order by source_row limit {SHOWN}"
                ).fetchall(),
            )
    return Preview(Report(reports, [], notices(source, opened)), shown)
