"""The gate between a registered model and the alias that scoring follows. Pure.

The challenger is judged as the scoreboard judges (`ml.backtest`): on closed windows that it has not
seen, beside the baselines, with intervals from the same resamples of the same customers. A champion
is judged on the same windows. The alias moves only where every rule of RULES holds.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml import backtest
from ml.backtest import Backtest, Metrics
from ml.baselines import Estimator
from ml.metrics import DIRECTIONS, Prediction
from ml.tier_evaluation import TierResult
from ml.tier_policy import FORECASTS

Frame = pd.DataFrame

CHAMPION = "champion"
ITSELF, REFIT = "itself", "refit"
GINI = "normalized_gini"

TOLERATED_LOSS = 0.01  # of the normalised Gini, at the worse end of the 90 % interval
TOTAL_LOW, TOTAL_HIGH = 0.80, 1.25  # predicted over actual spend
TOTAL_SLACK = 0.05  # further from 1 than the champion
ECE_MOST, ECE_SLACK = 0.10, 0.02
COVERAGE_LOW, COVERAGE_HIGH = 0.85, 0.95  # of intervals meant to hold 90 %
TIER_MOST = 0.05  # of all spend, between a tier's expected and its realised share
PERFECT = 0.99  # of the perfect order's Gini
GAIN_MOST = 0.15  # over the best baseline, at the lower end of the interval


class Decision(StrEnum):
    """What was done with a version."""

    promoted = "promoted"
    refused = "refused"
    rolled_back = "rolled back"


@dataclass(frozen=True)
class Challenger:
    """The model that would become the champion.

    horizon_days: what it was fitted for. features: the columns it reads. answer: what it says of a
    day's customers, or the error it gave instead (`ask`). as_of_date: what it knows.
    """

    horizon_days: int
    features: tuple[str, ...]
    answer: Prediction | str
    as_of_date: date


@dataclass(frozen=True)
class Champion:
    """The model that scores now, on the challenger's windows.

    metrics: pooled over the origins, by metric; empty where it could not be judged. gain: the
    challenger's `<metric>_gain` over it, with `_low` and `_high`, paired. judged: by origin, how.
    """

    version: str
    as_of_date: date
    features: tuple[str, ...]
    metrics: Metrics
    gain: Metrics
    judged: Mapping[date, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """All that the rules look at. columns: of the feature table; tiers: of all origins
    (`tier_evaluation.summed`). over_simpler: the challenger's `<metric>_gain` over the trees on the
    features alone, with `_low` and `_high`, paired; empty where it is no more than those."""

    board: Backtest
    name: str  # of the challenger on the board
    challenger: Challenger
    horizon_days: int  # that was asked for
    learned_days: int  # of the windows that were learned from
    columns: tuple[str, ...]
    tiers: Sequence[TierResult]
    champion: Champion | None
    over_simpler: Metrics = field(default_factory=dict)

    def metric(self, name: str) -> float:
        """Of the challenger, pooled; NaN where the board does not have it."""
        return self.board.pooled[self.name].get(name, math.nan)

    def champions(self, name: str) -> float:
        """Of the champion, pooled; NaN where there is none or it could not be judged."""
        return math.nan if self.champion is None else self.champion.metrics.get(name, math.nan)


class Broken(NamedTuple):
    """A rule that does not hold, and what was seen."""

    rule: str
    said: str


@dataclass(frozen=True)
class Verdict:
    """broken: the rules that do not hold, none where the challenger is promoted. numbers: plain
    values for JSON, what cannot be had is null."""

    broken: tuple[Broken, ...]
    numbers: dict[str, Any]

    @property
    def decision(self) -> Decision:
        return Decision.refused if self.broken else Decision.promoted

    @property
    def reasons(self) -> str:
        """One line."""
        if not self.broken:
            return "every rule of the gate holds"
        return "; ".join(broken.said for broken in self.broken)


def decide(case: Case) -> Verdict:
    """Hold every rule against the case."""
    said = ((rule.name, rule.broken(case)) for rule in RULES)
    broken = tuple(Broken(name, words) for name, words in said if words is not None)
    return Verdict(broken, _numbers(case))


def also_refused(verdict: Verdict, rule: str, said: str) -> Verdict:
    """The verdict with one more reason against, which the rules cannot know."""
    return Verdict((*verdict.broken, Broken(rule, said)), verdict.numbers)


def ask(predict: Callable[[Any, Frame], Prediction], model: Any, frame: Frame) -> Prediction | str:
    """What the model says of the frame's customers, or why it says nothing."""
    try:
        return predict(model, frame)
    except ValueError as error:
        return str(error)


