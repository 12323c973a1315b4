"""The front door: every command, each a few lines that call one function.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by a gate.
"""

import json
import os
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.status import Status

from warehouse.services import NO_TELEMETRY
from warehouse.settings import (
    Refused,
    Settings,
    Target,
    TierhouseError,
    WrongUsage,
    read_settings,
)

if TYPE_CHECKING:
    from warehouse.connections import Urls

NEXT = """Next: tierhouse sql "select * from analytics.customer_tiers limit 10"
      tierhouse up      the dashboard, Airflow and MLflow
      tierhouse down    stop what runs"""

app = typer.Typer(
    help="Customer value, tiers and decisions inside your own warehouse.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
)
sources = typer.Typer(no_args_is_help=True, help="Try a source on files before loading them.")
quarantine = typer.Typer(no_args_is_help=True, help="Look at refused rows, and try them again.")
policies = typer.Typer(no_args_is_help=True, help="Try a tier policy before it is followed.")
app.add_typer(policies, name="policy")
app.add_typer(sources, name="sources")
app.add_typer(quarantine, name="quarantine")
console = Console(highlight=False)


class Stage(StrEnum):
    """What a gate can check."""

    raw = "raw"
    features = "features"
    tiers = "tiers"


class Size(StrEnum):
    """How large the sequence model is: 0.3, 7 and 44 million parameters."""

    small = "small"
    base = "base"
    large = "large"


class Language(StrEnum):
    """What reasons and reports are said in."""

    en = "en"
    zh = "zh"


class Format(StrEnum):
    """How `sql` prints."""

    table = "table"
    csv = "csv"
    json = "json"


SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="canonical, cdnow, complete_journey, online_retail, simulated, or your own folder "
        "with a source.yml.",
    ),
]
ShopFiles = Annotated[
    str,
    typer.Argument(
        metavar="[PATH]",
        help="The shop's file or folder. Sources that come with a package do without.",
    ),
]
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
    source: SourceName,
    path: ShopFiles = "",
    day: Annotated[
        str | None,
        typer.Option(
            metavar="DAY",
            help="The day of the delivery; without PATH, its folder in the landing folder.",
        ),
    ] = None,
) -> None:
    """Land a shop's files in the warehouse, each exactly once.

    Example: `tierhouse load online_retail ~/online_retail_II.xlsx`
    """
    from serving import terminal
    from warehouse import deliveries, loading, pseudonyms
    from warehouse.connections import open_warehouse
    from warehouse.source import read_source

    found = read_source(source)
    settings = read_settings()
    now = _now()
    where = _place(path)
    # What comes with a package is delivered on no day.
    delivered = _day(day) if day and (where or found.package is None) else None
    if delivered is not None and delivered > now.date() + timedelta(days=1):
        raise WrongUsage(f"{delivered} is still to come, and no day of a delivery.")
    arrival = None
    if delivered is not None and where is None:
        arrival = deliveries.look(found, settings.landing_folder, delivered, now)
        if arrival.state in (deliveries.State.awaited, deliveries.State.missing):
            raise TierhouseError(arrival.message)
        if arrival.state is deliveries.State.none:
            _say(f"{arrival.message}\nDelivery of {delivered}: {deliveries.Outcome.none}.")
            return
        where = arrival.folder
    with console.status(f"Loading {found.name}") as status:
        urls = open_warehouse(settings)
        delivered_at = deliveries.version(urls.warehouse, found, delivered) if delivered else now
        report = loading.load(
            urls.warehouse,
            pseudonyms.read_key(settings, urls.warehouse),
            found,
            where,
            scratch=settings.home / "scratch",
            delivered_at=delivered_at,
            run_id=_run(settings, "load"),
            is_daily=delivered is not None,
            progress=status.update,
        )
    console.print(terminal.loaded(report))
    if arrival is not None:
        outcome = deliveries.outcome(arrival, report, delivered_at, now)
        _say(f"Delivery of {arrival.day}: {outcome}.")  # the DAG load_shop reads this last line


