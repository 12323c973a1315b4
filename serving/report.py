"""What happened to the customers' value on a published day, as one page to send around.

Each block is a query of `analytics` and what came of it; the query stands below it, so that
`tierhouse sql` gives the same numbers again. The page fetches nothing when it is read: no script,
no font, no picture from elsewhere. Of the same version it is the same page, byte for byte.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from serving import queries, texts
from serving.columns import KINDS, written
from serving.texts import Say
from warehouse.settings import TierhouseError

OTHER_DAY = 76  # exit code: analysts read another day, so there is nothing to report of this one
TEMPLATES = Path(__file__).with_name("templates")
BARS = ("expected_share", "share", "share_of_previous", "raising_share")


@dataclass(frozen=True)
class Block:
    """A query and the columns of it that are shown; where none are, the text says its one row."""

    name: str
    query: str
    columns: tuple[str, ...] = ()


MOVER = (
    "customer_id", "previous_tier", "tier", "expected_spend", "churn_probability", "decided_by",
    "reasons",
)  # fmt: skip
SECTIONS = {
    "brief": [Block("brief", queries.BRIEF)],
    "tiers": [
        Block("tiers", queries.TIERS, (
            "tier", "customers", "customers_change", "expected_spend", "expected_share",
            "purchase_probability_mean",
        )),
    ],
    "moved": [
        Block("migrations", queries.MIGRATIONS, (
            "previous_tier", "tier", "customers", "share_of_previous", "expected_spend",
        )),
        Block("fallen", queries.FALLEN, MOVER),
        Block("risen", queries.RISEN, MOVER),
        Block("why_moved", queries.WHY_MOVED, ("direction", "reason", "customers", "effect")),
    ],
    "risk": [
        Block("at_risk", queries.AT_RISK, (
            "tier", "customers", "expected_spend", "churn_probability", "spend_at_risk",
        )),
        Block("most_at_risk", queries.MOST_AT_RISK, (
            "customer_id", "tier", "movement", "expected_spend", "churn_probability",
            "spend_at_risk", "reasons",
        )),
    ],
    "segments": [
        Block("segments", queries.SEGMENTS, (
            "segment", "customers", "share", "expected_spend", "expected_share", "description",
        )),
    ],
    "drivers": [
        Block("drivers", queries.DRIVERS, ("reason", "customers", "raising_share", "effect")),
    ],
    "judged": [
        Block("judged", queries.EVALUATION, (
            "as_of_date", "tier", "customers", "expected_spend", "realised_spend", "share", "lift",
            "precision", "recall", "f1",
        )),
        Block("scoreboard", queries.BOARD, (
            "candidate", "normalized_gini", "capture_top10", "spearman", "auroc_active",
            "sum_ratio", "mae",
        )),
    ],
    "caveats": [
        Block("method", queries.METHOD),
        Block("gates", queries.GATES, ("stage", "as_of_date", "holding", "warnings", "failing")),
        Block("not_holding", queries.FAILING, (
            "severity", "table_name", "column_name", "expectation", "observed",
        )),
        Block("quarantine", queries.QUARANTINE, ("table_name", "reason", "rows")),
    ],
}  # fmt: skip


class OtherDay(TierhouseError):
    """Analysts read another day than the one that was asked for."""


class Cell(NamedTuple):
    """How a value reads; is_number: to the right; bar: the share of the cell that is shaded."""

    text: str
    is_number: bool
    bar: float | None


class Answer(NamedTuple):
    """A block with what came of its query, as the templates read it."""

    name: str
    text: str
    query: str
    headings: list[tuple[str, bool]]
    rows: list[list[Cell]]


class Files(NamedTuple):
    """Where the report stands."""

    page: Path
    markdown: Path


def write(
    url: str, day: date, language: str, folder: Path, reason_names: Mapping[str, str]
) -> Files:
    """Write the report of the published day into the folder, as an HTML page and as Markdown.

    reason_names: what a family of reasons is called in this language, by its key. Raises
    TierhouseError: nothing is published. Raises OtherDay: it is not this day.
    """
    say = texts.speak(language)
    with queries.snapshot(url) as ask:
        published = queries.published(ask)
        if published is None:
            raise TierhouseError(
                "Nothing is published, so there is nothing to report. Publish a day first "
                "(`tierhouse publish --as-of DAY`); `tierhouse demo` shows the whole way."
            )
        if published.as_of_date != day:
            raise OtherDay(
                f"No report of {day}: analysts read {published.as_of_date}, and a report is about "
                f"what they read. Run `tierhouse report --as-of {published.as_of_date}`."
            )
        sections = {
            section: [_answer(block, ask(block.query), say, reason_names) for block in blocks]
            for section, blocks in SECTIONS.items()
        }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(enabled_extensions=("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _in_markdown
    stem = f"{day}" if language == "en" else f"{day}.{language}"
    files = Files(folder / f"{stem}.html", folder / f"{stem}.md")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for file in files:
        template = environment.get_template(f"report{file.suffix}")
        page = template.render(say=say, language=language, day=day, sections=sections)
        draft = file.with_name(f".{file.name}.{uuid4().hex}")
        draft.write_text(page, encoding="utf-8")
        draft.replace(file)  # whoever reads it reads a whole one
    return files


def _answer(block: Block, rows: pd.DataFrame, say: Say, reason_names: Mapping[str, str]) -> Answer:
    """The words of a block, and its table where it has one."""
    spoken = rows.rename(columns=lambda name: name.removesuffix(f"_{say('language')}"))
    if "reason" in spoken and block.name != "quarantine":
        spoken = spoken.assign(reason=[reason_names.get(key, key) for key in spoken["reason"]])
    if "direction" in spoken:
        spoken = spoken.assign(direction=spoken["direction"].map(say))
    if block.columns:
        text = say(f"report_{block.name}" if len(rows) else f"report_{block.name}_none")
    else:
        text = "\n".join(_sentences(block, spoken.iloc[0], say))
    shown = [name for name in block.columns if name in spoken]
    records = spoken[shown].astype(object).itertuples(index=False, name=None) if shown else ()
    return Answer(
        block.name,
        text,
        " ".join(block.query.split()),
        [(say(name), name in KINDS) for name in shown],
        [[_cell(name, value) for name, value in zip(shown, row, strict=True)] for row in records],
    )


def _cell(name: str, value: Any) -> Cell:
    text = written(name, value)
    is_bar = name in BARS and text != "–"
    return Cell(text, name in KINDS, min(max(float(value), 0), 1) if is_bar else None)


def _in_markdown(text: str) -> str:
    """A cell of a table, whatever a shop calls its things."""
    marks = {"|": "\\|", "<": "&lt;", "\n": " ", "\r": " ", "`": "\\`", "*": "\\*", "_": "\\_"}
    return text.translate(str.maketrans(marks))


def _sentences(block: Block, row: pd.Series, say: Say) -> Iterator[str]:
    """What the only row of a query says, in the words of the block and of what holds of it."""
    values = {str(name): written(str(name), value) for name, value in row.items()}
    yield say(f"report_{block.name}", **values)
    if block.name == "brief" and pd.isna(row["previous_as_of_date"]):
        yield say("first_version")
    elif block.name == "brief":
        yield say("report_against_before", **values)
    elif block.name == "method":
        yield from _caveats(row, values, say)


def _caveats(row: pd.Series, values: Mapping[str, str], say: Say) -> Iterator[str]:
    """What the method could not say of these customers."""
    if row["model_version"] == "untrained":
        yield say("report_no_model", **values)
    if row["customers_without_interval"]:
        yield say("report_no_interval", **values)
    if row["customers_without_reasons"]:
        yield say("report_no_reasons", **values)
