"""What somebody should know before they use a model (Mitchell et al., "Model cards for model
reporting", FAT* 2019). Pure: a judged model in, Markdown out."""

from collections.abc import Mapping, Sequence
from datetime import date

from ml.backtest import Backtest
from ml.horizons import Outlook
from ml.sufficiency import Report

SHOWN: Mapping[str, str] = {
    "spearman": "Spearman",
    "normalized_gini": "normalised Gini",
    "auroc_active": "AUROC, who buys",
    "capture_top10": "revenue of the top 10 %",
    "sum_ratio": "predicted / actual",
    "mae": "MAE",
    "ece": "ECE",
}


def to_markdown(
    outlook: Outlook,
    judged: Backtest,
    name: str,
    as_of: date,
    learned_from: Sequence[date],
    report: Report,
) -> str:
    """The card of a model of this name on the scoreboard, trained as of a day."""
    asked = outlook.asked
    origins = ", ".join(str(origin.as_of_date) for origin in judged.origins)
    borrowed = [
        f"{days} days from windows of {model.learned_days}"
        for days, model in outlook.models.items()
        if model.learned_days != days
    ]
    lines = [
        f"# {name}, as of {as_of}",
        "",
        f"**Answers** for every customer of a day: net spend in the next {outlook.asked_days} days "
        f"with the interval that is to hold nine in ten, the chances of an order and of standing "
        f"in the top decile of spend, the day of the next order; and spend and the chance of an "
        f"order for {', '.join(map(str, outlook.models))} days. Money is net of returns, in the "
        f"reporting currency.",
        "",
        f"**Learned from** {len(learned_from)} days, {min(learned_from)} to {max(learned_from)}, "
        f"whose windows had closed by {as_of}, and {len(asked.features)} features. {report.reason}",
        "",
        f"**Judged** by the same configuration on windows it had not seen ({origins}), beside the "
        f"best baseline of each metric; 90 % bootstrap intervals.",
        "",
        "| metric | model | best baseline | paired gain |",
        "|---|---|---|---|",
        *_rows(judged, name),
        "",
        "**Not for**: single large decisions about one person (the interval is wide); prices or "
        "credit; customers without an order. What a customer would do if treated otherwise is "
        "another question. Reasons say what the model looked at, and are no causes.",
        "",
        "**Limits.** Only the asked horizon is on this card; `tierhouse backtest --horizon` judges "
        "the others."
        + (f" Learned from shorter windows: {'; '.join(borrowed)}." if borrowed else "")
        + (" It has no intervals: too few customers." if asked.intervals is None else "")
        + (" It has seen no season twice." if report.seasons < 2 else ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(judged: Backtest, name: str) -> list[str]:
    found = judged.pooled[name]
    rows = []
    for metric, said in SHOWN.items():
        best = judged.best_baseline.get(metric)
        beside, gain = "–", "–"
        if best is not None:
            beside = f"{best} {judged.pooled[best][metric]:.3f}"
            low, high = found[f"{metric}_gain_low"], found[f"{metric}_gain_high"]
            gain = f"{found[f'{metric}_gain']:+.3f} ({low:+.3f} to {high:+.3f})"
        own = f"{found[metric]:.3f} ({found[f'{metric}_low']:.3f} to {found[f'{metric}_high']:.3f})"
        rows.append(f"| {said} | {own} | {beside} | {gain} |")
    return rows
