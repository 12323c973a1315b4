"""Who stands in which tier: drawn by what the policy measures, held by what was before. Pure.

One line, and borders on it. The measure puts the customers of a day on a line, the method finds the
borders (`draw`). Then comes what makes tiers fit to act on (`assign`), in this order: hysteresis
against yesterday's tiers, minimum tenure, overrides, caps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import jenkspy
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.cluster import AgglomerativeClustering, KMeans

from ml.tier_policy import Method, Policy, PolicyError

Array = np.ndarray
Frame = pd.DataFrame

CLUSTERED = 1_024  # points on the line that methods of clustering look at
NO_DAY = np.datetime64("NaT", "D")
# What decided about a tier, in the words of scores.customer_tiers.
DECISIONS = ("measure", "hysteresis", "tenure", "override", "cap")
BY_MEASURE, BY_HYSTERESIS, BY_TENURE, BY_OVERRIDE, BY_CAP = range(len(DECISIONS))


@dataclass(frozen=True)
class Assignment:
    """What the measure alone says, in the order of the customers given.

    rank: (n,) from 1, the best. value: (n,) the measure. borders: (tiers - 1,) the least value of
    each tier but the last, and ceilings: (tiers - 1,) what has to be passed to come into it, never
    rising; by shares these are the last customer in the tier and the first one below it, else the
    same number. None where the method is rfm.
    """

    rank: Array
    value: Array | None
    borders: Array | None
    ceilings: Array | None
    policy: Policy

    @property
    def tier(self) -> Array:
        """(n,) names."""
        return np.array(self.policy.names, dtype=object)[self.rank - 1]


@dataclass(frozen=True)
class Previous:
    """The tiers that were published before. rows: customer_id, tier, tier_rank, drawn_tier_rank,
    tier_since, past_border_since (schema.sql: scores.customer_tiers), one per customer."""

    as_of_date: date
    rows: pa.Table


def draw(frame: Frame, policy: Policy) -> Assignment:
    """Put every customer in exactly one tier, by the measure alone.

    frame: customer_id and `policy.columns`, a row per customer of a day. Equal values are ordered
    by customer_id where a tier ends between them, so that the same scores always give the same
    tiers. A tier of a share that ends between two customers takes the nearer number of them (a half
    rounds up).
    Raises ValueError where a value is not a finite number or a customer comes twice; PolicyError
    where the values are too few to be clustered into so many tiers.
    """
    customers = frame["customer_id"]
    if customers.duplicated().any():
        raise ValueError(f"customer {customers[customers.duplicated()].iloc[0]} is there twice")
    values = {name: frame[name].to_numpy(float, na_value=np.nan) for name in policy.columns}
    for name, column in values.items():
        if not np.isfinite(column).all():
            raise ValueError(f"tiers need one finite {name} for each customer")
    if policy.method is Method.rfm:
        return Assignment(_in_boxes(list(values.values()), policy), None, None, None, policy)
    value = _on_one_line(list(values.values()))
    if policy.method is Method.quantile:
        rank, borders, ceilings = _by_share(value, customers, policy)
    else:
        borders = (
            np.array([tier.at_least for tier in policy.tiers[:-1]], dtype=float)
            if policy.method is Method.threshold
            else _between_clusters(value, policy.method, len(policy.tiers))
        )
        rank, ceilings = _below(value, borders), borders
    return Assignment(rank, value, borders, ceilings, policy)


def assign(frame: Frame, policy: Policy, day: date, previous: Previous | None) -> pa.Table:
    """The tiers of a day, as scores.customer_tiers has them.

    frame: customer_id, `policy.columns`, and tenure_days where the policy asks for a minimum, a row
    per customer; previous: the tiers published before the day, None for the first ones. The result
    has a row per customer in their order: tier, tier_rank, drawn_tier, drawn_tier_rank, decided_by,
    previous_tier, previous_tier_rank, tier_since, past_border_since and measure.
    Raises as `draw`.
    """
    drawn = draw(frame, policy)
    customers = pa.array(frame["customer_id"], pa.string())
    before = _before(customers, policy, previous)
    today = np.datetime64(day, "D")
    rank, decided = _held(drawn, before, today)
    if policy.minimum_tenure is not None:
        highest = policy.rank(policy.minimum_tenure.highest)
        tenure = frame["tenure_days"].to_numpy(float, na_value=np.nan)
        young = (tenure < policy.minimum_tenure.days) & (rank < highest)
        rank[young], decided[young] = highest, BY_TENURE
    is_protected = _override(rank, decided, customers, policy, day)
    _cap(rank, decided, drawn, before.rank, is_protected, customers)

    side = np.sign(drawn.rank - rank)
    stays = before.rank == rank
    carried = stays & (side != 0) & (side == before.side)
    past = np.where(carried & ~np.isnat(before.past_border_since), before.past_border_since, today)
    past[side == 0] = NO_DAY
    names = pa.array(policy.names, pa.string())
    tier = names.take(pa.array(rank - 1))
    is_same = pc.fill_null(pc.call_function("equal", [before.tier, tier]), False)
    is_same = is_same.to_numpy(zero_copy_only=False)
    since = np.where(is_same, before.tier_since, today)
    return pa.table({
        "customer_id": customers,
        "tier": tier,
        "tier_rank": pa.array(rank, pa.int32()),
        "drawn_tier": names.take(pa.array(drawn.rank - 1)),
        "drawn_tier_rank": pa.array(drawn.rank, pa.int32()),
        "decided_by": pa.array(DECISIONS).take(pa.array(decided)),
        "previous_tier": before.tier,
        "previous_tier_rank": before.tier_rank,
        "tier_since": pa.array(since, pa.date32()),
        "past_border_since": pa.array(past, pa.date32()),
        "measure": (
            pa.nulls(len(customers), pa.float64()) if drawn.value is None else drawn.value
        ),
    })  # fmt: skip


def _on_one_line(values: Sequence[Array]) -> Array:
    """One measure is itself; several are the mean of the customers' places in each, 0 to 1."""
    if len(values) == 1:
        return values[0]
    places = [(pd.Series(one).rank().to_numpy() - 0.5) / one.size for one in values]
    return np.mean(places, axis=0)


