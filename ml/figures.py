"""What people look at before they trust a model. Values in, matplotlib Figures out; no global
state, no files."""

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter
from scipy.special import expit

from ml import curves, lightgbm_hurdle, treeshap
from ml.backtest import Backtest
from ml.metrics import CONFUSION, DECILES
from ml.segments import Profile, Segments
from ml.tier_evaluation import TierResult, summed, top_tier

MODEL = "#1f5fa8"
ACTUAL = "#d9822b"
OTHERS = ("#4f8a5b", "#8a5fa8", "#a85f5f", "#7a7a7a")
QUIET = "#9aa0a6"
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", MODEL])


def calibration(judged: Backtest, model: str = "lightgbm_hurdle") -> Figure:
    """Mean expected and actual spend of each tenth of the newest origin's customers."""
    expected_spend = judged.newest.predictions[model].expected_spend
    if expected_spend is None:
        raise ValueError(f"{model} only ranks customers: it has no spend to compare")
    expected, actual = curves.calibration(judged.newest.spend, expected_spend)
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
    asked = ("normalized_gini", "capture_top10", "spearman")
    best = [judged.best_baseline[metric] for metric in asked if metric in judged.best_baseline]
    figure, axes = _figure(f"Spend captured by the customers ranked first, {_window(judged)}")
    for place, name in enumerate(dict.fromkeys((model, *best))):
        width = 2.4 if name == model else 1.4
        x, y = curves.gain(spend, predictions[name].score)
        axes.plot(
            x, y, label=name, color=(MODEL, *OTHERS)[place], linewidth=width, zorder=9 - place
        )
    axes.plot(*curves.gain(spend, spend), label="perfect order", color=QUIET, linestyle="--")
    axes.plot([0, 1], [0, 1], label="no order", color=QUIET, linestyle=":")
    axes.axvline(0.10, color=QUIET, linewidth=0.8)
    axes.text(0.11, 0.03, "top 10 %", color="#5f6368", fontsize=9)
    axes.set(xlim=(0, 1), ylim=(0, None), ylabel="share of actual spend")
    axes.set_xlabel("share of customers, highest score first")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, loc="lower right")
    return figure