@app.command()
def delivery(
    source: SourceName,
    day: Annotated[str, typer.Option(metavar="DAY", help="The day, such as 2026-11-05.")],
) -> None:
    """Say whether a day's files are in the landing folder. Ends with 75 while they may still come.

    Ends with 0 when they are there, or when the source allows a day without files; with 1 when
    they are missing.

    Example: `tierhouse delivery ./my_shop --day 2026-11-05`
    """
    from warehouse import deliveries
    from warehouse.source import read_source

    found = read_source(source)
    if not day or found.package is not None:
        _say("Nothing to wait for: these files are not a day's delivery.")
        return
    arrival = deliveries.look(found, read_settings().landing_folder, _day(day), _now())
    if arrival.state is deliveries.State.missing:
        raise TierhouseError(arrival.message)
    print(arrival.message)
    if arrival.state is deliveries.State.awaited:
        raise typer.Exit(deliveries.NOT_YET)


@sources.command("check")
def check_source(source: SourceName, path: ShopFiles = "") -> None:
    """Say what a load would do, and show mapped rows. Writes nothing, starts nothing.

    Example: `tierhouse sources check ./my_shop ~/exports`
    """
    from secrets import token_bytes

    from serving import terminal
    from warehouse import loading
    from warehouse.preview import preview
    from warehouse.source import read_source

    found = read_source(source)
    with console.status(f"Reading the files of {found.name}"):
        # A key of its own: these pseudonyms are for looking at, and nowhere else.
        seen = preview(found, _place(path), token_bytes(32), _now())
    for table, (columns, rows) in seen.rows.items():
        console.print(terminal.sample(table, columns, rows))
    console.print(terminal.loaded(seen.report))
    if said := loading.excess(found, seen.report.tables):
        raise Refused(f"A load would be refused: {said}. Nothing was written.")
    _say("Nothing was written.")


@quarantine.command("list")
def list_quarantine() -> None:
    """Count the rows that were refused, by table, reason and file.

    Example: `tierhouse quarantine list`
    """
    from serving import terminal
    from warehouse import quarantine as rows
    from warehouse.connections import open_warehouse

    columns, found = rows.overview(open_warehouse(read_settings()).warehouse)
    console.print(terminal.result(columns, found) if found else "Nothing is in quarantine.")


@quarantine.command("show")
def show_quarantine(
    table: Annotated[str | None, typer.Option(help="Only this table's rows.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only rows refused for this.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many rows.")] = 20,
) -> None:
    """Show refused rows: where they stand, why they were refused, what the file says.

    Example: `tierhouse quarantine show --reason future_time`
    """
    from serving import terminal
    from warehouse import quarantine as rows
    from warehouse.connections import open_warehouse

    urls = open_warehouse(read_settings())
    columns, found = rows.rows(urls.warehouse, table, reason, limit)
    console.print(terminal.result(columns, found) if found else "No such rows are in quarantine.")


@quarantine.command("replay")
def replay_quarantine(source: SourceName) -> None:
    """Map the refused rows again, from their files, after the source was mended.

    Example: `tierhouse quarantine replay ./my_shop`
    """
    from serving import terminal
    from warehouse import loading, pseudonyms
    from warehouse.connections import open_warehouse
    from warehouse.source import read_source

    found = read_source(source)
    settings = read_settings()
    with console.status(f"Mapping again what {found.name} left in quarantine") as status:
        urls = open_warehouse(settings)
        report = loading.replay(
            urls.warehouse,
            pseudonyms.read_key(settings, urls.warehouse),
            found,
            scratch=settings.home / "scratch",
            run_id=_run(settings, "replay"),
            progress=status.update,
        )
    console.print(terminal.loaded(report) if report.tables else "Nothing waits to be replayed.")


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    customers: Annotated[int, typer.Option(help="How many customers.")] = 10_000,
    days: Annotated[int, typer.Option(help="How many days, up to the end of 2025.")] = 730,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    dirt: Annotated[float, typer.Option(help="Share of damaged rows, such as 0.02.")] = 0.0,
    currencies: Annotated[str, typer.Option(help="Of EUR, GBP, USD, CHF, SEK.")] = "EUR",
) -> None:
    """Write a shop with known truth as Parquet files.

    Example: `tierhouse simulate --customers 10000 --days 730 --out ./shop`
    """
    from simulator import shop

    taken = tuple(currency.strip() for currency in currencies.upper().split(","))
    config = shop.Config(customers, days, seed, dirt, taken, os.cpu_count() or 1)
    with console.status("Simulating") as status:
        try:
            summary = shop.simulate(config, out.expanduser(), progress=status.update)
        except shop.WrongConfig as error:
            raise WrongUsage(str(error)) from None
    for name, rows in summary.rows.items():
        console.print(f"{name:<18}{rows:>14,} rows")
    _say(f"Next: tierhouse load simulated {summary.out}")


