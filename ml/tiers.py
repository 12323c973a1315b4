"""From expected spend to tiers, by a policy that people can read. The only file read is the
policy's."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

DEFAULT_POLICY = Path(__file__).with_name("tier_policy.yml")


class PolicyError(ValueError):
    """The policy cannot be followed; the message says what to change."""


@dataclass(frozen=True)
class Tier:
    """share: of the day's customers, above 0."""

    name: str
    share: float


@dataclass(frozen=True)
class Policy:
    """Tiers best first. version: short hash of what the policy says, whatever its comments and
    layout."""

    tiers: tuple[Tier, ...]
    version: str


def make_policy(tiers: Sequence[Tier]) -> Policy:
    """Check the tiers and give them their version. Raises PolicyError."""
    names = [tier.name for tier in tiers]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not tiers:
        raise PolicyError("the policy has no tiers; list at least one with its name and share")
    if repeated:
        raise PolicyError(f"tier names must differ, and {', '.join(repeated)} is there twice")
    small = [tier.name for tier in tiers if not tier.share > 0]
    if small:
        raise PolicyError(f"the share of {', '.join(small)} must be above 0")
    total = math.fsum(tier.share for tier in tiers)
    if abs(total - 1) > 1e-9:
        raise PolicyError(f"the shares must add up to 1, and they add up to {total:.10g}")
    said = json.dumps([[tier.name, tier.share] for tier in tiers])
    return Policy(tuple(tiers), hashlib.sha256(said.encode()).hexdigest()[:12])


def read_policy(path: Path = DEFAULT_POLICY) -> Policy:
    """Read a YAML policy: `tiers:`, a list of {name, share}, best first. Raises PolicyError."""
    path = Path(path)
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"the tier policy {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"the tier policy {path} is not YAML: {error}") from error
    if not isinstance(said, dict) or set(said) != {"tiers"} or not isinstance(said["tiers"], list):
        raise PolicyError(f"the tier policy {path} must hold one list, `tiers`, and nothing else")
    try:
        return make_policy(
            [_tier(position, entry) for position, entry in enumerate(said["tiers"], 1)]
        )
    except PolicyError as error:
        raise PolicyError(f"the tier policy {path} cannot be followed: {error}") from error


@dataclass(frozen=True)
class Assignment:
    """tier (n,) names and rank (n,) with 1 as the best, in the order of the customers given."""

    tier: np.ndarray
    rank: np.ndarray
    policy: Policy


@dataclass(frozen=True)
class TierSummary:
    """One tier of a day."""

    tier: str
    rank: int
    customers: int
    expected_spend: float
    realised_spend: float


def assign(expected_spend: np.ndarray, customer_id: np.ndarray, policy: Policy) -> Assignment:
    """Put every customer in exactly one tier.

    Equal spend is ordered by customer_id, so that the same scores always give the same tiers. A
    tier that ends between two customers takes the nearer number of them (a half rounds up).
    Raises ValueError where a spend is not a finite number or a customer comes twice.
    """
    spend = np.asarray(expected_spend, dtype=float)
    customers = pd.Series(np.asarray(customer_id))
    if spend.shape != customers.shape or not np.isfinite(spend).all():
        raise ValueError("tiers need one finite expected spend for each customer")
    if customers.duplicated().any():
        raise ValueError(f"customer {customers[customers.duplicated()].iloc[0]} is there twice")
    order = np.lexsort((customers.rank(method="first").to_numpy(), -spend))
    shares = np.cumsum([tier.share for tier in policy.tiers])
    ends = np.floor(np.round(shares * spend.size, 6) + 0.5).astype(int)
    ends[-1] = spend.size
    rank = np.empty(spend.size, dtype=np.int64)
    rank[order] = np.searchsorted(ends, np.arange(spend.size), side="right") + 1
    names = np.array([tier.name for tier in policy.tiers], dtype=object)
    return Assignment(names[rank - 1], rank, policy)


def summarise(
    assignment: Assignment, expected_spend: np.ndarray, realised_spend: np.ndarray
) -> list[TierSummary]:
    """Customers, expected and realised spend of every tier, best first, empty tiers too."""
    of_tier = [assignment.rank == rank for rank in range(1, len(assignment.policy.tiers) + 1)]
    return [
        TierSummary(
            tier=tier.name,
            rank=rank,
            customers=int(rows.sum()),
            expected_spend=float(expected_spend[rows].sum()),
            realised_spend=float(realised_spend[rows].sum()),
        )
        for rank, (tier, rows) in enumerate(zip(assignment.policy.tiers, of_tier, strict=True), 1)
    ]


def _tier(position: int, entry: object) -> Tier:
    if not isinstance(entry, dict) or set(entry) != {"name", "share"}:
        raise PolicyError(f"tier {position} must have a name and a share, and nothing else")
    name, share = entry["name"], entry["share"]
    if not isinstance(name, str) or not name.strip():
        raise PolicyError(f"the name of tier {position} must be text")
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        raise PolicyError(f"the share of {name} must be a number such as 0.05, not {share!r}")
    return Tier(name.strip(), float(share))
