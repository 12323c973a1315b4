"""The front door: every command, each a few lines that call one function.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a gate.
"""

import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status

from warehouse.services import NO_TELEMETRY
from warehouse.settings import Refused, Settings, TierhouseError, WrongUsage, read_settings

if TYPE_CHECKING:
    from warehouse.connections import Urls

NEXT = """Next: tierhouse sql "select * from analytics.customer_tiers limit 10"
      tierhouse up      Airflow and MLflow; there the same day runs once more
      tierhouse down    stop what runs"""

app = typer.Typer(
    help="Customer value, tiers and decisions inside your own warehouse.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)
console = Console(highlight=False)


class Stage(StrEnum):
    """What a gate can check."""

    raw = "raw"
    features = "features"
    tiers = "tiers"


class Format(StrEnum):
    """How `sql` prints."""

    table = "table"
    csv = "csv"
    json = "json"


AsOf = Annotated[
    str,
    typer.Option(
        "--as-of",
        metavar="DAY",
        help="The day, such as 2018-01-01: only what came before is known.",
    ),
]


@app.command()
def load(
    source: Annotated[
        str, typer.Argument(help="complete_journey, online_retail, or a folder with a source.yml.")
    ],
    path: Annotated[
        str, typer.Argument(help="The shop's file or folder. Not needed for complete_journey.")
    ] = "",
) -> None:
    """Land a shop's files in the warehouse, each exactly once.

    Example: `tierhouse load online_retail ~/online_retail_II.xlsx`
    """
    from serving import terminal
    from warehouse import loading
    from warehouse.connections import open_warehouse

    found = loading.read_source(source)
    where = Path(path).expanduser() if path else None
    with console.status(f"Loading {found.name}") as status:
        urls = open_warehouse(read_settings())
        report = loading.load(urls.warehouse, found, where, progress=status.update)
    console.print(terminal.loaded(report))


@app.command()
def build(
    as_of: Annotated[
        str,
        typer.Option(
            "--as-of", metavar="DAY[,DAY…]", help="The days, such as 2017-10-01,2018-01-01."
        ),
    ],
) -> None:
    """Build the customer features of one or more days, in one pass.

    Example: `tierhouse build --as-of 2017-10-01,2018-01-01`
    """
    from warehouse import building
    from warehouse.connections import open_warehouse

    days = _days(as_of)
    settings = read_settings()
    urls = open_warehouse(settings)
    building.refuse_days_outside(building.read_history(urls), days)
    _build(settings, urls, days)


@app.command()
def check(
    stage: Annotated[Stage, typer.Argument(help="What to check.")],
    as_of: Annotated[
        str | None, typer.Option("--as-of", metavar="DAY", help="The day; raw can do without.")
    ] = None,
) -> None:
    """Ask whether the data is believable. Ends with 3 when a critical expectation fails.

    Example: `tierhouse check features --as-of 2018-01-01`
    """
    from expectations import run
    from warehouse import publishing
    from warehouse.connections import open_warehouse

    if stage is not Stage.raw and as_of is None:
        raise WrongUsage(f"`tierhouse check {stage}` needs the day: --as-of 2018-01-01.")
    day = None if as_of is None else _day(as_of)
    urls = open_warehouse(read_settings())
    scored = publishing.newest_version(urls, day) if stage is Stage.tiers and day else None
    with console.status(f"Checking {stage}"):
        try:
            report = run.validate(
                urls.warehouse,
                stage.value,
                day and day.isoformat(),
                scored and scored.version_id,
            )
        except run.GateError as error:
            raise TierhouseError(str(error)) from None
    publishing.record_gate(urls, report.rows(), scored, passed=not report.refused)
    if report.refused:
        raise Refused(report.summary())
    _say(report.summary())


@app.command()
def train(
    as_of: AsOf,
    max_age_days: Annotated[
        int | None,
        typer.Option(help="Do nothing when the champion is no older than this on the day."),
    ] = None,
) -> None:
    """Judge the models on closed windows, fit the champion, register it in MLflow.

    Builds the features of the earlier days it learns from.

    Example: `tierhouse train --as-of 2018-01-01`
    """
    from ml import pipelines
    from serving import terminal
    from warehouse.connections import open_warehouse

    settings = read_settings()
    urls = open_warehouse(settings)
    with console.status("Looking for the champion") as status:
        outcome = pipelines.train(
            settings,
            urls,
            _day(as_of),
            max_age_days,
            build=lambda days: _build(settings, urls, days, status),
            say=status.update,
        )
    if outcome.backtest is not None:
        console.print(terminal.scoreboard(outcome.backtest.to_json()))
    _say(outcome.message)


@app.command()
def score(as_of: AsOf) -> None:
    """Score every customer of a day and draw the tiers, out of the analysts' sight.

    Example: `tierhouse score --as-of 2018-01-01`
    """
    from ml import pipelines
    from warehouse.connections import open_warehouse

    settings = read_settings()
    urls = open_warehouse(settings)
    with console.status("Scoring") as status:
        _say(pipelines.score(settings, urls, _day(as_of), status.update))


@app.command()
def publish(as_of: AsOf) -> None:
    """Let analysts see the scored day, if it passed its gate.

    Example: `tierhouse publish --as-of 2018-01-01`
    """
    from warehouse import publishing
    from warehouse.connections import open_warehouse

    _say(publishing.publish(open_warehouse(read_settings()), _day(as_of)))


@app.command()
def backtest(
    origins: Annotated[
        str,
        typer.Option(metavar="DAY[,DAY…]", help="The days to predict from, such as 2017-09-01."),
    ],
    horizon: Annotated[int, typer.Option(help="Days predicted; a horizon the labels have.")] = 90,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every metric there too.")
    ] = None,
) -> None:
    """Judge the models beside the baselines on past days, on the shop that is loaded.

    Example: `tierhouse backtest --origins 2017-09-01,2017-10-01 --horizon 90`
    """
    from ml import pipelines
    from serving import terminal
    from warehouse.connections import open_warehouse

    days = _days(origins)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise WrongUsage(f"There is no folder {json_file.absolute().parent} to write into.")
    settings = read_settings()
    urls = open_warehouse(settings)
    with console.status("Reading the history") as status:
        judged = pipelines.backtest(
            urls,
            days,
            horizon,
            build=lambda needed: _build(settings, urls, needed, status),
            say=status.update,
        ).to_json()
    console.print(terminal.scoreboard(judged))
    if json_file is not None:
        json_file.write_text(json.dumps(judged, indent=2) + "\n")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SQL statement; it can only read.")],
    format: Annotated[Format, typer.Option(help="How to print the rows.")] = Format.table,
) -> None:
    """Ask the warehouse, read-only.

    Example: `tierhouse sql "select * from analytics.tier_summary" --format csv`
    """
    from serving import terminal
    from warehouse.connections import open_warehouse, query_rows

    columns, rows = query_rows(open_warehouse(read_settings()).reader, query)
    if format is Format.table:
        console.print(terminal.result(columns, rows))
    elif format is Format.csv:
        sys.stdout.write(terminal.as_csv(columns, rows))
    else:
        sys.stdout.write(terminal.as_json(columns, rows))