@app.command()
def lookup(
    customer: Annotated[str, typer.Argument(help="The shop's own identifier of a customer.")],
) -> None:
    """Say under which pseudonym a customer is known. Needs the role pii_reader.

    Example: `tierhouse lookup 17850`
    """
    from warehouse import pseudonyms
    from warehouse.connections import open_warehouse

    print(pseudonyms.look_up(open_warehouse(read_settings()).pii, customer))


@app.command("rotate-key")
def rotate_key() -> None:
    """Make a new secret key, and with it new pseudonyms for all customers, everywhere at once.

    Example: `tierhouse rotate-key`
    """
    from warehouse import pseudonyms
    from warehouse.connections import open_warehouse

    settings = read_settings()
    with console.status("Renaming the customers"):
        renamed = pseudonyms.rotate(settings, open_warehouse(settings).warehouse)
    _say(
        f"{renamed:,} customers have new pseudonyms. Exports with the old ones no longer match: "
        f"make them again. A source that makes order numbers from the customer now makes others: "
        f"a file that overlaps older ones would land their lines twice."
    )


@app.command()
def build(
    as_of: Annotated[
        str,
        typer.Option(
            "--as-of", metavar="DAY[,DAY…]", help="The days, such as 2017-10-01,2018-01-01."
        ),
    ],
    target: Annotated[
        Target, typer.Option(help="The engine; duckdb builds in a file of its own.")
    ] = Target.postgres,
) -> None:
    """Build the customer features of one or more days, in one pass.

    Example: `tierhouse build --as-of 2017-10-01,2018-01-01`
    """
    days = _days(as_of)
    settings = read_settings()
    _build(settings, _open_at(settings, days), days, target=target)


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
    if stage is not Stage.raw and as_of is None:
        raise WrongUsage(f"`tierhouse check {stage}` needs the day: --as-of 2018-01-01.")
    day = None if as_of is None else _day(as_of)

    from expectations import run
    from warehouse import publishing
    from warehouse.connections import open_warehouse

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
    day, settings = _day(as_of), read_settings()
    urls = _open_at(settings, [day])

    from ml import pipelines
    from serving import terminal

    with console.status("Looking for the champion") as status:
        outcome = pipelines.train(
            settings,
            urls,
            day,
            max_age_days,
            build=lambda days, horizon: _build(settings, urls, days, status, horizon_days=horizon),
            say=status.update,
        )
    if outcome.backtest is not None:
        console.print(terminal.scoreboard(outcome.backtest.to_json()))
    _say(outcome.message)


@app.command()
def tune(
    as_of: AsOf,
    seconds: Annotated[float, typer.Option(min=1, help="Begin no trial after so long.")] = 600,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many; repeatable to the bit.")
    ] = None,
) -> None:
    """Look for better settings of the trees for this shop, which later trainings use.

    Tried on windows older than those that models are judged on; every trial stands in MLflow.

    Example: `tierhouse tune --as-of 2018-01-01 --seconds 600`
    """
    day, settings = _day(as_of), read_settings()
    urls = _open_at(settings, [day])

    from ml import pipelines

    with console.status("Looking for windows to try on") as status:
        said = pipelines.tune(
            settings,
            urls,
            day,
            seconds,
            trials,
            build=lambda days, horizon: _build(settings, urls, days, status, horizon_days=horizon),
            say=status.update,
        )
    _say(said)


@app.command()
def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Of the registered model.")],
) -> None:
    """Make a version the champion by hand, whatever the gate said of it.

    Example: `tierhouse promote 3`
    """
    from ml import pipelines
    from warehouse.connections import open_warehouse

    settings = read_settings()
    _say(pipelines.promote(settings, open_warehouse(settings), version))


@app.command()
def rollback(
    champion: Annotated[
        bool, typer.Option("--champion", help="Instead: the model that was champion before.")
    ] = False,
) -> None:
    """Let analysts read the version again that they read before the current one.

    Example: `tierhouse rollback`
    """
    from warehouse import publishing
    from warehouse.connections import open_warehouse

    settings = read_settings()
    urls = open_warehouse(settings)
    if champion:
        from ml import pipelines

        _say(pipelines.rollback(settings, urls))
    else:
        _say(publishing.rollback(urls, _run(settings, "rollback")))


