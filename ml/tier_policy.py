"""What a tier policy may say, and what makes one that cannot be followed. Pure; the only file read
is the policy's.

A policy is a file, so that it can be reviewed, kept with the code and named in every published row:
its version is a hash of what it says, whatever its comments and layout. It knows customers by
pseudonym only.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from enum import StrEnum
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

DEFAULT_POLICY = Path(__file__).with_name("tier_policy.yml")

# What customers may be compared by. Forecasts are of the horizon, the rest is what came before.
FORECASTS = ("expected_spend", "purchase_probability", "high_value_probability")
HISTORIES = (
    "monetary_total", "spend_30d", "spend_90d", "spend_180d", "spend_365d",
    "frequency_orders", "orders_90d", "orders_365d", "average_order_value", "rfm_score",
)  # fmt: skip
MEASURES = (*FORECASTS, *HISTORIES)
QUINTILES = ("recency_quintile", "frequency_quintile", "monetary_quintile")
R_SCORES = (1, 2, 3, 4, 5)
FM_SCORES = (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5)  # the mean of two quintiles


class PolicyError(ValueError):
    """The policy cannot be followed; the message says what to change."""


class Method(StrEnum):
    """How the line of customers is cut into tiers; `rfm` is the only one without a line."""

    quantile = "quantile"
    threshold = "threshold"
    kmeans = "kmeans"
    hierarchical = "hierarchical"
    natural_breaks = "natural_breaks"
    rfm = "rfm"


OF_METHOD: Mapping[Method, tuple[str, ...]] = {
    Method.quantile: ("share",),
    Method.threshold: ("at_least",),
    Method.rfm: ("recency", "frequency_monetary"),
}
CAPS = ("most_customers", "most_share")

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False, strict=True)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Days = Annotated[int, Field(ge=0, le=3650, strict=True)]
Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=40)]
Scores = Annotated[tuple[Number, ...], Field(min_length=2, max_length=2)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tier(_Strict):
    """share: of the day's customers (quantile). at_least: of the measure, where the tier begins;
    not of the last one, which takes everybody else (threshold). recency, frequency_monetary: from
    and to, of the RFM scores 1 to 5; the second is the mean of frequency and monetary (rfm).
    most_customers, most_share: how many it holds at most; whoever is too many, the lowest first,
    goes to the tier below.
    """

    name: Name
    share: Share | None = None
    at_least: Number | None = None
    recency: Scores | None = None
    frequency_monetary: Scores | None = None
    most_customers: Annotated[int, Field(ge=1, strict=True)] | None = None
    most_share: Share | None = None

    @property
    def is_capped(self) -> bool:
        return self.most_customers is not None or self.most_share is not None

    def room(self, customers: int) -> int:
        """How many of so many customers the tier may hold."""
        share = customers if self.most_share is None else int(self.most_share * customers + 1e-9)
        return share if self.most_customers is None else min(share, self.most_customers)

    def cells(self) -> set[tuple[float, float]]:
        """The pairs of scores that an rfm tier holds."""
        (r_low, r_high), (fm_low, fm_high) = (
            self.recency or (0, 0),
            self.frequency_monetary or (0, 0),
        )
        return {
            (r, fm)
            for r, fm in product(R_SCORES, FM_SCORES)
            if r_low <= r <= r_high and fm_low <= fm <= fm_high
        }


class Hysteresis(_Strict):
    """A customer keeps the tier until the measure is past its border by more than the margin, a
    share of the border, and has pointed to another tier for so many days."""

    margin: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False, strict=True)] = 0.0
    days: Days = 0


class MinimumTenure(_Strict):
    """Customers whose first order is fewer days ago rise to this tier at most."""

    days: Annotated[int, Field(ge=1, le=3650, strict=True)]
    highest: Name


class Override(_Strict):
    """A customer, by pseudonym, who is in this tier whatever the measure says, up to and with a
    day."""

    customer: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    tier: Name
    until: date


class Policy(_Strict):
    """Tiers best first. measures: of MEASURES; several are one by the mean of the customers' places
    among all (0 to 1). horizon_days: of the forecasts; None is the one that scoring was asked for.
    """

    method: Method = Method.quantile
    measures: tuple[str, ...] = ()
    horizon_days: Annotated[int, Field(ge=1, strict=True)] | None = None
    tiers: tuple[Tier, ...]
    hysteresis: Hysteresis | None = None
    minimum_tenure: MinimumTenure | None = None
    overrides: tuple[Override, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _default_measure(cls, said: Any) -> Any:
        if isinstance(said, dict) and not said.get("measures") and said.get("method") != Method.rfm:
            return {**said, "measures": ["expected_spend"]}
        return said

    @model_validator(mode="after")
    def _can_be_followed(self) -> "Policy":
        for check in (_names, _keys, _measures, _borders, _boxes, _rules):
            if (wrong := check(self)) is not None:
                raise ValueError(wrong)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(tier.name for tier in self.tiers)

    @property
    def columns(self) -> tuple[str, ...]:
        """What is read of a customer to draw tiers, by the names of forecasts and features."""
        return QUINTILES if self.method is Method.rfm else self.measures

    @property
    def version(self) -> str:
        """Short hash of what the policy says."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)

    def rank(self, name: str) -> int:
        """From 1, the best."""
        return self.names.index(name) + 1

    def overrides_on(self, day: date) -> tuple[Override, ...]:
        return tuple(override for override in self.overrides if day <= override.until)

    def warnings(self, day: date) -> list[str]:
        """What is not wrong, and no longer does anything."""
        return [
            f"The override of {override.customer} ended on {override.until}: take it out."
            for override in self.overrides
            if override.until < day
        ]


