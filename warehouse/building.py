"""Run the dbt project for the days asked for."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from warehouse.connections import Urls, connect, exclusive, grant, one_row
from warehouse.settings import PROJECT, Refused, TierhouseError, WrongUsage

DBT_PROJECT = PROJECT / "dbt_project"


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


def refuse_horizon(horizon_days: int) -> None:
    """Raise WrongUsage for a horizon that no labels are built for."""
    horizons = yaml.safe_load((DBT_PROJECT / "dbt_project.yml").read_text())["vars"]["horizons"]
    if horizon_days not in horizons:
        raise WrongUsage(
            f"There are no labels of {horizon_days} days: the horizons are "
            f"{', '.join(map(str, horizons))}. Choose one of them, or add it to `horizons` in "
            f"{DBT_PROJECT / 'dbt_project.yml'}."
        )


def refuse_days_outside(history: History, days: Sequence[date]) -> None:
    """Raise WrongUsage for a day that has nothing before it."""
    early = [day for day in days if day <= history.first]
    if early:
        raise WrongUsage(
            f"Nothing is known as of {min(early)}: the first order is of {history.first}, and an "
            f"as-of day sees only what came before it. Choose a day after {history.first} "
            f"(the newest order is of {history.last})."
        )


def build(
    urls: Urls,
    days: Sequence[date],
    state: Path,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> int:
    """Build the features of these days, and the labels of those whose windows are closed.

    One dbt run for all the days; each is replaced whole. `progress` hears each model's name, how
    many are done and of how many. Returns the number of nodes built.
    Raises Refused: a data test of dbt failed. TierhouseError: a model did.
    """
    from dbt.cli.main import dbtRunner  # slow to import

    target = urlsplit(urls.warehouse)
    os.environ.update(
        TIERHOUSE_PG_HOST=target.hostname or "",
        TIERHOUSE_PG_PORT=str(target.port or 5432),
        TIERHOUSE_PG_USER=unquote(target.username or ""),
        TIERHOUSE_PG_DATABASE=unquote(target.path.lstrip("/")),
        TIERHOUSE_PG_SSLMODE=dict(parse_qsl(target.query)).get("sslmode", "prefer"),
        DBT_ENV_SECRET_TIERHOUSE_PG_PASSWORD=unquote(target.password or ""),
        DO_NOT_TRACK="1",
    )

    def hear(event: Any) -> None:
        data = event.data
        if event.info.name == "LogModelResult":
            progress(data.node_info.node_name, data.index, data.total)
        elif event.info.name == "LogTestResult":
            progress(data.node_info.node_name, data.index, data.num_models)

    listed = ", ".join(f"'{day.isoformat()}'" for day in sorted(set(days)))
    with exclusive(urls.warehouse, "build"):
        outcome = dbtRunner(callbacks=[hear]).invoke(
            ["build",
             "--exclude-resource-type", "unit_test",  # truths of the code, held by its own tests
             "--project-dir", str(DBT_PROJECT),
             "--profiles-dir", str(DBT_PROJECT),
             "--target-path", str(state / "dbt" / "target"),
             "--log-path", str(state / "dbt" / "logs"),
             "--log-level", "none",
             "--vars", f"{{as_of_dates: [{listed}]}}"]
        )  # fmt: skip
        if outcome.exception is not None:
            raise TierhouseError(f"dbt could not run: {_one_line(str(outcome.exception))}")
        with connect(urls.warehouse) as connection:
            grant(connection)
    results = outcome.result.results  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    broken = [r for r in results if r.status == "error"]
    untrue = [r for r in results if r.status == "fail"]
    if broken:
        raise TierhouseError(
            f"dbt could not build {broken[0].node.name}: {_one_line(broken[0].message)} The log is "
            f"in {state / 'dbt' / 'logs'}."
        )
    if untrue:
        named = "; ".join(f"{r.node.name} ({_one_line(r.message)})" for r in untrue)
        raise Refused(
            f"The data breaks what must hold: {named}. Nothing downstream should use these days. "
            f"Look at the rows with the SQL in {state / 'dbt' / 'target' / 'compiled'}."
        )
    return len(results)


def _one_line(message: str | None) -> str:
    return " ".join((message or "no message").split())[:400]
