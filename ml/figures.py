"""What people look at before they trust a model. Values in, matplotlib Figures out; no global
state, no files."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from ml import lightgbm_hurdle
from ml.backtest import Backtest

MODEL = "#1f5fa8"
ACTUAL = "#d9822b"
OTHERS = ("#4f8a5b", "#8a5fa8", "#a85f5f", "#7a7a7a")
QUIET = "#9aa0a6"


def calibration(judged: Backtest, model: str = "lightgbm_hurdle") -> Figure:
    """Mean expected and actual spend of each tenth of the newest origin's customers."""
    expected_spend = judged.newest.predictions[model].expected_spend
    if expected_spend is None:
        raise ValueError(f"{model} only ranks customers: it has no spend to compare")
    tenths = np.array_split(np.argsort(-expected_spend, kind="stable"), 10)
    expected = [expected_spend[rows].mean() if rows.size else np.nan for rows in tenths]
    actual = [judged.newest.spend[rows].mean() if rows.size else np.nan for rows in tenths]
    figure, axes = _figure(f"Expected and actual spend, {_window(judged)}")
    places = np.arange(1, 11)
    axes.bar(places - 0.2, expected, width=0.38, color=MODEL, label=f"expected by {model}")
    axes.bar(places + 0.2, actual, width=0.38, color=ACTUAL, label="actual")
    axes.set_xticks(places)
    axes.set_xlabel("tenth of customers, highest expected spend first")
    axes.set_ylabel("mean spend per customer")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.legend(frameon=False)
    return figure


def gain(judged: Backtest, model: str = "lightgbm_hurdle") -> Figure:
    """Share of all spend held by the customers ranked first, beside the best baselines' orders."""
    spend, predictions = judged.newest.spend, judged.newest.predictions
    best = [
        judged.best_baseline[metric] for metric in ("normalized_gini", "capture_top10", "spearman")
    ]
    figure, axes = _figure(f"Spend captured by the customers ranked first, {_window(judged)}")
    for place, name in enumerate(dict.fromkeys((model, *best))):
        width = 2.4 if name == model else 1.4
        x, y = _gains(spend, predictions[name].score)
        axes.plot(
            x, y, label=name, color=(MODEL, *OTHERS)[place], linewidth=width, zorder=9 - place
        )
    axes.plot(*_gains(spend, spend), label="perfect order", color=QUIET, linestyle="--")
    axes.plot([0, 1], [0, 1], label="no order", color=QUIET, linestyle=":")
    axes.axvline(0.10, color=QUIET, linewidth=0.8)
    axes.text(0.11, 0.03, "top 10 %", color="#5f6368", fontsize=9)
    axes.set(xlim=(0, 1), ylim=(0, None), ylabel="share of actual spend")
    axes.set_xlabel("share of customers, highest score first")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, loc="lower right")
    return figure


def importance(model: lightgbm_hurdle.Model, top: int = 20) -> Figure:
    """The features that the two boosters gained most from."""
    shown = lightgbm_hurdle.importance(model).head(top).iloc[::-1]
    figure, axes = _figure("What the model looks at", height=1.4 + 0.28 * max(len(shown), 4))
    places = np.arange(len(shown))
    axes.barh(places + 0.19, shown["purchase"], height=0.36, color=MODEL, label="whether they buy")
    axes.barh(
        places - 0.19, shown["amount"], height=0.36, color=ACTUAL, label="how much they spend"
    )
    axes.set_yticks(places, shown["feature"])
    axes.set_xlabel("share of the model's total gain")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(y=0.02)
    axes.legend(frameon=False, loc="lower right")
    return figure


def _window(judged: Backtest) -> str:
    return f"{judged.horizon_days} days from {judged.newest.as_of_date}"


def _figure(title: str, height: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _gains(spend: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of customers and of spend at the end of each group of equal scores, from (0, 0)."""
    by_score = pd.DataFrame({"spend": spend, "one": 1.0}).groupby(-np.asarray(score)).sum().cumsum()
    total = by_score["spend"].iloc[-1] or np.nan
    return np.r_[0, by_score["one"] / len(spend)], np.r_[0, by_score["spend"] / total]
