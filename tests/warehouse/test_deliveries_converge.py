"""However a shop's rows are delivered, the tables are those of one ordered delivery."""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import shop_files
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from warehouse.source import Source, read_source

FIRST = date(2026, 3, 1)
PEOPLE = {shop_files.pseudonym(f"c{number}"): f"c{number}" for number in range(60)}

Row = tuple[str, int, int]  # table, which key, which content
History = list[tuple[int, Row]]  # day, row; once for every day that brought the row

# What a shop changes in a row that it delivered: content 0 is the row as it first was.
CONTENTS: dict[str, tuple[shop_files.Row, ...]] = {
    "customers": (
        {},
        {"country": "AT", "birth_year": None},
        {"email": "moved@shop.example"},
        {"country": "AT", "email": None, "phone": None, "full_name": None},
    ),
    "products": (
        {},
        {"product_name": 'Lamp, "new"'},
        {"unit_cost": Decimal("3.1")},
        {"unit_cost": None, "brand": "Lux"},
    ),
    "order_lines": (
        {},
        {"quantity": Decimal("-1.5")},
        {"unit_price": Decimal("0.1"), "product_id": None},
        {"customer_id": "c7", "discount_amount": None},
        # Two that never land, and change nothing that stands: nobody's, and one that is no number.
        {"customer_id": None},
        {"quantity": "many"},
    ),
}
LANDING = 4


def content(row: Row) -> shop_files.Row:
    table, key, variant = row
    return shop_files.row(table, key) | CONTENTS[table][variant]


def histories() -> st.SearchStrategy[History]:
    """Up to three days; a key comes with the same content or another, the same day or later."""
    line = st.tuples(st.just("order_lines"), st.integers(0, 2), st.integers(0, 5))
    other = st.tuples(
        st.sampled_from(("customers", "products")), st.integers(0, 1), st.integers(0, 3)
    )
    return st.lists(st.tuples(st.integers(0, 2), line | other), min_size=6, max_size=18)


class Shop:
    """A shop under one policy, that refuses nothing, however much is quarantined."""

    def __init__(self, policy: str, url: str, source: Source, new_folder: Callable) -> None:
        self.policy, self.url, self.source, self.new_folder = policy, url, source, new_folder

    def __repr__(self) -> str:
        return f"Shop({self.policy!r})"

    def deliver(self, sent: Iterable[tuple[int, Path]], undated: Container[int]) -> None:
        for day, place in sent:
            on = FIRST + timedelta(days=day)
            is_daily = day not in undated
            shop_files.deliver(self.url, self.source, place, on, is_daily=is_daily)


@pytest.fixture(scope="module", params=["correction", "conflict"])
def shop(request, urls, tmp_path_factory) -> Shop:
    folder = tmp_path_factory.mktemp("sources") / "shop"
    policy = {table: {"changed_rows": request.param} for table in CONTENTS}
    shop_files.canonical(folder, policy, max_quarantined_share=1.0)
    source = read_source(str(folder))
    return Shop(request.param, urls.warehouse, source, lambda: tmp_path_factory.mktemp("case"))


def write(folder: Path, rows: Iterable[Row], rng: random.Random, note: int | None) -> None:
    """One file a table, as CSV or as Parquet; a text for a number is no Parquet.

    note: what a column says that nobody reads. A file that is no delivery of its
    day is another by it, and not left alone.
    """
    of_table: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of_table[row[0]].append(row)
    for table, of_one in of_table.items():
        given = [content(row) for row in of_one]
        typed = not any(values.get("quantity") == "many" for values in given)
        if note is not None:
            lines = [shop_files.record(shop_files.fields(values)) for values in given]
            noted = [line + b",%d" % note for line in lines]
            header = shop_files.header(table) + b",note"
            shop_files.write_records(folder / f"{table}.csv", [header, *noted])
        elif typed and rng.random() < 0.5:
            shop_files.write_parquet(folder / f"{table}.parquet", table, given)
        else:
            shop_files.write_csv(folder / f"{table}.csv", table, given)


def in_order(
    history: History, folder: Path, rng: random.Random, undated: Container[int]
) -> list[tuple[int, Path]]:
    """Day by day, each once, and each row of it once."""
    days = sorted({day for day, _ in history})
    for day in days:
        rows = dict.fromkeys(row for at, row in history if at == day)
        write(folder / str(day), rows, rng, day if day in undated else None)
    return [(day, folder / str(day)) for day in days]


def scattered(
    history: History, folder: Path, rng: random.Random, undated: Container[int]
) -> list[tuple[int, Path]]:
    """The same rows in parcels that overlap, the days mixed, perhaps one sent twice."""
    sent = []
    for day in sorted({day for day, _ in history}):
        parcels: list[list[Row]] = [[] for _ in range(rng.choice((1, 1, 2)))]
        for at, row in history:
            if at == day:
                for parcel in rng.sample(parcels, rng.randint(1, len(parcels))):
                    parcel.append(row)
        for number, parcel in enumerate(filter(None, parcels)):
            rng.shuffle(parcel)
            place = folder / f"{day}-{number}"
            write(place, parcel, rng, 10 * day + number if day in undated else None)
            sent.append((day, place))
    rng.shuffle(sent)
    return [*sent, *rng.sample(sent, rng.randint(0, 1))]


