"""The tier policy of an installation: read, tried on what is published, and followed."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ml import tier_policy, tiers
from ml.metrics import Prediction
from ml.tier_policy import FORECASTS, HISTORIES, QUINTILES, Policy
from warehouse import versions
from warehouse.connections import Urls, connect, read_arrow
from warehouse.settings import Settings, TierhouseError, WrongUsage

HISTORY = (*QUINTILES, *HISTORIES, "tenure_days")  # what policies read of a customer's past


def read_policy(settings: Settings, path: Path | None = None) -> Policy:
    """The policy of a file, or of the installation. Raises WrongUsage: it cannot be followed."""
    try:
        return tier_policy.read_policy(path or settings.tier_policy)
    except tier_policy.PolicyError as error:
        raise WrongUsage(f"{_sentence(error)} Nothing was written.") from None


@dataclass(frozen=True)
class Trial:
    """What a policy would make of the published day. tiers: name, customers, of these how many came
    from another tier, customers in the published tier of this name, expected spend. moved: of all
    customers, how many stand elsewhere today."""

    as_of_date: date
    tiers: tuple[tuple[str, int, int, int, float], ...]
    moved: int

    @property
    def empty(self) -> list[str]:
        return [name for name, customers, *_ in self.tiers if not customers]


def try_policy(urls: Urls, policy: Policy) -> Trial | None:
    """The tiers that `tierhouse score` would have drawn of the published day by this policy,
    against those that are published; None where nothing is. Writes nothing.

    Raises WrongUsage: an override of a customer that nobody knows, a horizon or a measure that
    scores do not have.
    """
    with connect(urls.warehouse) as connection:
        published = connection.execute(
            "select version_id, as_of_date, horizon_days "
            "from ops.published join ops.versions using (version_id)"
        ).fetchone()
        if published is None:
            return None
        version, day, asked_days = published
        there = connection.execute(
            "select distinct horizon_days from scores.customer_scores where version_id = %s",
            [version],
        ).fetchall()
    days = policy.horizon_days or asked_days
    refuse_horizon(days, sorted(found for (found,) in there))
    past = [name for name in HISTORY if name in (*policy.columns, "tenure_days")]
    rows = read_arrow(
        urls.warehouse,
        "select drawn.customer_id, drawn.tier, drawn.expected_spend::float8 as spend, "
        + ", ".join(f"said.{name}::float8 as {name}" for name in FORECASTS)
        + ", "
        + ", ".join(f"before.{name}::float8 as {name}" for name in past)
        + " from scores.customer_tiers as drawn "
        "join scores.customer_scores as said using (version_id, customer_id) "
        "left join features.customer_features as before on before.customer_id = drawn.customer_id "
        "and before.as_of_date = drawn.as_of_date where version_id = $1 and said.horizon_days = $2",
        [version, days],
    )
    frame = rows.to_pandas(types_mapper={pa.string(): pd.StringDtype()}.get)
    refuse_missing(policy, days, frame.dropna(axis=1, how="all"))
    drawn = draw(urls, frame, policy, day, versions.published_before(urls, day))
    was, now = rows["tier"].combine_chunks(), drawn["tier"].combine_chunks()
    moved = pc.call_function("not_equal", [was, now]).to_numpy(zero_copy_only=False)
    rank = drawn["tier_rank"].to_numpy()
    spend = frame["spend"].to_numpy()
    return Trial(
        day,
        tuple(
            (
                name,
                int((rank == place).sum()),
                int(((rank == place) & moved).sum()),
                int((frame["tier"] == name).sum()),
                round(float(spend[rank == place].sum()), 2),
            )
            for place, name in enumerate(policy.names, 1)
        ),
        int(moved.sum()),
    )


def draw(
    urls: Urls, frame: pd.DataFrame, policy: Policy, day: date, before: versions.Published | None
) -> pa.Table:
    """`tiers.assign` with what was published before.

    Raises WrongUsage: an override of somebody who never was a customer (a typing error, or
    pseudonyms from before the key was changed). TierhouseError: these values make no tiers.
    """
    wanted = [override.customer for override in policy.overrides_on(day)]
    customers = frame["customer_id"]
    missing = sorted(set(wanted) - set(customers[customers.isin(wanted)]))
    if unknown := versions.unknown_customers(urls, missing):
        raise WrongUsage(
            f"The tier policy overrides {unknown[0]}, and no customer has this pseudonym. "
            f"`tierhouse lookup` says whose is which; take the override out, or mend it. Nothing "
            f"was written."
        )
    previous = before and tiers.Previous(before.as_of_date, before.tiers)
    try:
        return tiers.assign(frame, policy, day, previous)
    except ValueError as error:
        raise TierhouseError(
            f"The tiers of {day} cannot be drawn: {error}. Nothing was written."
        ) from None


def forecasts(said: Prediction) -> dict[str, np.ndarray]:
    """Of FORECASTS what was said, expected spend as it is written."""
    found = {name: getattr(said, name) for name in FORECASTS if getattr(said, name) is not None}
    return {**found, "expected_spend": np.asarray(said.expected_spend).round(2)}


def refuse_horizon(days: int, there: Collection[int]) -> None:
    if days not in there:
        raise WrongUsage(
            f"The tier policy asks for a horizon of {days} days, and scores have "
            f"{', '.join(map(str, there))}. Nothing was written."
        )


def refuse_missing(policy: Policy, days: int, frame: pd.DataFrame) -> None:
    if missing := [name for name in policy.columns if name not in frame]:
        raise WrongUsage(
            f"The tier policy measures {missing[0]}, which the scores of {days} days do not have. "
            f"Choose another measure, or another horizon. Nothing was written."
        )


def _sentence(error: Exception) -> str:
    said = str(error)
    return f"{said[0].upper()}{said[1:].removesuffix('.')}."