def make_policy(tiers: Sequence[Tier], **said: Any) -> Policy:
    """A policy from its parts. Raises PolicyError."""
    return _policy({"tiers": [tier.model_dump(exclude_none=True) for tier in tiers], **said})


def read_policy(path: Path = DEFAULT_POLICY) -> Policy:
    """Read a YAML policy. Raises PolicyError: what is wrong in the file, and what is allowed."""
    path = Path(path)
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"the tier policy {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"the tier policy {path} is not YAML: {error}") from error
    if not isinstance(said, dict):
        raise PolicyError(f"the tier policy {path} must say at least `tiers:`, a list, best first")
    try:
        return _policy(said)
    except PolicyError as error:
        raise PolicyError(f"the tier policy {path} cannot be followed: {error}") from error


def _policy(said: dict[str, Any]) -> Policy:
    try:
        return Policy(**said)
    except ValidationError as error:
        raise PolicyError("; ".join(_said(problem) for problem in error.errors()[:3])) from None
    except TypeError:
        raise PolicyError("its keys must be text") from None


PARTS: Mapping[str, type[BaseModel]] = {
    "tiers": Tier,
    "hysteresis": Hysteresis,
    "minimum_tenure": MinimumTenure,
    "overrides": Override,
}


ONE_OF = {"tiers": "tier", "overrides": "override"}


def _said(problem: Any) -> str:
    """One problem of pydantic in words. What the file says is not repeated where it could be
    somebody's name."""
    *where, last = problem["loc"] or ("",)
    place = " ".join(
        str(part + 1) if isinstance(part, int) else ONE_OF.get(str(part), str(part))
        for part in where
    )
    inside = f" in {place}" if place else ""
    kind, said = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        part = PARTS.get(str(where[0])) if where else Policy
        allowed = ", ".join((part or Policy).model_fields)
        return f"unknown key `{last}`{inside}; allowed are {allowed}"
    if kind == "missing":
        return f"`{last}` is missing{inside}"
    if kind == "enum":
        return f"unknown {last} {problem['input']!r}; there are {', '.join(Method)}"
    if kind == "tuple_type":
        return f"`{last}`{inside} must be a list"
    if kind == "model_type":
        part = PARTS[str(where[0] if where else last)]
        which = f"{ONE_OF[str(where[0])]} {last + 1}" if isinstance(last, int) else f"`{last}`"
        return f"{which} must be a mapping of {', '.join(part.model_fields)}"
    if last == "customer":
        return (
            f"`customer`{inside} must be a pseudonym of 32 hexadecimal digits, and no name, "
            f"address or number of the shop's own (`tierhouse lookup` says it)"
        )
    return f"`{last}`{inside}: {said[0].lower()}{said[1:]}" if last else said


def _names(policy: Policy) -> str | None:
    if not policy.tiers:
        return "the policy has no tiers; list at least one, best first"
    names = policy.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        return f"tier names must differ, and {', '.join(repeated)} is there twice"
    return None