@dataclass
class Key:
    """What is known of one key, by hand: the days that brought each content, and whose names."""

    brought: dict[tuple, set[int]] = field(default_factory=lambda: defaultdict(set))
    personal: dict[int, set[tuple]] = field(default_factory=lambda: defaultdict(set))

    def counts(self, policy: str) -> dict[tuple, int]:
        """The day that counts: the last for corrections, the first where the first stands."""
        newest = max if policy == "correction" else min
        return {content: newest(days) for content, days in self.brought.items()}

    def standing(self, policy: str) -> dict[tuple, int]:
        """What may stand: one content, or any of those that one day brought."""
        counts = self.counts(policy)
        day = (max if policy == "correction" else min)(counts.values())
        return {content: at for content, at in counts.items() if at == day}

    def has_twins(self) -> bool:
        """Whether a day brought two contents: which of them stands is not known by hand."""
        days = [day for brought in self.brought.values() for day in brought]
        return len(days) > len(set(days))

    def known(self, undated: Container[int]) -> int | None:
        """The first day that brought the key; none where it also came without one."""
        days = {day for brought in self.brought.values() for day in brought}
        return None if any(day in undated for day in days) else min(days)


def by_hand(history: History, table: str) -> dict[tuple, Key]:
    keys: dict[tuple, Key] = defaultdict(Key)
    for day, row in history:
        if row[0] == table and row[2] < LANDING:
            values = content(row)
            key = keys[tuple(values[column] for column in shop_files.KEYS[table])]
            personal = (values.get("email"), values.get("phone"), values.get("full_name"))
            key.brought[shop_files.expected(table, values)].add(day)
            key.personal[day].add(personal)
    return keys


def standing(
    connection: psycopg.Connection, table: str
) -> dict[tuple, tuple[tuple, int, int | None]]:
    """Key -> content, day, and the day when the key was known, as raw holds them."""
    columns = [
        "null" if column == "currency" else column
        for column, kind in shop_files.COLUMNS[table].items()
        if kind != "personal"
    ]
    query = f"select {', '.join(columns)}, delivered_at::date, known_at::date from raw.{table}"
    found = {}
    for *values, day, known in connection.execute(query.encode()):
        key = tuple(PEOPLE.get(cell, cell) for cell in values[: len(shop_files.KEYS[table])])
        assert key not in found
        known_day = None if known is None else (known - FIRST).days
        found[key] = (tuple(values), (day - FIRST).days, known_day)
    return found


def superseded(connection: psycopg.Connection, table: str) -> dict[tuple, list[int]]:
    """Key -> the days of the contents that were corrected."""
    found: dict[tuple, list[int]] = defaultdict(list)
    for key, day in connection.execute(
        "select key, delivered_at::date from raw.superseded where table_name = %s", [table]
    ):
        found[tuple(PEOPLE.get(cell, cell) for cell in json.loads(key))].append((day - FIRST).days)
    return found


def assert_tables_are_those_by_hand(shop: Shop, history: History, undated: Container[int]) -> None:
    with psycopg.connect(shop.url) as connection:
        for table in CONTENTS:
            known = by_hand(history, table)
            found = standing(connection, table)
            history_found = superseded(connection, table)
            assert found.keys() == known.keys()
            for key, (content, day, known_day) in found.items():
                assert known_day == known[key].known(undated)
                candidates = known[key].standing(shop.policy)
                assert candidates.get(content) == day
                others = known[key].counts(shop.policy).items() - {(content, day)}
                if shop.policy == "conflict":
                    assert history_found[key] == []
                elif not known[key].has_twins():
                    assert sorted(history_found[key]) == sorted(at for _, at in others)
                event(f"twins: {known[key].has_twins()}, corrected: {bool(others)}")


def assert_names_are_the_newest(url: str, history: History) -> None:
    known = by_hand(history, "customers")
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select customer_id, email, phone, full_name from pii.customers"
        ).fetchall()
    assert {(PEOPLE[customer],) for customer, *_ in found} == known.keys()
    for customer, *names in found:
        days = known[(PEOPLE[customer],)].personal
        assert tuple(names) in days[max(days)]


def line(variant: int) -> Row:
    return ("order_lines", 0, variant)


@example(history=[(0, line(0)), (1, line(1)), (2, line(0))], undated=set(), seed=3)
@example(history=[(0, line(0)), (0, line(1)), (1, line(2))], undated={1}, seed=5)
@example(history=[(0, ("customers", 0, 0)), (1, ("customers", 0, 2))], undated={0}, seed=1)
@given(
    history=histories(),
    undated=st.sets(st.integers(0, 2), max_size=1),
    seed=st.integers(0, 2**32),
)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)
def test_any_delivery_of_a_history_ends_in_the_tables_of_the_ordered_one(
    shop, history, undated, seed
):
    rng, folder = random.Random(seed), shop.new_folder()
    shop_files.empty(shop.url)
    shop.deliver(in_order(history, folder / "ordered", rng, undated), undated)
    ordered = shop_files.landed_contents(shop.url)
    assert_tables_are_those_by_hand(shop, history, undated)
    if shop.policy == "correction":
        assert_names_are_the_newest(shop.url, history)

    shop_files.empty(shop.url)
    shop.deliver(scattered(history, folder / "scattered", rng, undated), undated)
    assert shop_files.landed_contents(shop.url) == ordered