@app.command()
def score(as_of: AsOf) -> None:
    """Score every customer of a day and draw the tiers, out of the analysts' sight.

    Example: `tierhouse score --as-of 2018-01-01`
    """
    day, settings = _day(as_of), read_settings()
    urls = _open_at(settings, [day])

    from ml import pipelines

    with console.status("Scoring") as status:
        _say(pipelines.score(settings, urls, day, status.update))


@policies.command("check")
def check_policy(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Without it: the policy that is in use."),
    ] = None,
) -> None:
    """Say whether a policy can be followed, and what it would make of the published day.

    Writes nothing, starts nothing.

    Example: `tierhouse policy check ./our_tiers.yml`
    """
    from ml import pipelines
    from serving import terminal
    from warehouse import embedded
    from warehouse.connections import open_warehouse

    settings = read_settings()
    policy = pipelines.read_policy(settings, file)
    is_up = settings.warehouse_url is not None or embedded.running_port(settings) is not None
    found = pipelines.try_policy(open_warehouse(settings), policy) if is_up else None
    day = _now().date() if found is None else found.as_of_date
    for warning in policy.warnings(day):
        _say(f"Warning: {warning}")
    if found is None:
        why = "no day is published" if is_up else "the warehouse is not up"
        _say(f"Policy {policy.version} can be followed. It was tried on nobody: {why}.")
        return
    columns = ["tier", "customers", "from_another", "published", "expected_spend"]
    console.print(terminal.result(columns, found.tiers))
    _say(
        f"Policy {policy.version} can be followed. Of the customers of {day}, {found.moved:,} "
        f"would be in another tier than the published one."
    )
    if found.empty:
        _say(f"Nobody would be in {', '.join(found.empty)}.")


@app.command()
def publish(as_of: AsOf) -> None:
    """Let analysts see the scored day, if it passed its gate.

    Example: `tierhouse publish --as-of 2018-01-01`
    """
    from warehouse import publishing
    from warehouse.connections import open_warehouse

    settings = read_settings()
    urls = open_warehouse(settings)
    _say(publishing.publish(urls, _day(as_of), settings.keep_versions, _run(settings, "publish")))


@app.command()
def report(
    as_of: AsOf,
    language: Annotated[Language, typer.Option(help="English, or Chinese.")] = Language.en,
) -> None:
    """Write what happened to the customers' value on the published day, as one page.

    HTML that needs no network, and Markdown, in `reports/` of the home; both are kept in MLflow.
    Ends with 76 when analysts read another day.

    Example: `tierhouse report --as-of 2018-01-01`
    """
    from ml import pipelines
    from serving import report as insight
    from warehouse.connections import open_warehouse

    settings = read_settings()
    urls = open_warehouse(settings)
    day = _day(as_of)
    with console.status("Writing the report"):
        try:
            files = insight.write(
                urls.analyst, day, language, settings.home / "reports",
                pipelines.reason_names(language),
            )  # fmt: skip
        except insight.OtherDay as said:
            _say(str(said))
            raise typer.Exit(insight.OTHER_DAY) from None
        pipelines.keep_report(settings, urls, day, files)
    _say(f"Open {files.page} in a browser; {files.markdown.name} beside it says the same.")


@app.command()
def embed(
    as_of: AsOf,
    max_age_days: Annotated[
        int | None,
        typer.Option(min=0, help="Train anew when no model is this young on the day."),
    ] = None,
    size: Annotated[
        Size, typer.Option(help="Of the network; base and large want a GPU to learn on.")
    ] = Size.small,
) -> None:
    """Write what the sequence model sees of every customer of a day, for look-alikes.

    Trains it where none is registered that knows nothing later than the day.

    Example: `tierhouse embed --as-of 2018-01-01`
    """
    day, settings = _day(as_of), read_settings()
    urls = _open_at(settings, [day])

    from ml import pipelines

    with console.status("Looking for the sequence model") as status:
        said = pipelines.embed(
            settings,
            urls,
            day,
            max_age_days,
            build=lambda days, horizon: _build(settings, urls, days, status, horizon_days=horizon),
            say=status.update,
            size=size.value,
        )
    _say(said)


