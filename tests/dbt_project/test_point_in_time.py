"""What a day says of a customer is made of what was known on it, and of nothing else.

Everything that a day does not see is corrected, deleted or added to, from the first instant of the
day and also where it happened before the day but became known on a later one. No cell may change.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import mutations
import numpy as np
import psycopg
import pytest
import simulated
from psycopg.rows import dict_row

from warehouse import building
from warehouse.connections import Urls
from warehouse.settings import Refused

CUTOFFS = 20
FIRST, LAST = date(2024, 7, 1), date(2025, 11, 30)

# What would let a day see too much: where, what stands there, what instead, and what must change.
LEAKS = {
    "what came later of the days before": (
        "macros/dates.sql",
        r"greatest\((.*), {{ delivered_on\(.*\) }}\)",
        r"\1",
        {"a row", "monetary_total", "orders_365d", "views_365d", "reviews_total", "contacts_365d"},
    ),
    "a day more in the comparisons of two families": (
        "models/features/feat_customer_[ep]*.sql",
        r"(known_on <= \w+\.as_of_date|\w+\.as_of_date(?= >= \w+\.known_on))",
        r"\1 + 1",
        {"views_30d", "reviews_total", "contacts_30d", "has_profile"},
    ),
}

Build = Callable[[Sequence[date]], object]


@pytest.fixture
def landed(urls) -> Urls:
    simulated.land_shop(urls.warehouse, simulated.shop(seed=1))
    return urls


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_nothing_that_a_day_does_not_see_changes_a_cell_of_it(landed, settings, part):
    """The cutoffs from the last to the first: what has been poisoned stays poisoned."""
    span = (LAST - FIRST).days
    places = np.random.default_rng(4).choice(span, CUTOFFS, replace=False)
    cutoffs = [FIRST + timedelta(days=int(place)) for place in places][part::2]
    assert changed(landed, cutoffs, lambda days: building.build(landed, days, settings.home)) == {}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_would_be_seen(landed, tmp_path, monkeypatch, leak):
    where, true, leaky, seen = LEAKS[leak]
    monkeypatch.setattr(building, "DBT_PROJECT", planted(tmp_path, where, true, leaky))
    found = changed(landed, [LAST], lambda days: building.build(landed, days, tmp_path))
    assert found.keys() >= seen


def test_a_build_that_lets_the_day_see_itself_is_refused(landed, tmp_path, monkeypatch):
    project = planted(tmp_path, "macros/dates.sql", r"plus_days\(a_date, 1\)", "a_date")
    monkeypatch.setattr(building, "DBT_PROJECT", project)
    with pytest.raises(Refused, match="events_are_legal"):
        building.build(landed, [LAST], tmp_path)


def planted(folder: Path, where: str, true: str, leaky: str) -> Path:
    """The dbt project with something else where the files say what is true."""
    project = folder / "dbt_project"
    shutil.copytree(building.DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs"))
    count = 0
    for file in project.glob(where):
        text, places = re.subn(true, leaky, file.read_text())
        file.write_text(text)
        count += places
    assert count > 0
    return project


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
        columns |= {name for name in before[key] if before[key][name] != after[key][name]}
    return columns


def _features(urls: Urls, day: date) -> dict:
    query = f"select * from features.customer_features where as_of_date = '{day}'"
    return {row["customer_id"]: row for row in _read(urls, query)}


def _stream(urls: Urls, day: date) -> dict:
    query = f"select * from features.customer_events where known_on <= '{day}'"
    return {(row["customer_id"], row["position"]): row for row in _read(urls, query)}


def _read(urls: Urls, query: str) -> list[dict]:
    with psycopg.connect(urls.warehouse, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()
