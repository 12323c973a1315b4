"""A published shop: 300 customers, two days a week apart, all that the pages and reports read."""

import json
from dataclasses import dataclass
from datetime import date, timedelta
from math import log
from urllib.parse import urlsplit, urlunsplit

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from warehouse import publishing, versions
from warehouse.connections import connect, grant, one_row

DAY = date(2025, 6, 8)
BEFORE = DAY - timedelta(days=7)
TIERS = ("platinum", "gold", "silver", "bronze")
HORIZON = 90
# What a shop calls its things is text, and nothing else.
CATEGORY = "<b>Tea|*Cups*</b>"
WHY = (
    {"reason": "last_order", "effect": 0.8, "en": f"No {CATEGORY} lately", "zh": "近来没有下单"},
    {"reason": "recent_spend", "effect": 1.4, "en": "Spent 50 lately", "zh": "近来消费 50"},
)


# Day, known on, kind, log of the money: two lines of a purchase, a return that is just known, and a
# purchase that is not known yet.
EVENTS = (
    (date(2025, 5, 1), date(2025, 5, 2), 1, log(11)),
    (date(2025, 5, 1), date(2025, 5, 2), 1, log(31)),
    (date(2025, 5, 9), DAY, 2, -log(11)),
    (DAY, DAY + timedelta(days=1), 1, log(101)),
)


@dataclass(frozen=True)
class Shop:
    """What is published, and the address of whoever may only read `analytics`."""

    analyst_url: str
    day: date
    customers: int
    gold: int
    gold_up_in_spain: int
    fallen: int
    spend: float


@pytest.fixture(scope="package")
def analyst(server):
    """A login that is a member of the role analyst, on this server."""
    name, password = "reader_of_the_pages", "secret-of-the-reader"
    with psycopg.connect(server, autocommit=True) as connection:
        for role in ("analyst", name):
            found = connection.execute("select 1 from pg_roles where rolname = %s", [role])
            if not found.fetchone():
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        login = sql.Identifier(name)
        secret = sql.Literal(password)
        connection.execute(sql.SQL("alter role {} password {}").format(login, secret))
        connection.execute(sql.SQL("grant analyst to {}").format(login))
    return f"{name}:{password}"


@pytest.fixture(scope="module")
def shop(urls, analyst) -> Shop:
    """Two published days. A tenth moved up, a tenth down, and the last twenty are new."""
    random = np.random.default_rng(7)
    spend = np.sort(random.gamma(1, 200, 300))[::-1].round(2)
    rank = np.repeat([1, 2, 3, 4], [15, 45, 90, 150])
    customers = np.array([f"c{number:03}" for number in range(300)])
    first = publish(urls, BEFORE, customers[:280], spend[:280], rank[:280], None)
    moved = rank.copy()
    up, down = (rank == 3) & (np.arange(300) % 3 == 0), (rank == 2) & (np.arange(300) % 3 == 0)
    moved[up], moved[down] = 2, 3
    publish(urls, DAY, customers, spend, moved, first, np.append(rank[:280], np.zeros(20, int)))
    with connect(urls.warehouse) as connection:
        for table, rows in about_the_model().items():
            marks = ", ".join(["%s"] * len(rows[0]))
            with connection.cursor() as cursor:
                cursor.executemany(f"insert into {table} values ({marks})", rows)
        connection.execute(
            "create table if not exists features.customer_events (customer_id text, "
            "event_date date, known_on date, kind integer, log_amount double precision)"
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into features.customer_events values ('c000', %s, %s, %s, %s)", EVENTS
            )
        grant(connection)
    parts = urlsplit(urls.warehouse)
    return Shop(
        analyst_url=urlunsplit(parts._replace(netloc=f"{analyst}@{parts.hostname}:{parts.port}")),
        day=DAY,
        customers=300,
        gold=int((moved == 2).sum()),
        gold_up_in_spain=int((up & (np.arange(300) % 2 == 1)).sum()),
        fallen=int(down.sum()),
        spend=float(spend.sum()),
    )


@pytest.fixture
def first_day(urls, shop):
    """The first of both days, which analysts read meanwhile."""
    point = "update ops.published set version_id = %s"
    with connect(urls.warehouse, autocommit=True) as connection:
        (now,) = one_row(connection, "select version_id from ops.published")
        (first,) = one_row(
            connection, "select version_id from ops.versions where as_of_date = %s", BEFORE
        )
        connection.execute(point, [first])
        yield BEFORE
        connection.execute(point, [now])