def _keys(policy: Policy) -> str | None:
    """Each tier says what its method asks for, and nothing of another method."""
    wanted = OF_METHOD.get(policy.method, ())
    last = policy.tiers[-1]
    for tier in policy.tiers:
        said = tier.model_dump(exclude_none=True)
        others = [name for names in OF_METHOD.values() for name in names if name not in wanted]
        if wrong := [name for name in others if name in said]:
            return f"{tier.name} says `{wrong[0]}`, which the method {policy.method} does not know"
        if policy.method is Method.threshold and tier is last:
            if "at_least" in said:
                return (
                    f"the last tier, {tier.name}, takes everybody else: leave its `at_least` out, "
                    f"or whoever is below has no tier"
                )
        elif missing := [name for name in wanted if name not in said]:
            return f"{tier.name} needs `{missing[0]}` for the method {policy.method}"
        if tier.is_capped and tier is last:
            return f"the last tier, {tier.name}, takes everybody else and cannot be capped"
        if tier.is_capped and policy.method is Method.rfm:
            return f"{tier.name} is capped, and RFM groups do not say who is too many"
    return None


def _measures(policy: Policy) -> str | None:
    unknown = [name for name in policy.measures if name not in MEASURES]
    if unknown:
        return f"unknown measure {unknown[0]!r}; there are {', '.join(MEASURES)}"
    if len(set(policy.measures)) < len(policy.measures):
        return "a measure is there twice"
    if policy.method is Method.rfm and policy.measures:
        return "the method rfm reads the RFM scores: leave `measures` out"
    if policy.method is Method.threshold and len(policy.measures) > 1:
        return "the method threshold takes one measure: a sum of several has no unit"
    if policy.horizon_days is not None and not set(policy.measures) & set(FORECASTS):
        return "`horizon_days` is of forecasts, and no measure is one"
    return None


def _borders(policy: Policy) -> str | None:
    if policy.method is Method.quantile:
        total = math.fsum(tier.share or 0 for tier in policy.tiers)
        if abs(total - 1) > 1e-9:
            return f"the shares must add up to 1, and they add up to {total:.10g}"
    if policy.method is not Method.threshold:
        return None
    borders = [(tier.name, tier.at_least or 0.0) for tier in policy.tiers[:-1]]
    for (name, border), (below, next_border) in pairwise(borders):
        if border < next_border:
            return (
                f"the borders overlap: {name} begins at {border:g} and {below}, below it, at "
                f"{next_border:g}, so whoever {below} is for is in {name} already"
            )
        if border == next_border:
            return f"{below} cannot hold anybody: {name} begins at {border:g} too"
    for name, border in borders:
        if policy.measures[0].endswith("_probability") and border > 1:
            return f"{name} cannot hold anybody: no probability is {border:g}"
    if borders and borders[-1][1] <= 0 and policy.measures[0] != "monetary_total":
        name, border = borders[-1]
        return f"{policy.names[-1]} cannot hold anybody: {name} begins at {border:g} already"
    return None


def _boxes(policy: Policy) -> str | None:
    if policy.method is not Method.rfm:
        return None
    taken: dict[tuple[float, float], str] = {}
    for tier in policy.tiers:
        cells = tier.cells()
        if not cells:
            return f"{tier.name} cannot hold anybody: scores go from 1 to 5, the lower one first"
        for cell in sorted(cells & taken.keys()):
            return f"the borders overlap: {_cell(cell)} is in {taken[cell]} and in {tier.name}"
        taken |= dict.fromkeys(cells, tier.name)
    for cell in product(R_SCORES, FM_SCORES):
        if cell not in taken:
            return f"no tier holds {_cell(cell)}"
    return None


def _cell(cell: tuple[float, float]) -> str:
    return f"recency {cell[0]:g} with frequency_monetary {cell[1]:g}"


def _rules(policy: Policy) -> str | None:
    rule = policy.hysteresis
    if rule is not None and not rule.margin and not rule.days:
        return "`hysteresis` of no margin and no days holds nobody: leave it out"
    if rule is not None and rule.margin and policy.method is Method.rfm:
        return "RFM groups have no border to be past: `hysteresis` has `days` only"
    tenure = policy.minimum_tenure
    if tenure is not None and tenure.highest not in policy.names:
        return f"`minimum_tenure` names {tenure.highest!r}, and there are {_listed(policy)}"
    if tenure is not None and policy.rank(tenure.highest) == 1:
        return f"`minimum_tenure` up to {tenure.highest}, the best tier, holds nobody back"
    for override in policy.overrides:
        if override.tier not in policy.names:
            return f"an override names the tier {override.tier!r}, and there are {_listed(policy)}"
    customers = [override.customer for override in policy.overrides]
    if twice := sorted({one for one in customers if customers.count(one) > 1}):
        return f"there are two overrides of {twice[0]}"
    return None


def _listed(policy: Policy) -> str:
    return ", ".join(policy.names)