@app.command()
def demo(
    source: Annotated[
        str, typer.Argument(help="complete_journey, online_retail, or a folder with a source.yml.")
    ] = "complete_journey",
    path: Annotated[
        str, typer.Argument(help="The shop's file or folder. Not needed for complete_journey.")
    ] = "",
    as_of: AsOf = "2018-01-01",
) -> None:
    """Take a shop the whole way through the Airflow DAGs: load, features, models, tiers.

    Example: `tierhouse demo online_retail ~/online_retail_II.xlsx --as-of 2011-12-09`
    """
    from warehouse import dag_runs, services
    from warehouse.connections import open_warehouse

    # The DAGs' tasks run elsewhere, so paths are made absolute here.
    folder = Path(source).expanduser().absolute()
    named = str(folder) if (folder / "source.yml").is_file() else source
    where = str(Path(path).expanduser().absolute()) if path else ""
    parameters = {"source": named, "path": where, "as_of_date": _day(as_of).isoformat()}
    settings = read_settings()
    began = time.monotonic()
    log = settings.home / "logs" / "demo.log"
    with (
        dag_runs.only_one(settings.home) as lock,
        console.status("Starting the warehouse") as status,
    ):
        services.refuse_running(settings.home)
        urls = open_warehouse(settings)
        status.update("Preparing Airflow's database (once)")
        environment = _environment(settings, urls)
        services.migrate(environment)
        status.update("Starting Airflow")
        dag_runs.run_chain(
            environment,
            parameters,
            lock,
            log,
            said=lambda line: status.update(escape(line[:70])),
            done=lambda dag, task, seconds: console.print(
                f"  {dag:<16} {task:<8} {seconds:6.1f} s"
            ),
        )
    console.print()
    _show_published(urls.reader)
    _say(f"Done in {time.monotonic() - began:.0f} s. Airflow's log: {log}\n{NEXT}")


