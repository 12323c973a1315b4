"""A small shop with known truth: who ordered what, what came back, what was cancelled.

`order_lines` knows which orders were kept; `shop` has all seven tables and knows nothing.
"""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg.rows import dict_row

from warehouse import contract

OPENED, CLOSED = date(2024, 1, 1), date(2025, 12, 30)
COLUMNS = (
    "order_id", "line_number", "customer_id", "ordered_at", "product_id", "quantity", "unit_price",
    "discount_amount", "currency", "channel", "content_hash", "file_id", "source_row",
    "delivered_at",
)  # fmt: skip


def order_lines(customers: int = 300, seed: int = 0) -> pd.DataFrame:
    """Lines of raw.order_lines, amounts as Decimal, and one column that no table has.

    `is_kept`: the line belongs to an order that was not cancelled on its own day, and is no return.
    A customer orders at most once a day and returns nothing on a day with an order, so that what
    netting must find is known here without netting.
    """
    rng = np.random.default_rng(seed)
    prices = [Decimal(int(mills)).scaleb(-3) for mills in rng.integers(500, 40_000, 40)]
    lines: list[tuple] = []
    length = (CLOSED - OPENED).days
    for customer in range(customers):
        begins = int(rng.integers(0, 480))
        orders = 1 if customer % 5 == 0 else 1 + int(rng.gamma(1.2, 7))
        days = np.unique(rng.integers(begins, length + 1, orders))
        for day in days:
            order_id = f"{customer}-{day}"
            # The first and the last instant of a day belong to it like any other.
            second = int(rng.choice([0, 86_399, int(rng.integers(86_400))]))
            at = datetime.combine(OPENED, datetime.min.time()) + timedelta(
                days=int(day), seconds=second
            )
            cancelled = bool(rng.random() < 0.06)
            for number, product in enumerate(rng.choice(40, int(rng.integers(1, 5)), False)):
                quantity, price = int(rng.integers(1, 6)), prices[product]
                discount = (quantity * price / 7).quantize(Decimal("0.000001"))
                discount = discount if rng.random() < 0.3 else Decimal(0)
                bought = (f"c{customer}", f"p{product}", price)
                lines.append((order_id, number, at, *bought, quantity, discount, not cancelled))
                back = int(day) + int(rng.integers(1, 60))
                if cancelled:
                    lines.append((f"C{order_id}", number, at, *bought, -quantity, -discount, False))
                elif rng.random() < 0.1 and back <= length and back not in days:
                    some = int(rng.integers(1, quantity + 1))
                    share = (discount * some / quantity).quantize(Decimal("0.000001"))
                    later = at + timedelta(days=back - int(day))
                    lines.append((f"R{order_id}", number, later, *bought, -some, -share, False))
    frame = pd.DataFrame(
        lines,
        columns=[
            "order_id", "line_number", "ordered_at", "customer_id", "product_id", "unit_price",
            "quantity", "discount_amount", "is_kept",
        ],
    )  # fmt: skip
    return frame.assign(
        currency="EUR",
        channel=None,
        content_hash=0,
        file_id=1,
        source_row=range(len(frame)),
        delivered_at=datetime.combine(CLOSED, datetime.min.time()),
    )


def land(url: str, lines: pd.DataFrame) -> None:
    """Make these lines the whole content of raw.order_lines."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("delete from raw.order_lines")
        with cursor.copy(f"copy raw.order_lines ({', '.join(COLUMNS)}) from stdin") as copy:
            for row in lines[list(COLUMNS)].itertuples(index=False):
                copy.write_row(row)


def with_amounts(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines with `day` and the exact `amount` of each."""
    amount = lines["quantity"] * lines["unit_price"] - lines["discount_amount"]
    return lines.assign(day=lines["ordered_at"].dt.date, amount=amount)


CATEGORIES = ("Bread", "Cheese", "Fish", "Süßes", "Tea", "Wine")
SHOP_OPENED = date(2023, 7, 1)

Shop = dict[str, list[dict]]


