"""Run the dbt project for the days asked for."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from warehouse import changes, contract, duck
from warehouse.connections import Urls, connect, exclusive, grant, one_row
from warehouse.settings import (
    DUCKDB_FILE,
    PROJECT,
    Refused,
    Target,
    TierhouseError,
    WrongUsage,
    one_line,
)

DBT_PROJECT = PROJECT / "dbt_project"
# Shops close over Christmas; after a month of silence it is the load that did not come.
LONGEST_SILENCE = timedelta(days=31)


@dataclass(frozen=True)
class History:
    """The days of the orders that are loaded: a label window is closed when it ends by `last`."""

    first: date
    last: date


def read_history(urls: Urls) -> History:
    """The first and the last day with an order.

    Raises TierhouseError: nothing is loaded.
    """
    with connect(urls.warehouse) as connection:
        first, last = one_row(
            connection, "select min(ordered_at)::date, max(ordered_at)::date from raw.order_lines"
        )
    if first is None:
        raise TierhouseError(
            "No orders are loaded yet. Load a shop first: `tierhouse load complete_journey`."
        )
    return History(first, last)


def refuse_days_outside(history: History, days: Sequence[date]) -> None:
    """Raise WrongUsage for a day that has nothing before it, or nothing near it."""
    early = [day for day in days if day <= history.first]
    if early:
        raise WrongUsage(
            f"Nothing is known as of {min(early)}: the first order is of {history.first}, and an "
            f"as-of day sees only what came before it. Choose a day after {history.first} "
            f"(the newest order is of {history.last})."
        )
    late = [day for day in days if day > history.last + LONGEST_SILENCE]
    if late:
        raise WrongUsage(
            f"The newest order is of {history.last}: as of {max(late)} every customer would look "
            f"gone, when it is the later orders that are not loaded. Load them, or choose a day up "
            f"to {history.last + LONGEST_SILENCE}."
        )


def refuse_open_windows(history: History, days: Sequence[date], horizon_days: int) -> None:
    """Raise WrongUsage for a day whose window of so many days is not over."""
    if open_since := [day for day in days if (history.last - day).days < horizon_days]:
        raise WrongUsage(
            f"What the {horizon_days} days from {open_since[0]} brought is not known yet: the "
            f"newest order is of {history.last}. Choose earlier origins or a shorter horizon."
        )


def build(
    urls: Urls,
    days: Sequence[date],
    state: Path,
    target: Target = Target.postgres,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    horizon_days: int | None = None,
) -> int:
    """Build the features of these days, and the labels of those whose windows are closed.

    The labels are of the horizons in dbt_project.yml, and of `horizon_days` besides.

    One dbt run for all the days; each is replaced whole. Of what does not depend on the day only
    what changed in raw since this engine built last is built again. No load runs meanwhile: all
    tables show one state of the shop. With target duckdb everything is built in
    `state`/warehouse.duckdb, from a copy of raw that is brought up to date first.
    `progress` hears each model's name, how many are done and of how many. Returns the number of
    nodes built.
    Raises Refused: a data test of dbt failed. TierhouseError: a model did.
    """
    with exclusive(urls.warehouse, "build"), exclusive(urls.warehouse, "load"):
        file = state / DUCKDB_FILE
        first_delivery = _first_delivery(urls)
        definitions = _fingerprint(first_delivery)
        if target is Target.duckdb:
            is_standing = duck.has_tables(file, _kept_tables())
            fingerprint = definitions + duck.identity(file)
        else:
            is_standing = _has_tables(urls, _kept_tables())
            fingerprint = definitions
        changed = changes.read(urls.warehouse, target, fingerprint if is_standing else "")
        if target is Target.duckdb:
            duck.copy_raw(
                urls.warehouse,
                file,
                changed,
                changes.customers(urls.warehouse, target, changed),
                lambda table: progress(f"copy of {table}", 0, 0),
            )
        else:
            _prepare(urls, changed)
        set_environment(urls, state)
        variables = _variables(days, horizon_days, changed, first_delivery)
        results = _run_dbt(variables, state, target, changed.is_whole, progress)
        if target is Target.postgres:
            with connect(urls.warehouse) as connection:
                grant(connection)
        _refuse_unless_done(results, state)
        if target is Target.duckdb:
            fingerprint = definitions + duck.new_identity(file)
        changes.consume(urls.warehouse, target, changed, fingerprint)
        if target is Target.postgres:
            _note(urls, days)
    return len(results)


def _note(urls: Urls, days: Sequence[date]) -> None:
    """When these days were built, for whoever asks how fresh they are."""
    with connect(urls.warehouse) as connection:
        connection.execute(
            "insert into ops.builds (as_of_date, built_at) "
            "select unnest(%s::date[]), clock_timestamp() "
            "on conflict (as_of_date) do update set built_at = excluded.built_at",
            [sorted(set(days))],
        )


def _prepare(urls: Urls, changed: changes.Changes) -> None:
    """Fill ops.touched_customers, which tells dbt whom an update builds again.

    And tell PostgreSQL what a load has changed: it takes a day that it has not heard of for one of
    a row or none, and joins thousands of rows to thousands one by one.
    """
    with connect(urls.warehouse) as connection:
        for table in changed.tables:
            connection.execute(f"analyze raw.{table}".encode())
        connection.execute("truncate ops.touched_customers")
        if not changed.is_whole:
            connection.execute(
                "insert into ops.touched_customers (table_name, customer_id) "
                "select distinct table_name, entity_id from ops.changes where day is not null "
                "and change_id <= %s and change_id > "
                "(select change_id from ops.consumed where target = %s)",
                [changed.up_to, Target.postgres],
            )
        connection.execute("analyze ops.touched_customers")


def _first_delivery(urls: Urls) -> str | None:
    """The day of the shop's first daily delivery, which is its history."""
    with connect(urls.warehouse) as connection:
        (day,) = one_row(
            connection, "select min(delivered_at)::date::text from ops.files where is_daily"
        )
    return day


