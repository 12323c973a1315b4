"""How tiers did on windows that no model had seen: what was spent, who belonged there. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml.tier_policy import Policy
from ml.tiers import Assignment, draw

Frame = pd.DataFrame
KEY = ["customer_id", "as_of_date"]


@dataclass(frozen=True)
class TierResult:
    """One tier of one or several windows.

    expected_buyers: the sum of the purchase probabilities; buyers: who did buy. truly_top: how many
    of its customers were among those who spent most, as many as the first tier holds; of the first
    tier they were found, of the others missed.
    """

    tier: str
    rank: int
    customers: int
    expected_spend: float
    realised_spend: float
    expected_buyers: float
    buyers: int
    truly_top: int

    def __add__(self, other: "TierResult") -> "TierResult":
        sums = (field.name for field in fields(self) if field.name not in ("tier", "rank"))
        added = {name: getattr(self, name) + getattr(other, name) for name in sums}
        return TierResult(self.tier, self.rank, **added)


class TopTier(NamedTuple):
    """The first tier as an answer to who spends most. found and called_wrongly are who stands in
    it, missed and left_out who does not. Whoever spent nothing is not truly top, so there may be
    fewer of those than the tier holds, and precision below recall."""

    found: int
    called_wrongly: int
    missed: int
    left_out: int

    @property
    def precision(self) -> float:
        return _share(self.found, self.found + self.called_wrongly)

    @property
    def recall(self) -> float:
        return _share(self.found, self.found + self.missed)

    @property
    def f1(self) -> float:
        return _share(2 * self.found, 2 * self.found + self.called_wrongly + self.missed)


def evaluate(drawn: Assignment, window: Frame) -> list[TierResult]:
    """Every tier of the policy, best first, empty ones too.

    window: expected_spend, purchase_probability, spend and is_purchased of the drawn customers, in
    their order. Equal spends at the border of the truly top are taken in that order.
    """
    spend = window["spend"].to_numpy(float)
    top = int((drawn.rank == 1).sum())
    truly_top = np.zeros(spend.size, dtype=bool)
    truly_top[np.argsort(-spend, kind="stable")[:top]] = True
    summed = pd.DataFrame(
        {
            "rank": drawn.rank,
            "customers": 1,
            "expected_spend": window["expected_spend"].to_numpy(float),
            "realised_spend": spend,
            "expected_buyers": window["purchase_probability"].to_numpy(float),
            "buyers": window["is_purchased"].to_numpy(bool),
            "truly_top": truly_top & (spend > 0),
        }
    )
    by_rank = summed.groupby("rank").sum().reindex(range(1, len(drawn.policy.tiers) + 1))
    values = {name: column.tolist() for name, column in by_rank.fillna(0).items()}
    return [
        TierResult(
            name,
            place + 1,
            customers=int(values["customers"][place]),
            expected_spend=values["expected_spend"][place],
            realised_spend=values["realised_spend"][place],
            expected_buyers=values["expected_buyers"][place],
            buyers=int(values["buyers"][place]),
            truly_top=int(values["truly_top"][place]),
        )
        for place, name in enumerate(drawn.policy.names)
    ]


def evaluate_windows(
    said: Sequence[Frame], labels: Frame, policy: Policy
) -> dict[date, list[TierResult]]:
    """The tiers of every window, by its day, oldest first.

    said: a frame for each window, of `promotion.remembered`, with the columns of the policy;
    expected spend is that of the horizon that was asked for, whatever the policy's. labels:
    customer_id, as_of_date, spend, is_purchased. Raises ValueError where a customer has no label.
    """
    found = {}
    for window in sorted(said, key=lambda frame: frame["as_of_date"].iloc[0]):
        known = labels[[*KEY, "spend", "is_purchased"]]
        joined = window.merge(known, "left", KEY)
        if joined["spend"].isna().any():
            raise ValueError("a customer of a judged window has no label")
        day = joined["as_of_date"].iloc[0].date()
        found[day] = evaluate(draw(joined, policy), joined)
    return found


def summed(windows: Iterable[Sequence[TierResult]]) -> list[TierResult]:
    """Each tier over all windows. One window of a small shop says little: its best twentieth may be
    twenty customers."""
    first, *others = windows
    total = list(first)
    for results in others:
        total = [a + b for a, b in zip(total, results, strict=True)]
    return total


def top_tier(results: Sequence[TierResult]) -> TopTier:
    """Confusion matrix of the first tier against who truly spent most."""
    first, *others = results
    missed = sum(result.truly_top for result in others)
    rest = sum(result.customers for result in others)
    return TopTier(first.truly_top, first.customers - first.truly_top, missed, rest - missed)


def is_ordered(results: Sequence[TierResult]) -> bool:
    """Whether a customer of each tier spent more, on average, than one of the next that holds
    anybody."""
    means = [result.realised_spend / result.customers for result in results if result.customers]
    return all(better > worse for better, worse in pairwise(means))


def metrics(windows: Mapping[date, Sequence[TierResult]]) -> dict[str, float]:
    """Over all windows together: of the first tier capture (its share of what was spent),
    precision, recall and F1; of each tier the share of what was spent, the lift (how many times the
    average customer's spend) and the calibration (expected over realised spend, and buyers
    likewise); and the share of windows in which realised spend per customer was ordered as the
    tiers are. What cannot be had is NaN."""
    total = summed(windows.values())
    spent = sum(result.realised_spend for result in total)
    customers = sum(result.customers for result in total)
    top = top_tier(total)
    found = {
        "top_tier_capture": _share(total[0].realised_spend, spent),
        "top_tier_precision": top.precision,
        "top_tier_recall": top.recall,
        "top_tier_f1": top.f1,
        "tiers_ordered": float(np.mean([is_ordered(results) for results in windows.values()])),
    }
    for one in total:
        share = _share(one.realised_spend, spent)
        found[f"tier_{one.rank}_share"] = share
        found[f"tier_{one.rank}_lift"] = _share(share, _share(one.customers, customers))
        found[f"tier_{one.rank}_expected_to_realised"] = _share(
            one.expected_spend, one.realised_spend
        )
        found[f"tier_{one.rank}_expected_to_realised_buyers"] = _share(
            one.expected_buyers, one.buyers
        )
    return found


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
