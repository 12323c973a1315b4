"""Small versions, written as `tierhouse score` does: who is in which tier is said by hand."""

from collections.abc import Mapping
from datetime import date

import psycopg
import pyarrow as pa

from warehouse import publishing, versions
from warehouse.connections import Urls, connect, one_row

RANKS = {"platinum": 1, "gold": 2, "silver": 3, "bronze": 4}


def write(
    urls: Urls, day: date, tiers: Mapping[str, tuple[str, float]], model: str = "1"
) -> versions.Version:
    """Score a day: customer -> tier and expected spend, drawn after what is published."""
    begun = versions.begin(urls, day)
    version = versions.Version(
        day, 90, "customer_value", model, "policy", "input", begun.previous_version_id
    )
    versions.write_version(
        urls,
        version,
        *tables(urls, day, tiers, begun.previous_version_id),
        fencing_token=begun.fencing_token,
    )
    return version


def tables(
    urls: Urls, day: date, tiers: Mapping[str, tuple[str, float]], previous: str | None
) -> tuple[pa.Table, pa.Table]:
    """Scores and tiers, with where everybody was in the previous version."""
    before = _before(urls, previous)
    customers = sorted(tiers)
    spend = pa.array([float(tiers[c][1]) for c in customers])
    scores = pa.table({
        "customer_id": customers,
        "horizon_days": pa.array([90] * len(customers), pa.int32()),
        "expected_spend": spend,
        "purchase_probability": [0.5] * len(customers),
        "reasons": ["[]"] * len(customers),
    })  # fmt: skip
    names = [tiers[c][0] for c in customers]
    old = [before.get(c, (None, None)) for c in customers]
    stays = [b[0] == n for b, n in zip(old, names, strict=True)]
    drawn = pa.table({
        "customer_id": customers,
        "tier": names,
        "tier_rank": pa.array([RANKS[name] for name in names], pa.int32()),
        "expected_spend": spend,
        "decided_by": ["measure"] * len(customers),
        "previous_tier": pa.array([b[0] for b in old], pa.string()),
        "previous_tier_rank": pa.array([b[0] and RANKS[b[0]] for b in old], pa.int32()),
        "tier_since": pa.array(
            [b[1] if stay else day for b, stay in zip(old, stays, strict=True)], pa.date32()
        ),
    })  # fmt: skip
    return scores, drawn


def write_gated(
    urls: Urls, day: date, tiers: Mapping[str, tuple[str, float]], model: str = "1"
) -> versions.Version:
    version = write(urls, day, tiers, model)
    gate(urls, version)
    return version


def gate(urls: Urls, version: versions.Version) -> None:
    """Note that a version passed."""
    with connect(urls.warehouse) as connection:
        (scored_at,) = one_row(
            connection,
            "select scored_at from ops.versions where version_id = %s",
            version.version_id,
        )
    publishing.record_gate(urls, [], publishing.Scored(version.version_id, scored_at), passed=True)


def empty(connection: psycopg.Connection) -> None:
    """Nothing is scored, published or gated any more."""
    for table in ("ops.publish_log", "ops.published", "ops.gate_results", "scores.customer_scores",
                  "scores.customer_tiers", "scores.customer_segments", "ops.versions"):  # fmt: skip
        connection.execute(f"delete from {table}".encode())


def _before(urls: Urls, version_id: str | None) -> dict[str, tuple[str, date]]:
    with connect(urls.warehouse) as connection:
        return {
            customer: (tier, since)
            for customer, tier, since in connection.execute(
                "select customer_id, tier, tier_since from scores.customer_tiers "
                "where version_id = %s",
                [version_id],
            )
        }