def remembered(estimator: Estimator, columns: Sequence[str] = ()) -> tuple[Estimator, list[Frame]]:
    """The estimator, and a list that fills with what it says of each window: customer_id,
    as_of_date, expected_spend, purchase_probability, high_value_probability (NaN where it does not
    say), and these columns of the frame."""
    said: list[Frame] = []

    def predict(model: Any, frame: Frame) -> Prediction:
        found = estimator.predict(model, frame)
        kept = frame[[*backtest.KEY, *(name for name in columns if name in frame)]]
        told = {name: getattr(found, name) for name in FORECASTS}
        said.append(kept.assign(**told).astype(dict.fromkeys(FORECASTS, float)))
        return found

    return Estimator(estimator.fit, predict), said


def recorded(estimator: Estimator) -> tuple[Estimator, Estimator]:
    """The estimator, and one that fits nothing and says again what it said of a day's customers."""
    said: dict[pd.Timestamp, Prediction] = {}

    def predict(model: Any, frame: Frame) -> Prediction:
        said[frame["as_of_date"].iloc[0]] = found = estimator.predict(model, frame)
        return found

    again = Estimator(
        lambda frame, labels, horizon_days: None,
        lambda model, frame: said[frame["as_of_date"].iloc[0]],
    )
    return Estimator(estimator.fit, predict), again


def how_judged(
    origins: Iterable[date],
    asked_days: int,
    columns: Iterable[str],
    features: Iterable[str],
    horizon_days: int,
    knows_until: date,
) -> dict[date, str]:
    """By origin whether the champion is judged itself, or by a refit of its configuration.

    columns: of the feature table. features, horizon_days, knows_until: what the champion reads,
    answers for and learned from. It is judged itself where its training windows ended by the
    origin; where it has seen the window, answers for another horizon or reads a column that is
    gone, a refit stands in for it.
    """
    can_answer = horizon_days == asked_days and set(features) <= set(columns)
    return {o: ITSELF if can_answer and knows_until <= o else REFIT for o in origins}


def as_judged(
    model: Any, judged: Mapping[date, str], learned_days: int, refit: Estimator
) -> Estimator:
    """The champion as an estimator that knows nothing of the window it is judged on.

    judged: by origin, of `how_judged`. learned_days: of the windows that are learned from. refit:
    of the champion's configuration, predicting with such a model.
    """

    def fit(frame: Frame, labels: Frame, horizon_days: int) -> Any:
        origin = frame["as_of_date"].max().date() + timedelta(days=learned_days)
        return model if judged[origin] == ITSELF else refit.fit(frame, labels, horizon_days)

    return Estimator(fit, refit.predict)