def _below(value: Array, borders: Array) -> Array:
    """(n,) ranks: 1 + how many borders (never rising) each value is below."""
    return (1 + borders.size - np.searchsorted(borders[::-1], value, side="right")).astype(np.int64)


def _by_share(value: Array, customers: pd.Series, policy: Policy) -> tuple[Array, Array, Array]:
    order = _best_first(value, pa.array(customers))
    shares = np.cumsum([tier.share or 0 for tier in policy.tiers])
    ends = np.floor(np.round(shares * value.size, 6) + 0.5).astype(int)
    ends[-1] = value.size
    rank = np.empty(value.size, dtype=np.int64)
    rank[order] = np.searchsorted(ends, np.arange(value.size), side="right") + 1
    ordered = np.concatenate([[np.inf], value[order], [-np.inf]])
    return rank, ordered[ends[:-1]], ordered[ends[:-1] + 1]


def _best_first(value: Array, customers: pa.Array) -> Array:
    rows = pa.table({"value": value, "customer": customers, "row": np.arange(value.size)})
    return rows.sort_by([("value", "descending"), ("customer", "ascending")])["row"].to_numpy()


def _between_clusters(value: Array, method: Method, tiers: int) -> Array:
    """The borders half way between neighbouring clusters.

    Values are of every size, so their logarithms are clustered: in plain money the first cluster
    would be one customer. They are looked at as CLUSTERED points, each the mean of as many
    customers, so that no method costs more than a second. natural_breaks is the best cut there is
    (Jenks; W. D. Fisher, J. American Statistical Association 53, 1958), kmeans is Lloyd's,
    hierarchical Ward's (J. American Statistical Association 58, 1963).
    """
    if tiers == 1:
        return np.empty(0)
    ordered = np.sort(np.log1p(np.maximum(value, 0)))
    points = np.array([part.mean() for part in np.array_split(ordered, min(CLUSTERED, value.size))])
    different = np.unique(points).size
    if different < tiers:
        raise PolicyError(
            f"{tiers} tiers by {method} need as many different values, and there are {different}"
        )
    if method is Method.natural_breaks:
        ends = np.array(jenkspy.jenks_breaks(points.tolist(), n_classes=tiers)[1:-1])
        last = np.searchsorted(points, ends, side="right") - 1
    else:
        model = (
            KMeans(tiers, n_init="auto", random_state=0)
            if method is Method.kmeans
            else AgglomerativeClustering(tiers, linkage="ward")
        )
        last = np.flatnonzero(np.diff(model.fit_predict(points[:, None])))
    return np.expm1((points[last] + points[last + 1]) / 2)[::-1]


def _in_boxes(quintiles: Sequence[Array], policy: Policy) -> Array:
    rank_of = {cell: rank for rank, tier in enumerate(policy.tiers, 1) for cell in tier.cells()}
    grid = np.zeros((6, 11), dtype=np.int64)
    for (r, fm), rank in rank_of.items():
        grid[int(r), int(2 * fm)] = rank
    recency, frequency, monetary = quintiles
    return grid[recency.astype(int), (frequency + monetary).astype(int)]


@dataclass(frozen=True)
class _Before:
    """Of each customer of today. rank: 0 where nothing is to be held on to; side: -1 where the
    measure pointed up from the tier that was held, 1 down."""

    day: np.datetime64
    rank: Array
    side: Array
    tier: pa.Array
    tier_rank: pa.Array
    tier_since: Array
    past_border_since: Array