@app.command()
def lookalikes(
    customer: Annotated[
        str,
        typer.Argument(
            help="A pseudonym, or the shop's own identifier (that needs the role pii_reader)."
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=100_000, help="How many.")] = 20,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DAY", help="An embedded day; without it, the newest."),
    ] = None,
) -> None:
    """Say who is most like a customer, by what they did: the nearest first.

    Example: `tierhouse lookalikes 17850 --n 20`
    """
    day = None if as_of is None else _day(as_of)

    from ml import pipelines
    from serving import terminal
    from warehouse.connections import open_warehouse

    urls = open_warehouse(read_settings())
    with console.status("Comparing"):
        found = pipelines.look_alikes(urls, customer, n, day)
    console.print(terminal.result([*map(str, found)], found.to_numpy().tolist()))


@app.command()
def explain(
    customer: Annotated[
        str,
        typer.Argument(
            help="A pseudonym, or the shop's own identifier (that needs the role pii_reader)."
        ),
    ],
    n: Annotated[int, typer.Option("--n", min=1, max=1_000, help="How many reasons.")] = 5,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="DAY", help="An embedded day; without it, the newest."),
    ] = None,
    language: Annotated[Language, typer.Option(help="Of the reasons.")] = Language.en,
) -> None:
    """Say which events move what the sequence model expects of a customer, strongest first.

    The factor is on expected spend, against events of which nothing is known.

    Example: `tierhouse explain 17850`
    """
    from ml import pipelines
    from serving import terminal
    from warehouse.connections import open_warehouse

    day = None if as_of is None else _day(as_of)
    settings = read_settings()
    urls = open_warehouse(settings)
    with console.status("Looking for the customer") as status:
        found = pipelines.explain(settings, urls, customer, n, day, status.update)
    told = zip(found.occasions["effect"], found.occasions[f"text_{language}"], strict=True)
    rows = [(f"×{effect:.2f}", text) for effect, text in told]
    console.print(terminal.result(["factor", "what happened"], rows))
    _say(
        f"All their events together: ×{found.together[0]:.2f}, against events of which nothing is "
        f"known."
    )


