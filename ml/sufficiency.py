"""What a shop's data are enough for, said before training. Pure: frames in, a report out.

Values of customers come from one of three rungs, and a shop stands on the highest whose needs it
meets. A model needs closed windows with buyers in them. MBG/NBD with Gamma-Gamma needs no windows,
but customers who came back. Spend per day so far needs a customer. A number that the data cannot
carry is worse than a plain one, so nothing is trained below its rung, and each rung says what is
missing for the next.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml import cutoffs, lightgbm_hurdle
from ml.baselines import BASELINES
from ml.btyd import BTYD
from ml.metrics import Prediction

Frame = pd.DataFrame

# A leaf holds 80 rows (lightgbm_hurdle.Config), so a window of fewer customers than these has two
# leaves: the trees could say little more than loyal or not, and RFM says that already. Above it the
# gate decides (`ml.promotion`): it sees whether the model wins.
MODEL_CUSTOMERS = 200
# The amount is learned from the buyers alone. Of fewer of them in a window, the best tenth, which a
# model is there to find, is fewer than five customers.
MODEL_BUYERS = 50
# MBG/NBD has four parameters and Gamma-Gamma three, and only who came back teaches them: ten events
# for each parameter is the old rule of thumb (Peduzzi et al., J. Clinical Epidemiology 49, 1996).
# Of 12 simulated shops with so many 8 could be fitted, with twice as many all; `predict_with` says
# where one cannot be.
BTYD_REPEATERS = 50
# In two months a monthly habit can show once; before, everybody who came back is a fast one.
BTYD_DAYS = 60
WIDTH = 78
NAMED = 5  # columns that are listed by name


class Rung(StrEnum):
    """What answers, the best first."""

    lightgbm_hurdle = "lightgbm_hurdle"
    mbg_nbd = "mbg_nbd"
    spend_rate = "spend_rate"


LADDER = tuple(Rung)


class Need(NamedTuple):
    """What a rung asks for: there is so much of it, and so much is wanted. climb: how to get it."""

    what: str
    there: int
    wanted: int
    climb: str

    @property
    def is_met(self) -> bool:
        return self.there >= self.wanted


@dataclass(frozen=True)
class Report:
    """What is there.

    customers, repeaters: known on as_of_date, and those of them with at least two orders.
    history_days: from the first order on. closed_windows: that a model could learn from, 30 days
    apart. newest_window: the day of the newest, None where none has closed; window_customers were
    known on it, and buyers bought in it and kept what they bought. seasons: history in years.
    constant: features that are the same for all customers. all_null: features nobody has. needs: of
    each rung, none for the last. shorter_horizon: the longest usual one that the history is long
    enough for, None where the one asked for is fine, or none would be.
    """

    as_of_date: date
    horizon_days: int
    customers: int
    repeaters: int
    history_days: int
    closed_windows: int
    newest_window: date | None
    window_customers: int
    buyers: int
    constant: tuple[str, ...]
    all_null: tuple[str, ...]
    needs: Mapping[Rung, tuple[Need, ...]]
    shorter_horizon: int | None

    @property
    def seasons(self) -> float:
        return self.history_days / 365

    @property
    def rung(self) -> Rung:
        """The highest one whose needs are all met."""
        return next(rung for rung in LADDER if not self.missing(rung))

    def missing(self, rung: Rung) -> tuple[Need, ...]:
        """The needs of the rung that are not met."""
        return tuple(need for need in self.needs[rung] if not need.is_met)

    @property
    def reason(self) -> str:
        """A sentence on why this rung, for a person who knows the data and not the models."""
        if self.rung == Rung.lightgbm_hurdle:
            return (
                f"There is enough to train a model: {self.buyers:,} of {self.window_customers:,} "
                f"customers bought in the {self.horizon_days} days from {self.newest_window}, and "
                f"{self.history_days:,} days of orders leave windows to judge it on."
            )
        above = LADDER[LADDER.index(self.rung) - 1]
        lacks = "; ".join(
            f"{need.there:,} of {need.wanted:,} {need.what}" for need in self.missing(above)
        )
        if self.rung == Rung.mbg_nbd:
            return (
                f"There is too little to train a model ({lacks}), but {self.repeaters:,} customers "
                f"came back, and from when they did MBG/NBD tells what to expect of each."
            )
        return (
            f"There is too little to learn from ({lacks}): customers are ranked by RFM and "
            f"expected to spend as they did so far."
        )

    @property
    def climb(self) -> str:
        """What to do for the next rung, empty on the highest."""
        if self.rung == Rung.lightgbm_hurdle:
            return ""
        above = LADDER[LADDER.index(self.rung) - 1]
        steps = dict.fromkeys(need.climb for need in self.missing(above))
        return f"For {above}: {'; '.join(steps)}."

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know besides, a sentence each."""
        notes = []
        if self.horizon_days > self.history_days:
            notes.append(
                f"The horizon of {self.horizon_days} days is longer than the {self.history_days} "
                f"days of orders: whatever is said of it goes beyond anything seen."
            )
        elif self.seasons < 1:
            notes.append(
                "Less than a year of orders: no season has been seen twice, so totals follow the "
                "last months and not the time of year."
            )
        if self.closed_windows and not self.buyers:
            notes.append(
                f"Nobody bought in the {self.horizon_days} days from {self.newest_window}: is the "
                f"newest delivery complete?"
            )
        if self.all_null:
            notes.append(f"Null for every customer: {_listed(self.all_null)}.")
        if self.constant:
            notes.append(f"The same for every customer: {_listed(self.constant)}.")
        return tuple(notes)