def tiers(windows: Mapping[date, Sequence[TierResult]]) -> Figure:
    """Of all windows together: what a customer of each tier was expected to spend and spent; each
    tier's share of the customers and of the spend; and who the first tier found.

    Every dot is a window.
    """
    results = summed(windows.values())
    names = [result.tier for result in results]
    places = np.arange(len(results))
    figure = Figure(figsize=(12, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Tiers on {len(windows)} windows that the model had not seen",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    means, shares, top = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.8))
    for offset, color, name in (
        (-0.2, MODEL, "expected_spend"),
        (0.2, ACTUAL, "realised_spend"),
    ):
        said = name.replace("_", " ")
        heights = [getattr(r, name) / max(r.customers, 1) for r in results]
        means.bar(places + offset, heights, width=0.38, color=color, label=said)
        for of_window in windows.values():
            dots = [getattr(r, name) / max(r.customers, 1) for r in of_window]
            means.plot(places + offset, dots, ".", color="#202124", markersize=4)
    means.set_title("mean spend per customer", loc="left", fontsize=10)
    means.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    means.legend(frameon=False)
    for offset, color, name in ((-0.2, QUIET, "customers"), (0.2, ACTUAL, "realised_spend")):
        whole = sum(getattr(r, name) for r in results) or np.nan
        heights = [getattr(r, name) / whole for r in results]
        said = f"share of {name.replace('_', ' ')}"
        bars = shares.bar(places + offset, heights, width=0.38, color=color, label=said)
        shares.bar_label(bars, [f"{height:.0%}" for height in heights], fontsize=8)
    shares.set_title("shares", loc="left", fontsize=10)
    shares.yaxis.set_major_formatter(PercentFormatter(1))
    shares.legend(frameon=False)
    for axes in (means, shares):
        axes.set_xticks(places, names, rotation=30 if len(names) > 4 else 0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e8eaed", linewidth=0.8)
        axes.set_axisbelow(True)
    found = top_tier(results)
    cells = np.array([[found.found, found.missed], [found.called_wrongly, found.left_out]])
    _two_by_two(top, cells)
    top.set_title(f"{names[0]}: precision {found.precision:.0%}, recall {found.recall:.0%}",
                  loc="left", fontsize=10)  # fmt: skip
    top.set_xticks([0, 1], [f"in {names[0]}", "not in it"])
    top.set_yticks([0, 1], ["spent most", "others"])
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


def reasons_importance(found: pd.DataFrame, top: int = 20) -> Figure:
    """By how much each family of features moves the expected spend of a customer, on average.

    found: what `reasons.importance` found.
    """
    shown = found.head(top).iloc[::-1]
    figure, axes = _figure(
        "What moves the expected spend of a customer", height=1.4 + 0.28 * max(len(shown), 4)
    )
    axes.barh(np.arange(len(shown)), shown["spend"], height=0.6, color=MODEL)
    axes.set_yticks(np.arange(len(shown)), shown["label_en"])
    axes.set_xlabel("factor on expected spend, up or down, for the average customer")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _factor(value)))
    axes.margins(y=0.02)
    return figure


def dependence(model: lightgbm_hurdle.Model, frame: pd.DataFrame, top: int = 4) -> Figure:
    """How the features that move expected spend most do it, each dot one row of frame.

    Above the odds of buying, below the spend of those who buy, as factors against the average row
    that the model learned from. Rows whose value is not known stand apart on the left. The highest
    and the lowest hundredth of the values are left out.
    """
    values = frame[list(model.features)].to_numpy(dtype=float, na_value=np.nan)
    odds, amount = (
        treeshap.contributions(booster, values) for booster in (model.purchase, model.amount)
    )
    moved = odds * (1 - expit(odds.sum(axis=1)))[:, None] + amount
    strongest = np.argsort(-np.abs(moved[:, :-1]).mean(axis=0), kind="stable")[:top]
    figure = Figure(figsize=(0.9 + 2.6 * len(strongest), 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        "How expected spend follows the strongest features",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    grid = figure.subplots(2, len(strongest), sharex="col", sharey="row", squeeze=False)
    for axes, about, found in zip(
        grid, ("odds of buying", "spend if they buy"), (odds, amount), strict=True
    ):
        for panel, place in zip(axes, strongest, strict=True):
            _dots(panel, values[:, place], found[:, place])
        axes[0].set_ylabel(f"factor on {about}")
    for panel, place in zip(grid[1], strongest, strict=True):
        panel.set_xlabel(model.features[place])
    return figure


def roc(judged: Backtest, models: Sequence[str]) -> Figure:
    """How many of the newest origin's high-value customers are found for how many false alarms.

    The mark on a curve is the operating point: the tenth ranked first is called high value. Raises
    ValueError where the labels did not say who is of high value.
    """
    is_high_value = _high_value(judged)
    wrong, right = (~is_high_value).astype(float), is_high_value.astype(float)
    tenth = np.ceil(is_high_value.size / DECILES) / is_high_value.size
    figure, axes = _figure(f"Who will be of high value, {_window(judged)}", height=5.6)
    for place, name in enumerate(models):
        score = judged.newest.predictions[name].high_value_score
        ranked, x = curves.gain(wrong, score)
        _, y = curves.gain(right, score)
        color = (MODEL, *OTHERS, ACTUAL)[place % 6]
        auroc = judged.origins[-1].models[name]["auroc_high_value"]
        axes.plot(
            x,
            y,
            label=f"{name}, AUROC {auroc:.3f}",
            color=color,
            linestyle=("-", "--", ":")[place // 6 % 3],
            linewidth=2.4 if place == 0 else 1.4,
            zorder=max(9 - place, 2),
        )
        called = [np.interp(tenth, ranked, share) for share in (x, y)]
        axes.plot(*called, "o", color=color, zorder=10)
    axes.plot([0, 1], [0, 1], label="no order", color=QUIET, linestyle=":")
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    axes.set_xlabel("share of all others called high value (dots: the first tenth is called)")
    axes.set_ylabel("share of high-value customers found")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, loc="lower right")
    return figure


def confusion(judged: Backtest, models: Sequence[str]) -> Figure:
    """Two by two counts per model for the newest origin: who was called high value, and who was.

    A cell is as dark as its share of its row. Raises ValueError where the labels did not say who
    is of high value.
    """
    _high_value(judged)
    across = min(len(models), 4)
    down = -(-len(models) // across)
    figure = Figure(figsize=(0.9 + 2.3 * across, 0.9 + 2.5 * down), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"The tenth called high value, {_window(judged)}",
        x=0.01, ha="left", fontsize=12, fontweight="bold",
    )  # fmt: skip
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.flat):
        if place >= len(models):
            axes.set_visible(False)
            continue
        counts = judged.origins[-1].confusion_high_value[models[place]]
        hits, false_alarms, misses, rest = (counts[count] for count in CONFUSION)
        cells = np.array([[hits, misses], [false_alarms, rest]])
        _two_by_two(axes, cells)
        axes.set_title(models[place], fontsize=10)
        axes.set_xticks([0, 1], ["called", "not called"])
        axes.set_yticks([0, 1], ["high value", "others"] if place % across == 0 else ["", ""])
    return figure


def segments(found: Segments, profiles: Sequence[Profile]) -> Figure:
    """What each segment stands out by: the darker, the more spreads its centre lies above (blue) or
    below (orange) the shop's mean. The number is the centre in the column's own unit."""
    definition = found.definition
    across, down = len(definition.traits), len(profiles)
    size = (3.4 + 1.0 * across, 1.9 + 0.5 * down)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Segments", x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = figure.subplots()
    shades = LinearSegmentedColormap.from_list("shades", [ACTUAL, "#ffffff", MODEL])
    axes.imshow(definition.standardised, cmap=shades, vmin=-2, vmax=2, aspect="auto")
    for (row, column), value in np.ndenumerate(definition.centres):
        is_dark = abs(definition.standardised[row, column]) > 1.6
        axes.text(
            column, row, f"{value:,.0f}" if value >= 10 else f"{value:.2g}",
            ha="center", va="center", fontsize=9, color="white" if is_dark else "#202124",
        )  # fmt: skip
    customers = sum(profile.customers for profile in profiles)
    axes.set_yticks(
        range(down),
        [f"{one.segment}\n{one.customers / customers:.0%} of customers" for one in profiles],
    )
    axes.set_xticks(range(across), definition.traits, rotation=30, ha="right")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _two_by_two(axes: Axes, cells: np.ndarray) -> None:
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(
            column, row, f"{cells[row, column]:,.0f}\n{share:.1%}",
            ha="center", va="center", color="white" if share > 0.7 else "#202124",
        )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _high_value(judged: Backtest) -> np.ndarray:
    if judged.newest.high_value is None:
        raise ValueError("the labels do not say who is of high value: is_high_value is missing")
    return judged.newest.high_value > 0


def _dots(axes: Axes, values: np.ndarray, contribution: np.ndarray) -> None:
    known = ~np.isnan(values)
    low, high = np.percentile(values[known], [1, 99]) if known.any() else (0.0, 1.0)
    shown = known & (values >= low) & (values <= high)
    width = high - low or 1.0
    axes.plot(values[shown], contribution[shown], ".", color=MODEL, markersize=3, alpha=0.4)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    if not known.all():
        spread = np.linspace(-0.04, 0.04, (~known).sum()) * width
        axes.plot(
            low - 0.2 * width + spread, contribution[~known],
            ".", color=ACTUAL, markersize=3, alpha=0.4,
        )  # fmt: skip
        axes.axvline(low - 0.1 * width, color=QUIET, linewidth=0.8, linestyle=":")
        axes.text(
            low - 0.2 * width, 1.0, "not\nknown", color=ACTUAL, fontsize=8, ha="center", va="top",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    different = np.unique(values[shown])
    few = different.size <= 6
    axes.xaxis.set_major_locator(FixedLocator(different.tolist()) if few else MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _factor(value)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", color="#e8eaed", linewidth=0.8)
    axes.set_axisbelow(True)


def _factor(log: float) -> str:
    """A log as a person reads it: ×1.28 for 0.25."""
    return f"×{np.exp(log):.3g}"


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
