"""What happens to a shop's rows after they landed: corrected, deleted, come late, come again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import oracle
import psycopg
import simulated

from warehouse import contract

DAY = timedelta(days=1)
# What a correction may say, by table and column; times and customers are moved apart from these.
CORRECTIONS: Mapping[str, Mapping[str, tuple]] = {
    "order_lines": {
        "quantity": tuple(map(Decimal, ("1", "3", "0.5", "-2", "1000"))),
        "unit_price": tuple(map(Decimal, ("0", "7.5", "19.999"))),
        "discount_amount": (None, Decimal("0.123456"), Decimal(0)),
        "product_id": (None, "p1", "p2", "p3", "p45"),
        "channel": ("web", "store", None),
    },
    "events": {
        "event_type": contract.EVENT_TYPES,
        "session_id": (None, "a session", "another"),
        "product_id": (None, "p1", "p2", "p3"),
    },
    "reviews": {
        "rating": (None, Decimal(1), Decimal(2), Decimal(5)),
        "product_id": (None, "p1", "p3"),
    },
    "campaign_contacts": {"treatment_arm": (None, "mail", "letter")},
    "customers": {
        "country": ("DE", "AT", None),
        "birth_year": (None, 1950, 1999),
        "signed_up_at": (None, datetime(2024, 3, 3, 12), datetime(2025, 2, 2)),  # noqa: DTZ001
        "acquisition_channel": ("search", None),
    },
}


@dataclass
class Change:
    """Of one table: rows of before, rows with the same key and other content, rows of new keys."""

    deleted: list[dict] = field(default_factory=list)
    corrected: list[dict] = field(default_factory=list)
    new: list[dict] = field(default_factory=list)


class Chance:
    """What is picked at random, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.made = (1 + seed) * 1_000_000

    def happens(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def one_of(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def some_of(self, options: list, most: int) -> list:
        count = min(len(options), int(self.rng.integers(most + 1)))
        return [options[place] for place in self.rng.choice(len(options), count, False)]

    def number(self) -> int:
        """One that was not there before."""
        self.made += 1
        return self.made

    def moment(self, first: date, days: int) -> datetime:
        """A second of one of so many days, often the very first of its day."""
        day = first + timedelta(days=int(self.rng.integers(days)))
        second = 0 if self.happens(0.3) else int(self.rng.integers(86_400))
        return simulated.midnight(day) + timedelta(seconds=second)


def apply(url: str, changes: Mapping[str, Change]) -> None:
    """Write the changes to raw, each kind with one statement a table, in one transaction."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for table, change in changes.items():
            key = contract.TABLES[table].key
            met = " and ".join(f"incoming.{column} = standing.{column}" for column in key)
            gone = "delete from raw.{} as standing using incoming where {}"
            _against(cursor, table, change.deleted, gone.format(table, met))
            if change.corrected:
                columns = [column for column in change.corrected[0] if column not in key]
                values = ", ".join(f"{column} = incoming.{column}" for column in columns)
                changed = f"update raw.{table} as standing set {values} from incoming where {met}"
                _against(cursor, table, change.corrected, changed)
            if change.new:
                simulated.insert(cursor, table, change.new)


def _against(cursor: psycopg.Cursor, table: str, rows: list[dict], statement: str) -> None:
    """Run a statement beside the table `incoming` of these rows."""
    if rows:
        cursor.execute(f"create temporary table incoming (like raw.{table})".encode())
        simulated.insert(cursor, "incoming", rows, schema="pg_temp")
        cursor.execute(statement.encode())
        cursor.execute("drop table incoming")


def corrected(table: str, row: dict, chance: Chance, customers: list[str]) -> dict:
    """The row with other content, at the times it had."""
    columns = CORRECTIONS[table]
    names = chance.some_of(list(columns), len(columns)) or list(columns)
    changes: dict[str, Any] = {name: chance.one_of(columns[name]) for name in names}
    if table in contract.DATED and chance.happens(0.1):
        changes["customer_id"] = chance.one_of(customers)
    return {**row, **changes, "content_hash": chance.number()}


def another(table: str, row: dict, chance: Chance) -> dict:
    """A row like this one with a key of its own; an order line is often one more of its order."""
    number = chance.number()
    key = contract.TABLES[table].key
    if table != "order_lines":
        return {**row, key[0]: f"n{number}", "content_hash": number}
    order = row["order_id"] if chance.happens(0.6) else f"n{number}"
    return {**row, "order_id": order, "line_number": number, "content_hash": number}


def poisoned(shop: simulated.Shop, day: date, seed: int) -> dict[str, Change]:
    """Everything that the day does not see, turned upside down: none of it may change the day."""
    chance = Chance(seed)
    customers = sorted({line["customer_id"] for line in shop["order_lines"]} | {"a stranger"})
    changes = {}
    for table in contract.DATED:
        change = changes[table] = Change()
        for row in shop[table]:
            if not _is_seen(table, row, day):
                if chance.happens(0.25):
                    change.deleted.append(row)
                elif chance.happens(0.5):
                    other = corrected(table, row, chance, customers)
                    change.corrected.append({**other, **_unseen(table, day, chance)})
            elif table == "campaign_contacts" and chance.happens(0.5):
                # The contact is known, the answers that come later are not.
                answers = {
                    time: chance.one_of((None, chance.moment(day, 2), chance.moment(day, 90)))
                    for time in contract.TABLES[table].times[1:]
                    if row[time] is None or row[time].date() >= day
                }
                change.corrected.append({**row, **answers, "content_hash": chance.number()})
        for _ in range(60):
            row = another(table, chance.one_of(shop[table]), chance)
            if chance.happens(0.5):
                row["customer_id"] = chance.one_of(customers)
            change.new.append({**row, **_unseen(table, day, chance)})
    changes["customers"] = _poisoned_customers(shop, day, chance, customers)
    return changes


def _poisoned_customers(
    shop: simulated.Shop, day: date, chance: Chance, customers: list[str]
) -> Change:
    hidden = [row for row in shop["customers"] if not oracle.is_known(row, day)]
    new = sorted(set(customers) - {row["customer_id"] for row in shop["customers"]})
    model = shop["customers"][0]

    def later() -> dict[str, datetime]:
        signed_up = chance.moment(day - 25 * DAY, 60)
        return {"known_at": simulated.midnight(day + DAY), "signed_up_at": signed_up}

    return Change(
        deleted=hidden[::3],
        corrected=[
            {**corrected("customers", row, chance, []), **later()}
            for place, row in enumerate(hidden)
            if place % 3
        ],
        new=[{**model, **later(), "customer_id": customer} for customer in new[::2]],
    )


def _is_seen(table: str, row: dict, day: date) -> bool:
    return oracle.known_on(row[contract.TABLES[table].times[0]], row["known_at"]) <= day


def _unseen(table: str, day: date, chance: Chance) -> dict[str, datetime | None]:
    """Times that the day does not see: on it and later, or before it and only known after it."""
    first, *others = contract.TABLES[table].times
    if chance.happens(0.4):
        known = chance.moment(day + DAY, 3)
        begins, days = day - 28 * DAY, 60
    else:
        known = chance.one_of((None, None, chance.moment(day - 20 * DAY, 60)))
        begins, days = day, chance.one_of((1, 3, 120))
    times: dict[str, datetime | None] = {first: chance.moment(begins, days), "known_at": known}
    for other in others:
        times[other] = chance.one_of((None, chance.moment(begins, days)))
    return times


def delivered(shop: simulated.Shop, seed: int) -> dict[str, Change]:
    """A day of an ordinary shop: late rows, corrections, deletions and repeats, old and new.

    Now and then much at once: all of a customer, all of a day, a product's category.
    """
    chance = Chance(seed)
    customers = sorted({line["customer_id"] for line in shop["order_lines"]})
    customers.append(f"new{seed}")
    changes = {}
    for table in contract.DATED:
        times = contract.TABLES[table].times
        rows = list(shop[table])
        chance.rng.shuffle(rows)  # pyright: ignore[reportArgumentType]
        if not rows or chance.happens(0.3):
            continue
        change = changes[table] = Change()
        cut = sorted(int(chance.rng.integers(0, 12)) for _ in range(3))
        change.deleted = rows[: cut[0]]
        for row in rows[cut[0] : cut[1]]:
            other = corrected(table, row, chance, customers)
            if chance.happens(0.4):  # and it happened at another time
                moved = timedelta(seconds=int(chance.rng.integers(-40 * 86_400, 40 * 86_400)))
                for time in times:
                    newest = simulated.midnight(simulated.CLOSED)
                    other[time] = other[time] and min(other[time] + moved, newest)
            if chance.happens(0.2):
                other["known_at"] = chance.moment(date(2025, 5, 1), 60)
            change.corrected.append(other)
        # The same content once more: it may say when it came, and nothing else.
        change.corrected += [
            {**row, "delivered_at": row["delivered_at"] + DAY, "file_id": 2}
            for row in rows[cut[1] : cut[1] + 20]
        ]
        if chance.happens(0.2) and cut[1] + 20 < len(rows):
            whose = chance.one_of(("customer_id", times[0]))
            what = _day_or_customer(rows[cut[1] + 20][whose])
            again = [row for row in rows[cut[1] + 20 :] if _day_or_customer(row[whose]) == what]
            change.deleted += again
        for row in chance.some_of(rows, 12):
            late = another(table, row, chance)
            soon, once = late[times[0]] + 3 * DAY, chance.moment(date(2025, 5, 1), 60)
            late["known_at"] = chance.one_of((None, row["known_at"], soon, once))
            if chance.happens(0.3):
                late["customer_id"] = chance.one_of(customers)
            if table == "order_lines" and chance.happens(0.3):  # what was bought comes back
                late["quantity"] = -late["quantity"]
            change.new.append(late)
    if chance.happens(0.3):
        people = chance.some_of(list(shop["customers"]), 10)
        changes["customers"] = Change(
            deleted=people[:2],
            corrected=[corrected("customers", row, chance, []) for row in people[2:]],
        )
    if chance.happens(0.15):
        row = chance.one_of(shop["products"])
        category = chance.one_of((None, "Bread", "Fish", "Soap"))
        changes["products"] = Change(
            corrected=[{**row, "category": category, "content_hash": chance.number()}]
        )
    return changes


def _day_or_customer(value: Any) -> Any:
    return value.date() if isinstance(value, datetime) else value