def assess(
    frame: Frame, labels: Frame | None, as_of: date, first_day: date, horizon_days: int
) -> Report:
    """What these data are enough for.

    frame: features of all customers known on as_of. labels: customer_id, as_of_date, spend,
    is_purchased, and horizon_days where there are several, of closed windows; the newest one counts
    and what is not closed by as_of is not looked at. as_of: the day to which orders are loaded.
    first_day: of the first order.

    Raises ValueError where there is no customer, the frame is of several days or lacks a column,
    the first order is not before as_of, or a window has closed and there is no label of it.
    """
    _refuse_unusable(frame, as_of, first_day, horizon_days)
    orders = frame["frequency_orders"].to_numpy(dtype=float, na_value=np.nan)
    history_days = (as_of - first_day).days
    try:
        closed = len(cutoffs.training_cutoffs(as_of, first_day, horizon_days))
    except cutoffs.NotEnoughHistory:
        closed = 0
    newest, window = _newest_closed(labels, as_of, horizon_days)
    if closed and newest is None:
        raise ValueError(
            f"the {horizon_days} days from {as_of - timedelta(days=horizon_days)} are closed on "
            f"{as_of}, and there are no labels of them; build that day first"
        )
    bought = window["is_purchased"].to_numpy(dtype=bool) if len(window) else np.zeros(0, bool)
    kept = window["spend"].to_numpy(dtype=float) > 0 if len(window) else bought
    buyers = int((bought & kept).sum())
    repeaters = int((orders >= 2).sum())
    constant, all_null, features = _dull(frame, labels)
    shorter = _shorter(as_of, first_day, horizon_days)
    wait = "load more history, or wait"
    if shorter is not None:
        wait += f", or ask for {shorter} days instead of {horizon_days}"
    more = "load more customers, or customers of more channels"
    needs = {
        Rung.lightgbm_hurdle: (
            Need("days of orders", history_days, _days_to_judge(horizon_days), wait),
            Need("customers in the newest closed window", len(window), MODEL_CUSTOMERS, more),
            Need(
                "buyers in the newest closed window",
                buyers,
                MODEL_BUYERS,
                "take a longer horizon, in which more customers buy, or load more customers",
            ),
            Need(
                "features that differ between customers",
                features - len(constant) - len(all_null),
                1,
                "load more columns, or more customers",
            ),
        ),
        Rung.mbg_nbd: _btyd_needs(repeaters, history_days),
        Rung.spend_rate: (),
    }
    return Report(
        as_of_date=as_of,
        horizon_days=horizon_days,
        customers=len(frame),
        repeaters=repeaters,
        history_days=history_days,
        closed_windows=closed,
        newest_window=newest,
        window_customers=len(window),
        buyers=buyers,
        constant=constant,
        all_null=all_null,
        needs=needs,
        shorter_horizon=shorter,
    )


def _btyd_needs(repeaters: int, history_days: int) -> tuple[Need, ...]:
    return (
        Need(
            "customers with two orders",
            repeaters,
            BTYD_REPEATERS,
            "load more history or more customers, and check that one customer has one id",
        ),
        Need("days of orders", history_days, BTYD_DAYS, "load more history, or wait"),
    )


