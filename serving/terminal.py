"""Results as tables for an 80-column terminal."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from math import inf, isfinite
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from warehouse.loading import Report

# Metric -> heading, and how a value reads.
SCOREBOARD: Mapping[str, tuple[str, str]] = {
    "normalized_gini": ("Gini", ".3f"),
    "capture_top10": ("top 10 %", ".3f"),
    "spearman": ("Spearman", ".3f"),
    "auroc_active": ("AUROC", ".3f"),
    "sum_ratio": ("Σ ratio", ".2f"),
    "mae": ("MAE", ",.1f"),
}


def loaded(report: Report) -> Group:
    """Where every row went, by table; files whose content was loaded before add nothing."""
    counts = {
        "read": [entry.read for entry in report.tables],
        "accepted": [entry.accepted for entry in report.tables],
        "corrected": [entry.corrected for entry in report.tables],
        "duplicate": [entry.duplicate for entry in report.tables],
        "anonymous": [entry.anonymous for entry in report.tables],
        "quarantined": [sum(entry.quarantined.values()) for entry in report.tables],
    }
    always = ("read", "accepted")
    shown = {name: rows for name, rows in counts.items() if name in always or any(rows)}
    table = _table("table", *shown)
    table.padding = 0
    for column in table.columns:
        column.no_wrap = True
    for place, entry in enumerate(report.tables):
        table.add_row(entry.table, *(f"{rows[place]:,}" for rows in shown.values()))
    said: list[RenderableType] = [table] if report.tables else []
    for entry in report.tables:
        for reason, rows in entry.quarantined.items():
            said.append(f"quarantined  {entry.table}: {rows:,} {reason}")
    said += [
        f"{entry.table}: {entry.merged:,} of the duplicates were merged or left out by the mapping"
        for entry in report.tables
        if entry.merged
    ]
    said += [escape(notice) for notice in report.notices]
    if report.loaded_before:
        said.append(f"Loaded before, so left alone: {escape(', '.join(report.loaded_before))}.")
    return Group(*said)


def sample(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A few rows side by side, one line per column of the table."""
    table = Table(box=SIMPLE_HEAD, title=name, title_justify="left", pad_edge=False)
    table.add_column("column", no_wrap=True)
    for number in range(1, len(rows) + 1):
        table.add_column(f"row {number}", overflow="ellipsis", no_wrap=True, max_width=12)
    if not rows:
        table.add_row("no row would land")
    for place, column in enumerate(columns):
        if any(row[place] is not None for row in rows):
            table.add_row(column, *(escape(str(row[place])) for row in rows))
    return table


def tiers(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows of analytics.tier_summary: the published day beside the held-out window."""
    first = rows[0]
    table = _table("tier", "customers", "expected", "share", "judged: expected", "judged: spent")
    table.title = f"Tiers as of {first['as_of_date']}, for the next {first['horizon_days']} days"
    if first["evaluated_as_of_date"] is not None:
        table.caption = (
            f"Judged: the same tiers drawn on {first['evaluated_as_of_date']} by a model that had "
            f"seen nothing later: the share it expected, and what was then spent.\n"
        )
    for row in rows:
        table.add_row(
            row["tier"], f"{row['customers']:,}", f"{row['expected_spend']:,.0f}",
            _percent(row["expected_share"]), _percent(row["evaluated_expected_share"]),
            _percent(row["evaluated_realised_share"]),
        )  # fmt: skip
    return table


def scoreboard(judged: Mapping[str, Any]) -> Table:
    """A backtest's JSON: every model and baseline on the same customers; the best is bold."""
    models: Mapping[str, Mapping[str, float | None]] = judged["pooled"]
    origins = [origin["as_of_date"] for origin in judged["origins"]]
    table = _table("", *(heading for heading, _ in SCOREBOARD.values()))
    table.title = f"Scoreboard, {judged['horizon_days']} days, means over {len(origins)} origins"
    table.caption = (
        f"Origins: {', '.join(origins)}. Gini: normalised; top 10 %: share of revenue they "
        f"brought; Σ ratio: all predicted over all actual."
    )
    if (learned := judged.get("learned_days", judged["horizon_days"])) != judged["horizon_days"]:
        table.caption += (
            f" No window of {judged['horizon_days']} days had closed by then: learned from windows "
            f"of {learned} days."
        )
    for name, why in judged.get("left_out", {}).items():
        table.caption += f" Left out: {name}, {escape(why)}."
    for name, metrics in models.items():
        gains = []
        for metric in ("normalized_gini", "capture_top10", "spearman", "auroc_active"):
            found = [metrics.get(f"{metric}_gain{end}") for end in ("", "_low", "_high")]
            if None not in found:
                gain, low, high = (format(value, "+.3f") for value in found)
                gains.append(f"  {SCOREBOARD[metric][0]} {gain} ({low} to {high})")
        if gains:
            table.caption += "\n" + "\n".join(
                [f"{name} against the best baseline (90 % interval):", *gains]
            )
    best = {metric: _best(models, metric) for metric in SCOREBOARD}
    for name in sorted(models, key=lambda name: _rank(models[name].get("normalized_gini"))):
        metrics = models[name]
        cells = []
        for metric, (_, form) in SCOREBOARD.items():
            value = metrics.get(metric)
            text = "–" if value is None else format(value, form)
            cells.append(f"[bold]{text}[/bold]" if name == best[metric] else text)
        table.add_row(name, *cells)
    return table


def judged(rows: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """A backtest's JSON from rows of candidate, origin (None: pooled), horizon, metric, value."""
    pooled: dict[str, dict[str, float]] = {}
    origins: dict[str, dict[str, dict[str, float]]] = {}
    horizon_days = 0
    for candidate, origin, horizon_days, metric, value in rows:  # noqa: B007
        models = pooled if origin is None else origins.setdefault(origin.isoformat(), {})
        models.setdefault(candidate, {})[metric] = value
    return {
        "horizon_days": horizon_days,
        "pooled": pooled,
        "origins": [{"as_of_date": day, "models": origins[day]} for day in sorted(origins)],
    }


def result(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """The rows of a query, numbers to the right."""
    table = _table(*map(escape, columns))
    for place, column in enumerate(table.columns):
        is_number = all(isinstance(row[place], int | float | Decimal | None) for row in rows)
        column.justify = "right" if is_number and place > 0 else "left"
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    return table


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """RFC 4180, with a header and plain line feeds; null is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def as_json(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An array of objects. Days and times are ISO 8601; a number that JSON's readers would round,
    and NaN and infinities, are text; a column's second `a` is `a_2`."""
    seen: Counter[str] = Counter()
    names = []
    for name in columns:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    records = [dict(zip(names, map(_finite, row), strict=True)) for row in rows]
    return json.dumps(records, default=_plain, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _rank(value: float | None) -> float:
    return -inf if value is None else value


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        exact = value.is_finite() and Decimal(repr(float(value))) == value
        return float(value) if exact else str(value)
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value)


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _percent(share: Any) -> str:
    return "–" if share is None else f"{100 * float(share):.1f} %"


def _best(models: Mapping[str, Mapping[str, float | None]], metric: str) -> str | None:
    better: Callable[[float], float] = {
        "sum_ratio": lambda value: -abs(value - 1),
        "mae": lambda value: -value,
    }.get(metric, lambda value: value)
    scored = {
        name: better(value) for name, m in models.items() if (value := m.get(metric)) is not None
    }
    return max(scored, key=scored.__getitem__) if scored else None