def compare(
    board: Backtest,
    name: str,
    features: Frame,
    labels: Frame,
    challenger: Estimator,
    champion: Estimator,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[Metrics, Metrics]:
    """The champion's pooled metrics on the board's origins, and the challenger's gain over it;
    nothing of either where the champion gives no answer.

    features, labels: as the board was made from. challenger: what was judged, or what says it again
    (`recorded`). The same customers, days and resamples: the champion is the only baseline of one
    more backtest.
    """
    origins = [origin.as_of_date for origin in board.origins]
    found = backtest.run(
        features,
        labels,
        origins,
        board.horizon_days,
        models={name: challenger},
        baselines={CHAMPION: champion},
        learned_days=board.learned_days,
        say=say,
    ).pooled
    return found.get(CHAMPION, {}), _gains(found[name])


def no_difference(board: Backtest, name: str) -> tuple[Metrics, Metrics]:
    """What `compare` gives for a champion of the challenger's own configuration that has seen every
    window: its refit is the challenger's, to the bit."""
    metrics = board.pooled[name]
    ends = ("_gain", "_gain_low", "_gain_high")
    known = [metric for metric in DIRECTIONS if math.isfinite(metrics.get(metric, math.nan))]
    return metrics, {f"{metric}{end}": 0.0 for metric in known for end in ends}


def line_of_champions(rows: Iterable[tuple[str, str, str | None]]) -> list[str]:
    """The versions that led to the champion, oldest first, each once in its place.

    rows: (decision, version, champion before) of `ops.promotions`, oldest first. A promotion adds a
    version, a rollback takes away what came after the one it went back to. A first champion, which
    had none before it, begins anew.
    """
    line: list[str] = []
    for decision, version, before in rows:
        if decision == Decision.promoted:
            if before is None:
                line = []
            elif not line or line[-1] != before:
                line.append(before)
            line.append(version)
        elif decision == Decision.rolled_back:
            while line and line[-1] != version:
                line.pop()
            line = line or [version]
    return line


def champion_before(rows: Iterable[tuple[str, str, str | None]], champion: str) -> str | None:
    """The version that a rollback goes back to, None where there was no champion before."""
    line = line_of_champions(rows)
    while line and line[-1] == champion:
        line.pop()
    return line[-1] if line else None


def to_markdown(verdict: Verdict, title: str) -> str:
    """The verdict as a note: what was decided, which rule said what, and the numbers."""
    broken = dict(verdict.broken)
    lines = [f"# {title}", "", f"**{verdict.decision.capitalize()}:** {verdict.reasons}.", ""]
    lines += ["| rule | holds | why it is there |", "|---|---|---|"]
    for rule in RULES:
        lines.append(f"| {rule.name} | {broken.pop(rule.name, 'yes')} | {rule.why} |")
    lines += [f"| {name} | {said} | |" for name, said in broken.items()]
    lines += [
        "",
        "| metric | challenger | best baseline | gain (90 %) | champion | gain over it (90 %) |",
        "|---|---|---|---|---|---|",
    ]
    for metric, found in verdict.numbers["metrics"].items():
        baseline = f"{_said(found['baseline'])} ({found['best_baseline'] or 'none'})"
        lines.append(
            f"| {metric} | {_said(found['challenger'])} | {baseline} | {_span(found, 'gain')} | "
            f"{_said(found['champion'])} | {_span(found, 'gain_over_champion')} |"
        )
    lines += ["", "| tier | expected share | realised share |", "|---|---|---|"]
    for tier in verdict.numbers["tiers"]:
        shares = f"{_said(tier['expected_share'])} | {_said(tier['realised_share'])}"
        lines.append(f"| {tier['tier']} | {shares} |")
    return "\n".join(lines) + "\n"


def _asked_horizon(case: Case) -> str | None:
    found = {case.challenger.horizon_days, case.board.horizon_days} - {case.horizon_days}
    if not found:
        return None
    return f"it was fitted or judged for {min(found)} days, and {case.horizon_days} are asked for"


def _unseen_windows(case: Case) -> str | None:
    for origin in case.board.origins:
        for cutoff in origin.training_cutoffs:
            closed = cutoff + timedelta(days=case.learned_days)
            if closed > origin.as_of_date:
                return (
                    f"it was trained on the window of {cutoff}, which closed on {closed}, and "
                    f"judged from {origin.as_of_date} on"
                )
    return None


def _every_feature(case: Case) -> str | None:
    wanted = case.columns if case.champion is None else case.champion.features
    missing = sorted(set(wanted) - set(case.challenger.features))
    if not missing:
        return None
    rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    whose = "feature table has" if case.champion is None else "champion reads"
    return f"it does without {', '.join(missing[:3])}{rest}, which the {whose}"


def _an_answer(case: Case) -> str | None:
    answer = case.challenger.answer
    if isinstance(answer, str):
        return f"it gives no answer: {answer}"
    if answer.expected_spend is None or answer.purchase_probability is None:
        return "it gives no expected spend or no purchase probability, and both are stored"
    return None


def _different_answers(case: Case) -> str | None:
    judged = case.board.newest.predictions[case.name]
    for answer in (case.challenger.answer, judged):
        if isinstance(answer, Prediction) and not np.ptp(answer.score) > 0:
            return f"it says the same of all {answer.score.size:,} customers"
    return None


def _not_too_good(case: Case) -> str | None:
    gini, gain = case.metric(GINI), case.metric(f"{GINI}_gain_low")
    if gini >= PERFECT:
        what = f"its normalised Gini of {gini:.3f} is that of who knows the outcome"
    elif gain > GAIN_MOST:
        what = (
            f"its normalised Gini of {gini:.3f} is at least {gain:.3f} above the best baseline's, "
            f"far more than such models have shown"
        )
    else:
        return None
    return f"{what}: probably a feature holds what came after the day"


def _better_than_baselines(case: Case) -> str | None:
    """A new kind of model has to be surely better than any rule before it takes over. The first
    champion, and a refresh, only better and not surely worse: a shop of a few hundred customers
    cannot be sure of a small gain, and would have no scores, or those of last year's model."""
    gain, low = case.metric(f"{GINI}_gain"), case.metric(f"{GINI}_gain_low")
    is_refresh = case.champion is not None and case.champion.gain.get(f"{GINI}_gain") == 0
    tolerated = TOLERATED_LOSS if case.champion is None or is_refresh else 0.0
    if gain > 0 and low > -tolerated:
        return None
    if math.isnan(low):
        return "its normalised Gini or the baselines' cannot be had: nobody spent in the windows"
    best = case.board.best_baseline[GINI]
    return (
        f"its normalised Gini of {case.metric(GINI):.3f} is not {'' if tolerated else 'surely '}"
        f"above {best}'s: gain {gain:+.3f}, at the low end {low:+.3f}"
    )


def _no_worse_than_champion(case: Case) -> str | None:
    if case.champion is None or not case.champion.metrics:
        return None
    worst = -case.champion.gain.get(f"{GINI}_gain_low", math.nan)
    if worst <= TOLERATED_LOSS:
        return None
    return (
        f"its normalised Gini may be {worst:.3f} below the champion's "
        f"({case.metric(GINI):.3f} and {case.champions(GINI):.3f})"
    )


def _worth_its_cost(case: Case) -> str | None:
    """Better at all is not enough: it takes minutes where the trees take seconds, and reads what
    they need not."""
    low = case.over_simpler.get(f"{GINI}_gain_low")
    if low is None or low > 0:
        return None
    gain = case.over_simpler[f"{GINI}_gain"]
    return (
        f"its normalised Gini of {case.metric(GINI):.3f} is not surely above that of the trees on "
        f"the features alone: gain {gain:+.4f}, at the low end {low:+.4f}"
    )


def _newer_than_champion(case: Case) -> str | None:
    if case.champion is None or case.champion.as_of_date <= case.challenger.as_of_date:
        return None
    return f"version {case.champion.version} knows more, up to {case.champion.as_of_date}"


def _right_total(case: Case) -> str | None:
    ratio, champions = case.metric("sum_ratio"), case.champions("sum_ratio")
    if not TOTAL_LOW <= ratio <= TOTAL_HIGH:
        return f"it predicts {ratio:.2f} times what was spent, not {TOTAL_LOW} to {TOTAL_HIGH}"
    if abs(ratio - 1) > abs(champions - 1) + TOTAL_SLACK:
        return f"it predicts {ratio:.2f} times what was spent, the champion {champions:.2f}"
    return None


def _right_probability(case: Case) -> str | None:
    ece, champions = case.metric("ece"), case.champions("ece")
    if not ece <= ECE_MOST:
        return f"its purchase probability is off by {ece:.3f} (ECE), more than {ECE_MOST:.2f}"
    if ece > champions + ECE_SLACK:
        return f"its purchase probability is off by {ece:.3f}, the champion's by {champions:.3f}"
    return None


def _right_intervals(case: Case) -> str | None:
    coverage = case.metric("coverage")
    if math.isnan(coverage) or COVERAGE_LOW <= coverage <= COVERAGE_HIGH:
        return None
    return f"its intervals of 90 % hold {coverage:.0%} of the customers"


def _right_tiers(case: Case) -> str | None:
    shares = [(name, expected - realised) for name, expected, realised in _shares(case.tiers)]
    if not shares:
        return "its tiers have no shares: nothing was expected or nothing spent in the windows"
    name, off = max(shares, key=lambda tier: abs(tier[1]))
    if abs(off) <= TIER_MOST:
        return None
    more = "more" if off > 0 else "less"
    points = f"{abs(off) * 100:.1f} points"
    return f"tier {name} was expected to bring {points} {more} of all spend than it did"


class Rule(NamedTuple):
    """broken: what was seen where the rule does not hold, else None."""

    name: str
    broken: Callable[[Case], str | None]
    why: str


RULES: tuple[Rule, ...] = (
    Rule("horizon", _asked_horizon, "another horizon is another question"),
    Rule("unseen_windows", _unseen_windows, "what was learned by heart is no forecast"),
    Rule("every_feature", _every_feature, "a column lost on the way is a defect, not a choice"),
    Rule("an_answer", _an_answer, "what is not a number cannot be stored or sorted"),
    Rule("different_answers", _different_answers, "one number for all makes no tiers"),
    Rule("not_too_good", _not_too_good, "next to perfect is a leak until a person has looked"),
    Rule("better_than_baselines", _better_than_baselines, "else a line of SQL does as well"),
    Rule("worth_its_cost", _worth_its_cost, "of two that do the same, the simpler one"),
    Rule("newer_than_champion", _newer_than_champion, "scoring must not forget what it knew"),
    Rule("no_worse_than_champion", _no_worse_than_champion, "small losses add up week by week"),
    Rule("right_total", _right_total, "budgets are made from the total"),
    Rule("right_probability", _right_probability, "offers are made by the probability"),
    Rule("right_intervals", _right_intervals, "an interval says how sure one may be"),
    Rule("right_tiers", _right_tiers, "tiers are read as shares of revenue"),
)


def _gains(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if "_gain" in name}


def _shares(tiers: Sequence[TierResult]) -> list[tuple[str, float, float]]:
    """Tier, expected and realised share of all spend; none where a total is not positive."""
    expected = sum(tier.expected_spend for tier in tiers)
    realised = sum(tier.realised_spend for tier in tiers)
    if not (expected > 0 and realised > 0):
        return []
    return [
        (tier.tier, tier.expected_spend / expected, tier.realised_spend / realised)
        for tier in tiers
    ]


def _numbers(case: Case) -> dict[str, Any]:
    best = case.board.best_baseline
    metrics = {}
    for metric in DIRECTIONS:
        baseline = best.get(metric)
        found: dict[str, Any] = {
            "challenger": _plain(case.metric(metric)),
            "best_baseline": baseline,
            "baseline": baseline and _plain(case.board.pooled[baseline][metric]),
            "champion": _plain(case.champions(metric)),
        }
        over = {} if case.champion is None else case.champion.gain
        for end in ("", "_low", "_high"):
            found[f"gain{end}"] = _plain(case.metric(f"{metric}_gain{end}"))
            found[f"gain_over_champion{end}"] = _plain(over.get(f"{metric}_gain{end}", math.nan))
            if case.over_simpler:
                gain = case.over_simpler.get(f"{metric}_gain{end}", math.nan)
                found[f"gain_over_simpler{end}"] = _plain(gain)
        metrics[metric] = found
    judged = {} if case.champion is None else case.champion.judged
    return {
        "horizon_days": case.horizon_days,
        "origins": [origin.as_of_date.isoformat() for origin in case.board.origins],
        "champion_judged": {origin.isoformat(): how for origin, how in judged.items()},
        "metrics": metrics,
        "tiers": [
            {"tier": name, "expected_share": expected, "realised_share": realised}
            for name, expected, realised in _shares(case.tiers)
        ],
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _said(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _span(found: Mapping[str, Any], name: str) -> str:
    if found[name] is None:
        return "–"
    return f"{found[name]:+.3f} ({_said(found[f'{name}_low'])} to {_said(found[f'{name}_high'])})"