def below_the_model(frame: Frame, history_days: int) -> Rung:
    """The highest rung that needs no training, for the customers of one day.

    Raises ValueError where there are no customers, or frequency_orders is missing.
    """
    _refuse_without(frame, ("frequency_orders",))
    repeaters = int((frame["frequency_orders"] >= 2).sum())
    is_met = all(need.is_met for need in _btyd_needs(repeaters, history_days))
    return Rung.mbg_nbd if is_met else Rung.spend_rate


class Answer(NamedTuple):
    """rung: what really answered. reason: why it is not the one asked for, empty where it is."""

    rung: Rung
    prediction: Prediction
    reason: str


def predict_with(rung: Rung, frame: Frame, horizon_days: int) -> Answer:
    """What a rung below the model expects of a day's customers; no label is needed, one customer
    is enough.

    frame: features of all customers of one day. Where MBG/NBD cannot be fitted, spend_rate answers.

    spend_rate expects the spend per day so far to go on, and nothing of who sent back more than
    they bought; `ranking` is the RFM score, where the frame has one. The purchase probability of
    this rung has never been held against what came after (it is not calibrated): 1 - exp(-rate x
    horizon), where the rate is orders after the first plus a half over days. The half is Jeffreys'
    prior of a Poisson rate (Jeffreys, "Theory of probability", 1946), so nobody is at 0. The days
    are the tenure, at least the horizon, plus the recency: silence at the end counts twice, because
    who has not been seen for long has perhaps left. More orders never lower it, and longer
    silence never raises it.

    Raises ValueError where the rung is the model, which has to be trained, there are no customers,
    or a column is missing.
    """
    if rung == Rung.lightgbm_hurdle:
        raise ValueError(f"{rung} has to be trained before it answers: `tierhouse train`")
    _refuse_without(frame, ("frequency_orders", "tenure_days", "recency_days", "monetary_total"))
    reason = ""
    if rung == Rung.mbg_nbd:
        estimator = BTYD[rung]
        try:
            fitted = estimator.fit(frame, frame.head(0), horizon_days)
            return Answer(rung, estimator.predict(fitted, frame), reason)
        except ValueError as error:
            reason = f"{rung} gives no answer: {error}"
    return Answer(Rung.spend_rate, _spend_rate(frame, horizon_days), reason)