def _before(customers: pa.Array, policy: Policy, previous: Previous | None) -> _Before:
    n = len(customers)
    if previous is None:
        nothing, never = np.zeros(n, dtype=np.int64), np.full(n, NO_DAY)
        no_tier, no_rank = pa.nulls(n, pa.string()), pa.nulls(n, pa.int32())
        return _Before(NO_DAY, nothing, nothing, no_tier, no_rank, never, never)
    rows = previous.rows
    place = _find(customers, rows["customer_id"].combine_chunks())
    found = {name: rows[name].combine_chunks().take(place) for name in rows.schema.names[1:]}
    rank = pc.fill_null(found["tier_rank"], 0).to_numpy().astype(np.int64)
    # Another ladder of tiers begins anew: its names or their order say what a rank means.
    ladder = rows.group_by(["tier", "tier_rank"]).aggregate([]).to_pylist()
    is_same = all(
        row["tier_rank"] <= len(policy.tiers) and policy.names[row["tier_rank"] - 1] == row["tier"]
        for row in ladder
    )
    drawn = pc.fill_null(found["drawn_tier_rank"], 0).to_numpy().astype(np.int64)
    side = np.where(drawn > 0, np.sign(drawn - rank), 0)
    since = _days(found["tier_since"])
    was = np.datetime64(previous.as_of_date, "D")
    return _Before(
        day=was,
        rank=rank if is_same else np.zeros(n, dtype=np.int64),
        side=side,
        tier=found["tier"],
        tier_rank=found["tier_rank"],
        tier_since=np.where(np.isnat(since), was, since),
        past_border_since=_days(found["past_border_since"]),
    )


def _find(wanted: pa.Array, among: pa.Array) -> pa.Array:
    """Where each one is, null where it is not."""
    return pc.call_function("index_in", [wanted], pc.SetLookupOptions(value_set=among))


def _days(column: pa.Array) -> Array:
    return column.cast(pa.date32()).to_numpy(zero_copy_only=False).astype("datetime64[D]")


def _held(drawn: Assignment, before: _Before, today: np.datetime64) -> tuple[Array, Array]:
    """The tiers after hysteresis, and what decided."""
    rule = drawn.policy.hysteresis
    decided = np.full(drawn.rank.size, BY_MEASURE)
    if rule is None or not before.rank.any():
        return drawn.rank.copy(), decided
    best = worst = drawn.rank
    if drawn.value is not None and drawn.borders is not None and drawn.ceilings is not None:
        best = np.minimum(best, _below(drawn.value, _moved(drawn.borders, -rule.margin)))
        worst = np.maximum(worst, _below(drawn.value, _moved(drawn.ceilings, rule.margin)))
    side = np.sign(drawn.rank - before.rank)
    was_past = (side == before.side) & ~np.isnat(before.past_border_since)
    since = np.where(was_past, before.past_border_since, today)
    days = np.timedelta64(rule.days, "D")
    # Nobody looked for longer than that: the margin alone decides.
    waited = ((today - since) >= days) | (today - before.day > days)
    moved = np.clip(before.rank, best, worst)
    rank = np.where(before.rank == 0, drawn.rank, np.where(waited, moved, before.rank))
    decided[rank != drawn.rank] = BY_HYSTERESIS
    return rank, decided


def _moved(borders: Array, margin: float) -> Array:
    return borders + np.where(np.isfinite(borders), margin * np.abs(borders), 0)


def _override(rank: Array, decided: Array, customers: pa.Array, policy: Policy, day: date) -> Array:
    """Set who is overridden on the day; say who that is."""
    is_protected = np.zeros(rank.size, dtype=bool)
    overrides = policy.overrides_on(day)
    if not overrides:
        return is_protected
    wanted = pa.array([override.customer for override in overrides], pa.string())
    place = _find(wanted, customers).to_numpy(zero_copy_only=False)
    is_there = ~np.isnan(place.astype(float))
    rows = place[is_there].astype(int)
    rank[rows] = np.array([policy.rank(override.tier) for override in overrides])[is_there]
    decided[rows] = BY_OVERRIDE
    is_protected[rows] = True
    return is_protected


def _cap(
    rank: Array,
    decided: Array,
    drawn: Assignment,
    before: Array,
    is_protected: Array,
    customers: pa.Array,
) -> None:
    """Whoever is too many in a tier goes to the next one: the lowest first, and at the margin of
    the hysteresis whoever came last."""
    policy = drawn.policy
    margin = policy.hysteresis.margin if policy.hysteresis is not None else 0.0
    for place, tier in enumerate(policy.tiers, 1):
        if not tier.is_capped or drawn.value is None:
            continue
        room = max(tier.room(rank.size) - int(((rank == place) & is_protected).sum()), 0)
        members = np.flatnonzero((rank == place) & ~is_protected)
        if members.size <= room:
            continue
        value = drawn.value[members]
        stands = np.where(before[members] == place, value + margin * np.abs(value), value)
        too_many = members[_best_first(stands, customers.take(pa.array(members)))[room:]]
        rank[too_many], decided[too_many] = place + 1, BY_CAP