def publish(urls, day, customers, spend, rank, before, previous_rank=None):
    """A version of a day as `tierhouse score`, `check` and `publish` make it; its id."""
    n = len(customers)
    buys = np.clip(spend / 400, 0.02, 0.98)
    of_the_tiers = {
        "expected_spend_low": ((spend / 2).round(2), pa.float64()),
        "expected_spend_high": ((spend * 2).round(2), pa.float64()),
        "next_order_date": ([day + timedelta(days=9)] * n, pa.date32()),
        "reasons": ([json.dumps(WHY, ensure_ascii=False)] * n, pa.string()),
    }
    scores = pa.concat_tables([
        pa.table({
            "customer_id": customers,
            "horizon_days": pa.array([horizon] * n, pa.int32()),
            "expected_spend": (spend * horizon / HORIZON).round(2),
            "purchase_probability": buys ** (HORIZON / horizon),
            **{
                name: pa.array(values if horizon == HORIZON else [None] * n, kind)
                for name, (values, kind) in of_the_tiers.items()
            },
        })
        for horizon in (30, 90, 180)
    ])  # fmt: skip
    previous = [None] * n if previous_rank is None else [int(r) or None for r in previous_rank]
    moves = [int(now) != then for now, then in zip(rank, previous, strict=True)]
    tiers = pa.table({
        "customer_id": customers,
        "tier": [TIERS[r - 1] for r in rank],
        "tier_rank": pa.array(rank, pa.int32()),
        "expected_spend": spend,
        "decided_by": ["measure"] * n,
        "previous_tier": pa.array([r and TIERS[r - 1] for r in previous], pa.string()),
        "previous_tier_rank": pa.array(previous, pa.int32()),
        "tier_since": pa.array([day if moved else BEFORE for moved in moves], pa.date32()),
        "rfm_segment": ["champions"] * n,
        "top_category": [CATEGORY] * n,
        "country": ["Spain" if number % 2 else "Portugal" for number in range(n)],
    })  # fmt: skip
    segments = pa.table(
        {
            "customer_id": customers,
            "rfm_segment": ["champions"] * n,
            "segment": ["A" if number % 3 else "B" for number in range(n)],
        }
    )
    version = versions.Version(
        day, HORIZON, "customer_value", "1", "policy", "input", previous_version_id=before
    )
    profiles = pa.table({
        "segment": ["A", "B"],
        "customers": [n // 2] * 2,
        "expected_spend": [float(spend.sum()) / 2] * 2,
        "centre": ["{}"] * 2,
        "scale": ["{}"] * 2,
        "description_en": ["Who are A", "Who are B"],
        "description_zh": ["常客", "稀客"],
    })  # fmt: skip
    grouped = {"customer_segments": segments, "segment_profiles": profiles}
    versions.write_version(urls, version, scores, tiers, grouped)
    gate = {
        "stage": "tiers", "as_of_date": day, "version_id": version.version_id,
        "table_name": "customer_tiers", "column_name": "tier", "observed": json.dumps({"value": 4}),
    }  # fmt: skip
    results = [
        {**gate, "expectation": "a tier for everybody", "severity": "critical", "success": True},
        {**gate, "expectation": "few customers move", "severity": "warning", "success": False},
    ]
    publishing.record_gate(urls, results, publishing.newest_version(urls, day), passed=True)
    publishing.publish(urls, day, keep=8)
    return version.version_id


def about_the_model():
    """The scoreboard, its curves and the judged tiers of the model behind both days."""
    model = ("customer_value", "1")
    candidates = {"lightgbm_hurdle": 0.88, "spend_rate": 0.86}
    origins = (None, date(2024, 12, 1), date(2025, 3, 1))
    metrics = ("normalized_gini", "capture_top10", "spearman", "auroc_active", "sum_ratio", "mae")
    return {
        "scores.model_metrics": [
            (*model, HORIZON, candidate, origin, metric, value)
            for candidate, value in candidates.items()
            for origin in origins
            for metric in metrics
        ],
        "scores.model_curves": [
            (*model, candidate, kind, place, place / 10, (place / 10) ** (1 - value / 2))
            for candidate, value in candidates.items()
            for kind in ("gain", "calibration")
            for place in range(11)
        ],
        "scores.tier_evaluation": [
            (
                *model,
                "policy",
                date(2025, 3, 1),
                tier,
                place,
                10 * place,
                100.0,
                90.0,
                0.5,
                0.5,
                0.5,
            )
            for place, tier in enumerate(TIERS, 1)
        ],
    }