@app.command()
def backtest(
    origins: Annotated[
        str | None,
        typer.Option(metavar="DAY[,DAY…]", help="The days to predict from, such as 2017-09-01."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="DAY", help="Instead: the four newest that were closed by this day."
        ),
    ] = None,
    horizon: Annotated[int, typer.Option(min=1, help="Days predicted.")] = 90,
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME…]",
            help="Judge only these models and baselines. Only by name: transformer, gru, cnn, "
            "transformer_scratch (not pre-trained) and hybrid, which read the events and take "
            "minutes.",
        ),
    ] = "",
    label_share: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=1,
            help="Learn from the labels of this share of the customers, always the same ones.",
        ),
    ] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every metric there too.")
    ] = None,
) -> None:
    """Judge the models beside the baselines on past days, on the shop that is loaded.

    The scoreboard, its figures and every candidate's metrics are kept in MLflow.

    Example: `tierhouse backtest --origins 2017-09-01,2017-10-01 --horizon 90`
    """
    if (origins is None) == (as_of is None):
        raise WrongUsage(
            "`tierhouse backtest` needs either the days to predict from (--origins "
            "2017-09-01,2017-10-01) or a day by which their windows were closed (--as-of "
            "2018-01-01)."
        )
    days = [] if origins is None else _days(origins)
    until = None if as_of is None else _day(as_of)
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise WrongUsage(f"There is no folder {json_file.absolute().parent} to write into.")
    settings = read_settings()
    urls = _open_at(settings, days, horizon)

    from ml import pipelines
    from serving import terminal

    with console.status("Reading the history") as status:
        judged = pipelines.backtest(
            settings,
            urls,
            days if until is None else pipelines.newest_origins(urls, until, horizon),
            horizon,
            [name.strip() for name in models.split(",") if name.strip()],
            build=lambda days, horizon: _build(settings, urls, days, status, horizon_days=horizon),
            say=status.update,
            label_share=label_share,
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
def docs() -> None:
    """Write a page about every table and column: what it means, and what it is made from.

    Example: `tierhouse docs`
    """
    from warehouse import catalog
    from warehouse.connections import open_warehouse

    settings = read_settings()
    with console.status("Writing the page"):
        page = catalog.generate(open_warehouse(settings), settings)
    _say(f"Open {page} in a browser.")


@app.command()
def demo(
    source: SourceName = "complete_journey",
    path: ShopFiles = "",
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
    began = monotonic()
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
    _say(f"Done in {monotonic() - began:.0f} s. Airflow's log: {log}\n{NEXT}")


@app.command()
def up() -> None:
    """Start the warehouse, Airflow, MLflow and the dashboard, and say where they are.

    Example: `tierhouse up`
    """
    from warehouse import services
    from warehouse.connections import open_warehouse

    settings = read_settings()
    services.refuse_taken_ports(
        settings.home,
        airflow=settings.airflow_port,
        mlflow=settings.mlflow_port,
        dashboard=settings.dashboard_port,
    )
    with console.status("Starting the warehouse") as status:
        urls = open_warehouse(settings)
        environment = _environment(settings, urls)
        status.update("Preparing Airflow's database")
        services.migrate(environment)
        status.update("Starting Airflow, MLflow and the dashboard")
        services.start(settings.home, environment, settings.secret("airflow_admin"))
    _show_status(settings)


@app.command()
def dashboard() -> None:
    """Serve the analysts' pages on this machine until it is stopped. They only read.

    Example: `tierhouse dashboard`
    """
    from serving import dashboard as pages
    from warehouse import services
    from warehouse.connections import open_warehouse

    settings = read_settings()
    services.refuse_taken(settings.dashboard_port, "the dashboard", "TIERHOUSE_DASHBOARD_PORT")
    if settings.analyst_url is None:  # else it may be all that is known here
        open_warehouse(settings)
    program = Path(sys.executable).with_name("streamlit")
    environment = pages.options(settings.dashboard_port) | NO_TELEMETRY | os.environ
    _say(f"The dashboard is on http://127.0.0.1:{settings.dashboard_port} (Ctrl-C ends it).")
    sys.stdout.flush()
    os.execve(program, [str(program), "run", str(pages.APP)], environment)


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
    """Stop Airflow, MLflow, the dashboard and the embedded warehouse. Nothing is lost.

    Example: `tierhouse down`
    """
    from warehouse import embedded, services

    settings = read_settings()
    with console.status("Stopping"):
        stopped = [
            name
            for name, was_running in (
                ("Airflow, MLflow and the dashboard", services.stop(settings.home)),
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
            str(error),
            80,
            initial_indent="Error: ",
            break_long_words=False,
            break_on_hyphens=False,
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
        dashboard_port=settings.dashboard_port,
        secret=settings.secret,
        inherited=os.environ | settings.for_dags(),
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
        print(f"{part:<17} {now:<17} {where}".rstrip())


def _place(path: str) -> Path | None:
    try:
        return Path(path).expanduser() if path else None
    except RuntimeError as error:
        raise WrongUsage(f"{path} cannot be found: {error}") from None


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _run(settings: Settings, command: str) -> str:
    """What started a load: the run of a DAG, or a person."""
    return settings.dag_run or f"{command} {_now():%Y-%m-%d %H:%M:%S}"


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise WrongUsage(f"{text!r} is not a day such as 2018-01-01.") from None


def _days(text: str) -> list[date]:
    return sorted({_day(part.strip()) for part in text.split(",")})


def _open_at(settings: Settings, days: Sequence[date], horizon_days: int | None = None) -> "Urls":
    """The warehouse, if its history reaches these days, and the end of their windows.

    Commands ask before they import what takes seconds: who mistyped a day hears it at once.
    """
    from warehouse import building
    from warehouse.connections import open_warehouse

    urls = open_warehouse(settings)
    history = building.read_history(urls)
    building.refuse_days_outside(history, days)
    if horizon_days is not None:
        building.refuse_open_windows(history, days, horizon_days)
    return urls


def _build(
    settings: Settings,
    urls: "Urls",
    days: Sequence[date],
    status: Status | None = None,
    target: Target = Target.postgres,
    horizon_days: int | None = None,
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

        nodes = building.build(urls, days, settings.home, target, show, horizon_days)
    listed = str(days[0]) if len(days) == 1 else f"{len(days)} days, {min(days)} to {max(days)}"
    _say(f"Built {listed}: {nodes} models and tests hold.")
    if status is not None:
        status.start()
