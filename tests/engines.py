"""What the two engines made of the same rows, cell by cell."""

from pathlib import Path

import duckdb

from warehouse.connections import read_arrow

TABLES = {
    "customer_features": ("as_of_date", "customer_id"),
    "customer_labels": ("as_of_date", "horizon_days", "customer_id"),
    "customer_events": ("customer_id", "position"),
}
RELATIVE = 1e-9


def rows(file: Path, table: str) -> int:
    with duckdb.connect(file, read_only=True) as duck:
        return duck.execute(f"select count(*) from features.{table}").fetchall()[0][0]


def differing_cells(url: str, file: Path) -> dict[str, int]:
    """How many cells of which column differ between the warehouse and the DuckDB file.

    Doubles differ by more than 1e-9 of the larger; everything else in any character. A row that
    only one of the engines has counts in the column "rows".
    """
    with duckdb.connect(file, read_only=True) as duck:
        return {
            f"{table}.{column}": cells
            for table, key in TABLES.items()
            for column, cells in _differing(url, duck, table, key).items()
            if cells
        }


def _differing(
    url: str, duck: duckdb.DuckDBPyConnection, table: str, key: tuple[str, ...]
) -> dict[str, int]:
    columns = {
        name: "double precision" if kind == "DOUBLE" else "text"
        for name, kind in duck.execute(
            "select column_name, data_type from information_schema.columns "
            "where table_schema = 'features' and table_name = $1 order by ordinal_position",
            [table],
        ).fetchall()
    }
    listed = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in columns.items())
    theirs = read_arrow(url, f"select {listed} from features.{table}")
    assert theirs.column_names == list(columns)
    duck.register("theirs", theirs)
    duck.execute(f"create or replace temp table ours as select {listed} from features.{table}")
    same_key = " and ".join(f"ours.{name} = theirs.{name}" for name in key)
    differs = [
        f"count(*) filter (where ours.{name} is distinct from theirs.{name}"
        + (
            f" and not coalesce(abs(ours.{name} - theirs.{name}) <= {RELATIVE} "
            f"* greatest(abs(ours.{name}), abs(theirs.{name})), false))"
            if kind == "double precision"
            else ")"
        )
        for name, kind in columns.items()
    ]
    found = duck.execute(
        f"select count(*) filter (where ours.{key[0]} is null or theirs.{key[0]} is null), "
        f"{', '.join(differs)} from ours full outer join theirs on {same_key}"
    ).fetchall()[0]
    return dict(zip(("rows", *columns), found, strict=True))