def shop(customers: int = 150, seed: int = 0) -> Shop:
    """All seven tables of a shop from SHOP_OPENED to CLOSED, with what is hard about each.

    One order of 2023 makes the history long; everybody else begins in 2024. Nothing here knows what
    a feature of it would be.
    """
    rng = np.random.default_rng(seed)
    made = _Made(rng)
    made.products()
    for number in range(customers):
        made.customer(number)
    made.campaigns()
    made.odd_customers()
    return {table: _landed(table, rows) for table, rows in made.rows.items()}


def land_shop(url: str, tables: Shop) -> None:
    """Make these rows the whole content of raw: a table that is not named is emptied."""
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for table in contract.TABLES:
            cursor.execute(f"delete from raw.{table}".encode())
            rows = tables.get(table, [])
            if rows:
                insert(cursor, table, rows)


def insert(cursor: psycopg.Cursor, table: str, rows: list[dict], schema: str = "raw") -> None:
    """Put rows into a table of raw; the columns are the first row's."""
    columns = list(rows[0])
    with cursor.copy(f"copy {schema}.{table} ({', '.join(columns)}) from stdin".encode()) as copy:
        for row in rows:
            copy.write_row([row[column] for column in columns])


def read_shop(url: str) -> Shop:
    """What is in raw; without known_at what the first daily delivery brought, the history."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        shop = {
            table: connection.execute(f"select * from raw.{table}".encode()).fetchall()
            for table in contract.TABLES
        }
        (first,) = connection.execute(
            "select min(delivered_at)::date as day from ops.files where is_daily"
        ).fetchall()
    for row in (row for rows in shop.values() for row in rows):
        if row["known_at"] and first["day"] and row["known_at"].date() <= first["day"]:
            row["known_at"] = None
    return shop


def _landed(table: str, rows: list[dict]) -> list[dict]:
    """The rows with what every row of raw carries."""
    return [
        {
            **{column: row.get(column) for column in contract.TABLES[table].landed},
            "known_at": row.get("known_at"),
            "content_hash": 0,
            "file_id": 1,
            "source_row": number,
            "delivered_at": midnight(CLOSED),
        }
        for number, row in enumerate(rows)
    ]


def midnight(day: date) -> datetime:
    return datetime.combine(day, time())


class _Made:
    """The rows so far. One generator of random numbers, so that a seed is a shop."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.rows: Shop = {table: [] for table in contract.TABLES}
        self.prices: dict[str | None, Decimal] = {}
        self.length = (CLOSED - OPENED).days

    def add(self, table: str, **row: Any) -> None:
        self.rows[table].append(row)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def below(self, end: int, start: int = 0) -> int:
        return int(self.rng.integers(start, end))

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]

    def moment(self, day: int) -> datetime:
        """Some second of the day; often its first, its last, or one that others have too."""
        common = (0, 86_399, 21_600, 43_200, 64_800)
        second = self.one_of(common) if self.chance(0.3) else self.below(86_400)
        return midnight(OPENED) + timedelta(days=day, seconds=second)

    def known_at(self, at: datetime) -> datetime | None:
        """Mostly nobody knows; else on its day, the next, or long after; or before it happened."""
        if self.chance(0.9):
            return None
        days = self.one_of((-400, 0, 1, 1, 2, 3, 10, 30, 31, 32, 200))
        return midnight(at.date() + timedelta(days=days)) + timedelta(seconds=self.below(86_400))

    def products(self) -> None:
        """40 products: some without a category, some free; and some that no table knows."""
        for number in range(46):
            product = f"p{number}"
            self.prices[product] = Decimal(self.below(40_000, 500)).scaleb(-3)
            if number % 13 == 5:
                self.prices[product] = Decimal(0)
            category = None if number % 7 == 3 else CATEGORIES[number % len(CATEGORIES)]
            if number < 40:
                self.add("products", product_id=product, product_name=product, category=category)
        self.prices[None] = Decimal("4.95")

    def customer(self, number: int) -> None:
        customer = f"c{number:03}"
        begins = self.below(480 if number % 2 else 90)
        if number % 8:
            self.profile(customer, begins)
        orders = 1 if number % 5 == 0 else 1 + int(self.rng.gamma(1.2, 7))
        days = sorted(self.below(self.length + 1, begins) for _ in range(orders))
        if number == 1:
            days.insert(0, (SHOP_OPENED - OPENED).days)
        favourites = [f"p{n}" for n in self.rng.choice(46, 6, False)]
        for place, day in enumerate(days):  # a day may come twice
            self.order(customer, f"o{customer}-{place}", day, favourites)
        if number % 3:
            for place in range(self.below(30)):
                self.visit(customer, f"{customer}-{place}", self.below(self.length + 1, begins))
        if number % 4 == 0:
            for place in range(self.below(5)):
                self.review(customer, f"{customer}-{place}", self.below(self.length + 1, begins))
        if number % 4 != 1:
            for place in range(self.below(9)):
                self.contact(customer, f"{customer}-{place}", self.below(self.length + 1, begins))

    def profile(self, customer: str, begins: int) -> None:
        at = self.moment(self.below(max(begins, 1) + 40, -200))
        known = at + timedelta(days=self.one_of((-3, 0, 1, 20, 31, 32, 90)))
        self.add(
            "customers",
            customer_id=customer,
            signed_up_at=None if self.chance(0.1) else at,
            country=self.one_of(("DE", "FR", None)),
            region=self.one_of(("north", "south", None)),
            birth_year=self.one_of((None, 1940, 1959, 1960, 1961, 1975, 1990, 2000, 2001, 2010)),
            gender=self.one_of(("female", "male", None)),
            income_band=self.one_of(("low", "high", None)),
            household=self.one_of(("1", "2+", None)),
            acquisition_channel=self.one_of(("search", "friend", None)),
            known_at=known if self.chance(0.4) else None,
        )

    def order(self, customer: str, order: str, day: int, favourites: list[str]) -> None:
        at = self.moment(day)
        channel = self.one_of(("web", "store", None))
        delivered = self.known_at(at)
        is_cancelled = self.chance(0.06)
        seen = []
        for number in range(1, 14 if self.chance(0.02) else self.below(6, 2)):
            product = self.one_of((*favourites, *favourites, f"p{self.below(46)}", None))
            price = self.prices[product] / self.one_of((1,) * 9 + (2,))
            quantity = Decimal(self.below(6, 1))
            if self.chance(0.05):
                quantity = Decimal(self.one_of(("0.125", "0.333333", "2.000001")))
            discount = (quantity * price / 7).quantize(Decimal("0.000001"))
            line = {
                "customer_id": customer,
                "product_id": product,
                "unit_price": price,
                "channel": channel,
                "currency": "EUR",
            }
            # Now and then a line comes minutes after the rest, or is delivered apart from it.
            late = timedelta(minutes=7) if self.chance(0.05) and at.hour < 23 else timedelta()
            moment = at + late
            known = self.known_at(at) if self.chance(0.03) else delivered
            discount = self.one_of((None, Decimal(0), discount))
            self.add(
                "order_lines",
                **line,
                order_id=order,
                line_number=number,
                ordered_at=moment,
                quantity=quantity,
                discount_amount=discount,
                known_at=known,
            )
            seen.append((line, quantity, discount or Decimal(0), moment, known))
        if self.chance(0.05):  # an amount off that is of no product
            self.add(
                "order_lines",
                customer_id=customer,
                unit_price=Decimal(1),
                currency="EUR",
                channel=channel,
                order_id=order,
                line_number=90,
                ordered_at=at,
                quantity=Decimal(0),
                discount_amount=Decimal(self.one_of(("0", "1.25"))),
                known_at=delivered,
            )
        for number, (line, quantity, discount, moment, known) in enumerate(seen, 1):
            back = moment
            if is_cancelled:
                some = quantity
            elif self.chance(0.06):  # the same day: some of it, or more than was bought
                some = self.one_of((Decimal(1), quantity, quantity + 2))
            elif self.chance(0.12):
                some = min(quantity, Decimal(self.below(6, 1)))
                days = self.one_of((1, 2, 30, 60))
                back = moment + timedelta(days=min(days, self.length - day))
            else:
                continue
            share = (discount * some / quantity).quantize(Decimal("0.000001"))
            self.add(
                "order_lines",
                **line,
                order_id=self.one_of((f"R{order}", f"R{order}", order)),
                line_number=100 + number,
                ordered_at=back,
                quantity=-some,
                discount_amount=self.one_of((-share, Decimal(0), None)),
                known_at=known if self.chance(0.8) else self.known_at(back),
            )

    def visit(self, customer: str, visit: str, day: int) -> None:
        """A session of a few minutes, which may cross midnight; some events belong to none."""
        at = self.moment(day)
        delivered = self.known_at(at)
        for number in range(self.below(9, 1)):
            kinds = ("view",) * 6 + ("cart_add",) * 3 + tuple(contract.EVENT_TYPES)
            self.add(
                "events",
                event_id=f"e{visit}-{number}",
                customer_id=customer,
                session_id=self.one_of((f"s{visit}",) * 6 + (None,)),
                occurred_at=at,
                event_type=self.one_of(kinds),
                product_id=self.one_of((None, f"p{self.below(46)}", f"p{self.below(46)}")),
                known_at=self.known_at(at) if self.chance(0.05) else delivered,
            )
            at += timedelta(seconds=self.one_of((0, 30, 120, 600)))
            if at.date() > CLOSED:
                return

    def review(self, customer: str, review: str, day: int) -> None:
        at = self.moment(day)
        ratings = ("1", "2", "2.5", "3", "4", "5", "5")
        for number in range(self.one_of((1, 1, 1, 2))):  # two of one instant
            self.add(
                "reviews",
                review_id=f"r{review}-{number}",
                customer_id=customer,
                product_id=self.one_of((None, f"p{self.below(46)}")),
                rating=None if self.chance(0.15) else Decimal(self.one_of(ratings)),
                reviewed_at=at,
                known_at=self.known_at(at),
            )

    def contact(self, customer: str, contact: str, day: int) -> None:
        """What follows a contact follows within minutes or weeks, and need not have an opening."""
        at = self.moment(day)
        times: dict[str, datetime | None] = {"contacted_at": at}
        for column, share in (("opened_at", 0.5), ("clicked_at", 0.3), ("redeemed_at", 0.2)):
            after = timedelta(seconds=self.one_of((0, 60, 86_400, 86_400 * self.below(40))))
            is_there = self.chance(share) and (at + after).date() <= CLOSED
            times[column] = at + after if is_there else None
        self.add(
            "campaign_contacts",
            contact_id=f"k{contact}",
            campaign_id=self.one_of(("spring", "autumn")),
            customer_id=customer,
            treatment_arm=self.one_of((None, "mail")),
            known_at=self.known_at(at),
            **times,
        )

    def campaigns(self) -> None:
        for campaign in ("spring", "autumn"):
            self.add("campaigns", campaign_id=campaign, campaign_name=campaign)

    def odd_customers(self) -> None:
        """Those who never order, who only return, who order for nothing, and who come last."""
        last = (CLOSED - OPENED).days
        for number in range(6):
            customer = f"looks{number}"
            self.profile(customer, 100)
            self.visit(customer, customer, self.below(last))
            self.review(customer, customer, self.below(last))
            self.contact(customer, customer, self.below(last))
        line = {"currency": "EUR", "product_id": "p1", "unit_price": self.prices["p1"]}
        for customer, quantity, price in (("returns", -1, "3"), ("gift", 1, "0")):
            self.add(
                "order_lines",
                **{**line, "unit_price": Decimal(price)},
                customer_id=customer,
                order_id=customer,
                line_number=1,
                ordered_at=self.moment(200),
                quantity=Decimal(quantity),
            )
        # Orders at the first and the last instant of the shop's last day.
        for number, second in enumerate((0, 86_399)):
            self.add(
                "order_lines",
                **line,
                customer_id="c002",
                order_id=f"last{number}",
                line_number=1,
                ordered_at=midnight(CLOSED) + timedelta(seconds=second),
                quantity=Decimal(1),
            )