@app.command()
def up() -> None:
    """Start the warehouse, Airflow and MLflow, and say where they are.

    Example: `tierhouse up`
    """
    from warehouse import services
    from warehouse.connections import open_warehouse

    settings = read_settings()
    services.refuse_taken_ports(settings.home, settings.airflow_port, settings.mlflow_port)
    with console.status("Starting the warehouse") as status:
        urls = open_warehouse(settings)
        environment = _environment(settings, urls)
        status.update("Preparing Airflow's database")
        services.migrate(environment)
        status.update("Starting Airflow and MLflow")
        services.start(settings.home, environment, settings.secret("airflow_admin"))
    _show_status(settings)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def airflow(context: typer.Context) -> None:
    """Run Airflow's own command line on this installation.

    Example: `tierhouse airflow dags list-import-errors`
    """
    from warehouse.connections import open_warehouse

    settings = read_settings()
    environment = _environment(settings, open_warehouse(settings))
    program = Path(sys.executable).with_name("airflow")
    quiet = {"PYTHONWARNINGS": "ignore"}  # what it prints may be read by a program
    os.execve(program, [str(program), *context.args], environment | quiet)


@app.command()
def down() -> None:
    """Stop Airflow, MLflow and the embedded warehouse. Nothing is lost.

    Example: `tierhouse down`
    """
    from warehouse import embedded, services

    settings = read_settings()
    with console.status("Stopping"):
        stopped = [
            name
            for name, was_running in (
                ("Airflow and MLflow", services.stop(settings.home)),
                ("the warehouse", embedded.stop(settings)),
            )
            if was_running
        ]
    _say(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")


@app.command()
def status() -> None:
    """Say what runs, where, and what is published. Starts nothing.

    Example: `tierhouse status`
    """
    _show_status(read_settings())


@app.command()
def doctor() -> None:
    """Look for what is missing, and say how to mend it. Ends with 1 when something is.

    Example: `tierhouse doctor`
    """
    from warehouse import health

    findings = health.examine(read_settings())
    for finding in findings:
        mark = "[green]ok[/green]  " if finding.well else "[red]mend[/red]"
        console.print(f"{mark} {escape(finding.what)}")
        if not finding.well:
            console.print(f"     {escape(finding.mend)}")
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Run a command; say an expected failure in one paragraph and end with its exit code."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)
    try:
        app()
    except TierhouseError as error:
        paragraph = textwrap.fill(
            f"Error: {error}", 80, break_long_words=False, break_on_hyphens=False
        )
        print(paragraph, file=sys.stderr)
        sys.exit(3 if isinstance(error, Refused) else 2 if isinstance(error, WrongUsage) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(message: str) -> None:
    console.print(message, markup=False)


def _environment(settings: Settings, urls: "Urls") -> dict[str, str]:
    """What Airflow, MLflow and the commands they start need, their databases made."""
    from warehouse import services
    from warehouse.connections import make_database

    make_database(urls.airflow, urls.warehouse)
    if settings.mlflow_tracking_uri is None:
        make_database(urls.mlflow, urls.warehouse)
    return services.environment(
        home=settings.home,
        airflow_url=urls.airflow,
        mlflow_url=urls.mlflow,
        airflow_port=settings.airflow_port,
        mlflow_port=settings.mlflow_port,
        secret=settings.secret,
        inherited=os.environ | {"TIERHOUSE_TIER_POLICY": str(settings.tier_policy)},
    )


def _show_published(url: str) -> None:
    from serving import terminal
    from warehouse.connections import query_rows

    columns, rows = query_rows(url, "select * from analytics.tier_summary order by tier_rank")
    console.print(terminal.tiers([dict(zip(columns, row, strict=True)) for row in rows]))
    _, metrics = query_rows(
        url,
        "select candidate, origin, horizon_days, metric, value from analytics.model_scoreboard",
    )
    console.print(terminal.scoreboard(terminal.judged(metrics)))


def _show_status(settings: Settings) -> None:
    from warehouse import health

    for part, now, where in health.state(settings):
        print(f"{part:<14} {now:<17} {where}".rstrip())


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"{text!r} is not a day such as 2018-01-01.") from None


def _days(text: str) -> list[date]:
    return sorted({_day(part.strip()) for part in text.split(",")})


def _build(
    settings: Settings, urls: "Urls", days: Sequence[date], status: Status | None = None
) -> None:
    from warehouse import building

    if status is not None:
        status.stop()  # one live display at a time
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Starting dbt", total=None)

        def show(name: str, done: int, total: int) -> None:
            bar.update(task, description=name[:40], completed=done, total=total)

        nodes = building.build(urls, days, settings.home, show)
    listed = str(days[0]) if len(days) == 1 else f"{len(days)} days, {min(days)} to {max(days)}"
    _say(f"Built {listed}: {nodes} models and tests hold.")
    if status is not None:
        status.start()