def to_markdown(report: Report) -> str:
    """The report as a note."""
    lines = [
        f"# What the data of {report.as_of_date} are enough for",
        "",
        f"**{report.rung}** over {report.horizon_days} days. {report.reason}",
        "",
    ]
    if report.climb:
        lines += [report.climb, ""]
    lines += ["| what | there |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in _counts(report)]
    lines += ["", "| rung | needs | there | wanted | met |", "|---|---|---|---|---|"]
    for rung in LADDER:
        for need in report.needs[rung]:
            met = "yes" if need.is_met else "no"
            lines.append(f"| {rung} | {need.what} | {need.there:,} | {need.wanted:,} | {met} |")
    lines.append(f"| {Rung.spend_rate} | a customer | {report.customers:,} | 1 | yes |")
    if report.notes:
        lines += ["", *(f"- {note}" for note in report.notes)]
    return "\n".join(lines) + "\n"


def to_text(report: Report) -> str:
    """The report for a terminal of 80 columns."""
    lines = [_fill(f"{report.rung}: {report.reason}")]
    if report.climb:
        lines.append(_fill(report.climb))
    lines.append("")
    lines += [f"  {what:42}{value:>14}" for what, value in _counts(report)]
    if report.notes:
        lines += ["", *(_fill(note) for note in report.notes)]
    return "\n".join(lines)


def _spend_rate(frame: Frame, horizon_days: int) -> Prediction:
    estimator = BASELINES["spend_rate"]
    known = frame.assign(monetary_total=frame["monetary_total"].astype(float).fillna(0.0))
    known["tenure_days"] = frame["tenure_days"].astype(float).fillna(0.0)
    fitted = estimator.fit(known, known.head(0), horizon_days)
    rate = estimator.predict(fitted, known).score
    ranking = None
    if "rfm_score" in frame and frame["rfm_score"].notna().all():
        ranking = frame["rfm_score"].to_numpy(dtype=float)
    return Prediction(
        score=rate,
        expected_spend=np.clip(rate, 0, None),
        purchase_probability=_chance_by_rate(known, horizon_days),
        ranking=ranking,
    )


def _chance_by_rate(frame: Frame, horizon_days: int) -> np.ndarray:
    orders = frame["frequency_orders"].to_numpy(dtype=float, na_value=np.nan)
    recency = frame["recency_days"].to_numpy(dtype=float, na_value=np.nan)
    tenure = np.maximum(frame["tenure_days"].to_numpy(dtype=float), horizon_days)
    repeats = np.clip(np.nan_to_num(orders) - 1, 0, None)
    days = tenure + np.where(np.isnan(recency), tenure, recency)
    return -np.expm1(-(repeats + 0.5) / days * horizon_days)


def _refuse_without(frame: Frame, columns: tuple[str, ...]) -> None:
    if frame.empty:
        raise ValueError("there is no customer yet; load orders first")
    if missing := [name for name in columns if name not in frame]:
        raise ValueError(f"the frame lacks {', '.join(missing)}; build the features again")


def _refuse_unusable(frame: Frame, as_of: date, first_day: date, horizon_days: int) -> None:
    _refuse_without(frame, ("as_of_date", "frequency_orders"))
    if horizon_days < 1:
        raise ValueError(f"horizon_days must be at least 1, not {horizon_days}")
    if first_day >= as_of:
        raise ValueError(f"nothing is known on {as_of}: the first order is of {first_day}")
    if (days := frame["as_of_date"].nunique()) != 1:
        raise ValueError(f"the features must be of one day, and there are {days} of them")


def _newest_closed(
    labels: Frame | None, as_of: date, horizon_days: int
) -> tuple[date | None, Frame]:
    if labels is None:
        return None, pd.DataFrame()
    if "horizon_days" in labels:
        labels = labels[labels["horizon_days"] == horizon_days]
    closes = labels["as_of_date"] + pd.Timedelta(days=horizon_days)
    closed = labels[closes <= pd.Timestamp(as_of)]
    if closed.empty:
        return None, closed
    newest = closed["as_of_date"].max()
    return newest.date(), closed[closed["as_of_date"] == newest]


def _dull(frame: Frame, labels: Frame | None) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """The constant features, those without a value, and how many there are. One customer has no
    constant ones: there is nobody to be like."""
    features = lightgbm_hurdle.feature_columns(frame, pd.DataFrame() if labels is None else labels)
    all_null = tuple(name for name in features if frame[name].isna().all())
    constant = tuple(
        name
        for name in features
        if len(frame) > 1 and name not in all_null and frame[name].nunique(dropna=False) == 1
    )
    return constant, all_null, len(features)


def _days_to_judge(horizon_days: int) -> int:
    """Days of orders for the test origins, and a closed window before the oldest of them."""
    between = (cutoffs.ORIGINS - 1) * cutoffs.STEP_DAYS
    return 2 * horizon_days + between + cutoffs.MIN_HISTORY_DAYS


def _shorter(as_of: date, first_day: date, horizon_days: int) -> int | None:
    """Of the usual horizons; None where the one asked for is fine, or none would be."""
    known = (as_of - first_day).days
    if known >= _days_to_judge(horizon_days):
        return None
    shorter = (days for days in cutoffs.SHORTER_HORIZONS if days < horizon_days)
    return next((days for days in shorter if known >= _days_to_judge(days)), None)


def _counts(report: Report) -> list[tuple[str, str]]:
    newest = "none" if report.newest_window is None else report.newest_window.isoformat()
    return [
        ("customers", f"{report.customers:,}"),
        ("customers with two orders", f"{report.repeaters:,}"),
        ("days of orders", f"{report.history_days:,}"),
        ("years of orders (seasons)", f"{report.seasons:.1f}"),
        (f"closed windows of {report.horizon_days} days", f"{report.closed_windows:,}"),
        ("newest closed window, from", newest),
        ("customers in it", f"{report.window_customers:,}"),
        ("buyers in it", f"{report.buyers:,}"),
        ("features that are constant", f"{len(report.constant):,}"),
        ("features without any value", f"{len(report.all_null):,}"),
    ]


def _listed(names: tuple[str, ...]) -> str:
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _fill(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_on_hyphens=False)
