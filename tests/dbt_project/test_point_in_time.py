"""What a day says of a customer is made of what was known on it, and of nothing else.

Everything that a day does not see is corrected, deleted or added to, from the first instant of the
day and also where it happened before the day but became known on a later one. No cell may change.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from datetime import date, timedelta

import mutations
import numpy as np
import psycopg
import pytest
import simulated
from psycopg.rows import dict_row

from warehouse import building
from warehouse.connections import Urls

CUTOFFS = 20
FIRST, LAST = date(2024, 7, 1), date(2025, 11, 30)

# What would let a day see too much: where, what stands there, what instead, and what must change.
LEAKS = {
    "the day itself": (
        "macros/dates.sql",
        r"plus_days\(a_date, 1\)",
        "plus_days(a_date, 0)",
        {"a row", "monetary_total", "orders_7d", "views_30d", "reviews_total", "contacts_30d"},
    ),
    "what came later of the days before": (
        "macros/dates.sql",
        r"greatest\((.*), {{ delivered_on\(.*\) }}\)",
        r"\1",
        {"a row", "monetary_total", "orders_365d", "views_365d", "reviews_total", "contacts_365d"},
    ),
    "a day more in every comparison": (
        "models/features/feat_*.sql",
        r"(\w+\.known_on) <= as_of_days\.as_of_date",
        r"\1 <= as_of_days.as_of_date + 1",
        {"price_position", "views_30d", "reviews_total", "contacts_30d", "has_profile"},
    ),
}

Build = Callable[[Sequence[date]], object]


@pytest.fixture
def landed(urls) -> Urls:
    simulated.land_shop(urls.warehouse, simulated.shop(seed=1))
    return urls


def test_nothing_that_a_day_does_not_see_changes_a_cell_of_it(landed, settings):
    """The cutoffs from the last to the first: what has been poisoned stays poisoned."""
    span = (LAST - FIRST).days
    places = np.random.default_rng(4).choice(span, CUTOFFS, replace=False)
    cutoffs = [FIRST + timedelta(days=int(place)) for place in places]
    assert changed(landed, cutoffs, lambda days: building.build(landed, days, settings.home)) == {}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_would_be_seen(landed, tmp_path, monkeypatch, leak):
    where, true, leaky, seen = LEAKS[leak]
    project = tmp_path / "dbt_project"
    shutil.copytree(building.DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    planted = 0
    for file in project.glob(where):
        text, count = re.subn(true, leaky, file.read_text())
        file.write_text(text)
        planted += count
    assert planted > 0
    monkeypatch.setattr(building, "DBT_PROJECT", project)
    found = changed(landed, [LAST], lambda days: building.build(landed, days, tmp_path))
    assert found.keys() >= seen


def changed(urls: Urls, cutoffs: Sequence[date], build: Build) -> dict[str, set[date]]:
    """Which columns changed, of which cutoffs, when all that the cutoff does not see did."""
    cutoffs = sorted(cutoffs, reverse=True)
    build(cutoffs)
    before = {day: _features(urls, day) for day in cutoffs}
    stream = _stream(urls, cutoffs[0])
    found: dict[str, set[date]] = {}
    for seed, day in enumerate(cutoffs):
        shop = simulated.read_shop(urls.warehouse)
        mutations.apply(urls.warehouse, mutations.poisoned(shop, day, seed))
        build([day])
        known = {key: row for key, row in stream.items() if row["known_on"] <= day}
        for rows, rebuilt in (
            (before[day], _features(urls, day)),
            (known, _stream(urls, day)),
        ):
            for column in _differing(rows, rebuilt):
                found.setdefault(column, set()).add(day)
    return found


def _differing(before: dict, after: dict) -> set[str]:
    """The columns that differ; the names of the key where a row appeared or vanished."""
    columns = {"a row"} if before.keys() != after.keys() else set()
    for key in before.keys() & after.keys():
        for name in before[key]:
            a, b = before[key][name], after[key][name]
            if a != b:
                print("CHANGED", key, name, a, b)
        columns |= {name for name in before[key] if before[key][name] != after[key][name]}
    return columns


def _features(urls: Urls, day: date) -> dict:
    query = f"select * from features.customer_features where as_of_date = '{day}'"
    return {row["customer_id"]: row for row in _read(urls, query)}


def _stream(urls: Urls, day: date) -> dict:
    query = f"select * from features.customer_events where known_on <= '{day}'"
    return {
        (row["customer_id"], row["known_on"], row["event_date"], row["position"]): row
        for row in _read(urls, query)
    }


def _read(urls: Urls, query: str) -> list[dict]:
    with psycopg.connect(urls.warehouse, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()