def _kept_tables() -> list[str]:
    """What an update adds to, schema.table: without one of them everything has to be built."""
    project = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())
    configured = project["models"]["tierhouse"]["intermediate"]
    names = [file.stem for file in (DBT_PROJECT / "models" / "intermediate").glob("*.sql")]
    kept = [n for n in names if configured.get(n, {}).get("+materialized") != "ephemeral"]
    return [*(f"intermediate.{name}" for name in kept), "features.customer_events"]


def _has_tables(urls: Urls, tables: Sequence[str]) -> bool:
    with connect(urls.warehouse) as connection:
        (has_all,) = one_row(
            connection,
            "select bool_and(to_regclass(name) is not null) from unnest(%s::text[]) as name",
            list(tables),
        )
    return has_all


def _fingerprint(first_delivery: str | None) -> str:
    """Of all that says what the tables hold: by other definitions nothing built stands."""
    folders = (DBT_PROJECT / "models", DBT_PROJECT / "macros")
    files = [file for folder in folders for file in sorted(folder.rglob("*.sql"))]
    files.append(DBT_PROJECT / "dbt_project.yml")
    definitions = b"".join(file.read_bytes() for file in files) + contract.ddl().encode()
    return sha256(definitions + str(first_delivery).encode()).hexdigest()


def set_environment(urls: Urls, state: Path) -> None:
    """What dbt_project/profiles.yml reads from the environment."""
    warehouse = urlsplit(urls.warehouse)
    os.environ.update(
        TIERHOUSE_PG_HOST=warehouse.hostname or "",
        TIERHOUSE_PG_PORT=str(warehouse.port or 5432),
        TIERHOUSE_PG_USER=unquote(warehouse.username or ""),
        TIERHOUSE_PG_DATABASE=unquote(warehouse.path.lstrip("/")),
        TIERHOUSE_PG_SSLMODE=dict(parse_qsl(warehouse.query)).get("sslmode", "prefer"),
        DBT_ENV_SECRET_TIERHOUSE_PG_PASSWORD=unquote(warehouse.password or ""),
        TIERHOUSE_DUCKDB_FILE=str(state / DUCKDB_FILE),
        DO_NOT_TRACK="1",
    )


def _variables(
    days: Sequence[date],
    horizon_days: int | None,
    changed: changes.Changes,
    first_delivery: str | None,
) -> Mapping[str, Any]:
    variables: dict[str, Any] = {
        "as_of_dates": [day.isoformat() for day in sorted(set(days))],
        "first_delivery": first_delivery,
    }
    if horizon_days is not None:
        project = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())
        variables["horizons"] = sorted({*project["vars"]["horizons"], horizon_days})
    if not changed.is_whole:
        variables["touched_days"] = {
            table: [[first.isoformat(), last.isoformat()] for first, last in ranges]
            for table, ranges in changed.days.items()
        }
    return variables


def _run_dbt(
    variables: Mapping[str, Any],
    state: Path,
    target: Target,
    is_whole: bool,
    progress: Callable[[str, int, int], None],
) -> Sequence[Any]:
    from dbt.cli.main import dbtRunner  # slow to import

    def hear(event: Any) -> None:
        data = event.data
        if event.info.name == "LogModelResult":
            progress(data.node_info.node_name, data.index, data.total)
        elif event.info.name == "LogTestResult":
            progress(data.node_info.node_name, data.index, data.num_models)

    where = [
        "--target", target,
        "--project-dir", str(DBT_PROJECT),
        "--profiles-dir", str(DBT_PROJECT),
        "--target-path", str(state / "dbt" / "target"),
        "--log-path", str(state / "dbt" / "logs"),
        "--log-level", "none",
    ]  # fmt: skip
    # dbt parses everything anew when a variable is another than last time, and the days always are.
    # No file says something else to the parser by them: it keeps what it knows, and runs with them.
    parsed = dbtRunner().invoke(["parse", *where])
    if parsed.exception is not None:
        raise TierhouseError(f"dbt could not run: {one_line(str(parsed.exception))}")
    manifest: Any = parsed.result
    outcome = dbtRunner(manifest=manifest, callbacks=[hear]).invoke(
        ["build",
         "--exclude-resource-type", "unit_test",  # truths of the code, held by its own tests
         *(["--full-refresh"] if is_whole else []),
         *where,
         "--vars", json.dumps(variables)]
    )  # fmt: skip
    if target is Target.duckdb:
        # dbt keeps the file open, and others out of it, for as long as this process lives.
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        DuckDBConnectionManager.close_all_connections()
    if outcome.exception is not None:
        raise TierhouseError(f"dbt could not run: {one_line(str(outcome.exception))}")
    return outcome.result.results  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _refuse_unless_done(results: Sequence[Any], state: Path) -> None:
    broken = [r for r in results if r.status == "error"]
    untrue = [r for r in results if r.status == "fail"]
    if broken:
        raise TierhouseError(
            f"dbt could not build {broken[0].node.name}: {one_line(broken[0].message)} The log is "
            f"in {state / 'dbt' / 'logs'}."
        )
    if untrue:
        named = "; ".join(f"{r.node.name} ({one_line(r.message)})" for r in untrue)
        raise Refused(
            f"The data breaks what must hold: {named}. Nothing downstream should use these days. "
            f"Look at the rows with the SQL in {state / 'dbt' / 'target' / 'compiled'}."
        )
