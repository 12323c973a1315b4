"""Every feature, label and event of a shop, from the rows of raw, one by one. No SQL of ours.

What is delivered apart is counted apart: a visit, a product's day. Of an order of a day, what
became known first is the order; what comes later adds to spend, units and lines, and is no second
order.

Money is exact until it is rounded to cents, half away from zero; shares and means are floats.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from hashlib import md5
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

LOOK_BACK = 365
LONGEST_HISTORY = 730
WINDOWS = (7, 14, 30, 60, 90, 180, 365)
HORIZONS = (7, 14, 30, 90, 180, 365)
NEGATIVE_RATING = 2
BUCKETS = 8192
AGE_BANDS = ((25, "under 25"), (35, "25-34"), (45, "35-44"), (55, "45-54"), (65, "55-64"))
OLDEST = "65 and over"
# By the quintiles of recency (rows, 1 to 5) and of frequency (columns, 1 to 5).
SEGMENTS = (
    ("hibernating", "hibernating", "at_risk", "at_risk", "cannot_lose"),
    ("hibernating", "hibernating", "at_risk", "at_risk", "cannot_lose"),
    ("about_to_sleep", "about_to_sleep", "need_attention", "loyal_customers", "loyal_customers"),
    ("promising", *("potential_loyalists",) * 2, "loyal_customers", "loyal_customers"),
    ("new_customers", *("potential_loyalists",) * 2, "champions", "champions"),
)
EVENT_KINDS = {
    "view": 3, "search": 4, "wishlist": 5, "cart_add": 6, "cart_remove": 7, "checkout": 8,
    "login": 9, "support": 10,
}  # fmt: skip
RESPONSES = {"opened_at": 14, "clicked_at": 15, "redeemed_at": 16}


@dataclass(frozen=True)
class Line:
    """What netting left of an order line."""

    order_id: str
    line_number: int
    at: datetime
    known_on: date
    product: str | None
    channel: str | None
    is_return: bool
    units: Decimal
    gross: Decimal
    discount: Decimal

    @property
    def day(self) -> date:
        return self.at.date()

    @property
    def amount(self) -> Decimal:
        return self.gross - self.discount


@dataclass(frozen=True)
class Order:
    """What of an order on one day became known first: at is the time of its first line.

    channel: where its lines differ, the first in the alphabet.
    """

    order_id: str
    at: datetime
    known_on: date
    total: Decimal
    discount: Decimal
    channel: str | None

    @property
    def day(self) -> date:
        return self.at.date()


@dataclass(frozen=True)
class Fact:
    """An event, a review, a contact or an answer to one: something a customer did or met."""

    key: str
    what: str
    at: datetime
    known_on: date
    session: str | None = None
    product: str | None = None
    rating: Decimal | None = None

    @property
    def day(self) -> date:
        return self.at.date()


class Shop:
    """The rows of raw, by customer, each with the first day that sees it."""

    def __init__(self, raw: Mapping[str, Rows]) -> None:
        self.categories: dict[str, str | None] = {
            row["product_id"]: row["category"] for row in raw["products"]
        }
        self.has_categories = any(self.categories.values())
        self.profiles = {row["customer_id"]: row for row in raw["customers"]}
        self.lines: dict[str, list[Line]] = defaultdict(list)
        for customer, line in netted(raw["order_lines"]):
            self.lines[customer].append(line)
        self.landed: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for row in raw["order_lines"]:
            self.landed[row["customer_id"]].append(row)
        self.newest = max((row["ordered_at"].date() for row in raw["order_lines"]), default=None)
        self.events: dict[str, list[Fact]] = defaultdict(list)
        for row in raw["events"]:
            at = row["occurred_at"]
            fact = Fact(
                row["event_id"], row["event_type"], at, known_on(at, row["known_at"]),
                session=row["session_id"], product=row["product_id"],
            )  # fmt: skip
            self.events[row["customer_id"]].append(fact)
        self.reviews: dict[str, list[Fact]] = defaultdict(list)
        for row in raw["reviews"]:
            at = row["reviewed_at"]
            fact = Fact(
                row["review_id"], "review", at, known_on(at, row["known_at"]),
                product=row["product_id"], rating=row["rating"],
            )  # fmt: skip
            self.reviews[row["customer_id"]].append(fact)
        self.contacts: dict[str, list[Fact]] = defaultdict(list)
        for row in raw["campaign_contacts"]:
            for what in ("contacted_at", *RESPONSES):
                if (at := row[what]) is not None:
                    fact = Fact(row["contact_id"], what, at, known_on(at, row["known_at"]))
                    self.contacts[row["customer_id"]].append(fact)

    def features(self, day: date) -> dict[str, Row]:
        """customer_id -> every column of features.customer_features but the key."""
        lines = {
            customer: [line for line in lines if line.known_on <= day]
            for customer, lines in self.lines.items()
        }
        orders = {customer: orders_of(some) for customer, some in lines.items()}
        orders = {customer: some for customer, some in orders.items() if some}
        if not orders:
            return {}
        prices = self._prices(lines.values())
        history = (day - min(order.day for some in orders.values() for order in some)).days
        rfm = _rfm(day, lines, orders)
        has = {
            f"has_{name}": any(fact.known_on <= day for some in facts.values() for fact in some)
            for name, facts in (("events", self.events), ("reviews", self.reviews))
        }
        has["has_campaigns"] = any(
            fact.known_on <= day and fact.what == "contacted_at"
            for some in self.contacts.values()
            for fact in some
        )
        found = {}
        for customer in orders:
            mine, bought = lines[customer], orders[customer]
            behaviour = self._behaviour(day, mine, bought, history, prices)
            found[customer] = (
                rfm[customer]
                | behaviour
                | self._visits(day, customer, has["has_events"], behaviour["orders_90d"])
                | self._opinions(day, customer, has["has_reviews"])
                | self._answers(day, customer, has["has_campaigns"], behaviour["orders_365d"])
                | self._profile(day, customer, bought)
                | _first_day(mine)
            )
        return found

    def labels(self, day: date, horizons: Iterable[int] = HORIZONS) -> dict[tuple[str, int], Row]:
        """(customer_id, horizon_days) -> what came in the window, where it is closed."""
        customers = [
            customer
            for customer, lines in self.lines.items()
            if orders_of([line for line in lines if line.known_on <= day])
        ]
        found: dict[tuple[str, int], Row] = {}
        for horizon in horizons:
            end = day + timedelta(days=horizon)
            if self.newest is None or end > self.newest:
                continue
            came = {
                customer: [line for line in self.lines[customer] if day <= line.day < end]
                for customer in customers
            }
            spend = {customer: cents(amount_of(lines)) for customer, lines in came.items()}
            for customer, lines in came.items():
                orders = len(orders_of(lines))
                richer = sum(other > spend[customer] for other in spend.values())
                found[customer, horizon] = {
                    "spend": spend[customer],
                    "orders": orders,
                    "units": float(units_of(lines)),
                    "is_purchased": orders > 0,
                    "is_churned": orders == 0,
                    "is_high_value": spend[customer] > 0 and richer * 10 < len(customers),
                }
        return found

    def stream(self) -> dict[tuple[str, int], Row]:
        """(customer_id, position) -> a row of features.customer_events."""
        happened: dict[str, list[tuple]] = defaultdict(list)
        for customer, rows in self.landed.items():
            for line in rows:
                at, product = line["ordered_at"], line["product_id"]
                kind = 2 if line["quantity"] < 0 else 1
                ids = (line["order_id"], line["line_number"])
                amount = line["quantity"] * line["unit_price"] - (line["discount_amount"] or 0)
                known = known_on(at, line["known_at"])
                happened[customer].append((known, at, kind, ids, product, amount))
        for facts in (self.events, self.reviews, self.contacts):
            for customer, some in facts.items():
                for fact in some:
                    row = (fact.known_on, fact.at, _kind(fact), (fact.key,), fact.product, None)
                    happened[customer].append(row)
        found = {}
        for customer, rows in happened.items():
            before: datetime | None = None
            in_order = sorted(rows, key=lambda row: row[:4])
            for position, (known, at, kind, _, product, amount) in enumerate(in_order, 1):
                waited = None if before is None else max(0, int((at - before).total_seconds()))
                found[customer, position] = {
                    "event_date": at.date(),
                    "known_on": known,
                    "occurred_at": at,
                    "kind": kind,
                    "category_code": category_code(self.categories.get(product)),
                    "product_bucket": 0 if product is None else 1 + _digits(product) % BUCKETS,
                    "log_amount": log_amount(amount or Decimal(0)),
                    "seconds_since_last": waited,
                    "hour": at.hour,
                    "weekday": at.isoweekday(),
                }
                before = at
        return found

    def _category(self, line: Line) -> str | None:
        return None if line.product is None else self.categories.get(line.product)

    def _prices(self, lines: Iterable[Sequence[Line]]) -> dict[str, Decimal]:
        """The shop's average price of a unit, by category."""
        gross: Counter[str] = Counter()
        units: Counter[str] = Counter()
        for line in (line for some in lines for line in purchases(some)):
            if category := self._category(line):
                gross[category] += line.gross
                units[category] += line.units
        return {category: gross[category] / units[category] for category in units}

    def _behaviour(
        self,
        day: date,
        lines: Sequence[Line],
        orders: Sequence[Order],
        history: int,
        prices: Mapping[str, Decimal],
    ) -> Row:
        bought, returned = purchases(lines), [line for line in lines if line.is_return]
        gaps = gaps_of(orders)
        recency = (day - max(order.day for order in orders)).days
        gap = mean(gaps) if gaps else None
        deviation = stdev(gaps) if len(gaps) > 1 else None
        row: Row = {
            "order_gap_mean_days": None if gap is None else float(gap),
            "order_gap_stddev_days": deviation,
            "order_gap_last_days": gaps[-1] if gaps else None,
            "order_gap_variation": None if deviation is None else ratio(deviation, gap),
            "overdue_ratio": None if gap is None else ratio(recency, gap),
            "days_to_expected_order": None if gap is None else float(gap - recency),
        }

        def spend(first: int, last: int) -> Decimal:
            return amount_of(window(lines, day, first, last))

        def ordered(first: int, last: int) -> int:
            return len(window(orders, day, first, last))

        for n in WINDOWS:
            row[f"orders_{n}d"] = ordered(1, n)
            row[f"spend_{n}d"] = cents(spend(1, n))
            row[f"units_{n}d"] = float(units_of(window(lines, day, 1, n)))
        row["returned_365d"] = cents(-amount_of(window(returned, day, 1, 365)))
        row["spend_trend_30d"] = trend(spend(1, 30), spend(31, 60))
        row["spend_trend_90d"] = trend(spend(1, 90), spend(91, 180))
        row["orders_trend_30d"] = trend(ordered(1, 30), ordered(31, 60))
        row["orders_trend_90d"] = trend(ordered(1, 90), ordered(91, 180))
        is_year = history >= 365
        for n in (30, 90, 180):
            spent, count = spend(366 - n, 365), ordered(366 - n, 365)
            row[f"spend_same_window_last_year_{n}d"] = cents(spent) if is_year else None
            row[f"orders_same_window_last_year_{n}d"] = count if is_year else None
        row["spend_change_year_90d"] = (
            trend(spend(1, 90), spend(366, 455)) if history >= 455 else None
        )

        gross, units = sum_of(line.gross for line in bought), units_of(lines)
        discount = sum_of(line.discount for line in bought)
        last = max(orders, key=lambda order: (order.day, order.at, order.order_id))
        row["order_value_max"] = cents(max(order.total for order in orders))
        row["order_value_last"] = cents(last.total)
        row["lines_per_order"] = ratio(count_of(bought), len(orders))
        row["units_per_order"] = ratio(units, len(orders))
        row["unit_price_mean"] = ratio(gross, units)
        row["discount_share"] = ratio(discount, gross)
        row["discounted_order_share"] = share(orders, lambda order: order.discount > 0)
        row["return_share"] = ratio(-amount_of(returned), amount_of(bought))
        row["days_since_last_return"] = days_since(day, returned)
        row["weekend_order_share"] = share(orders, lambda order: order.at.isoweekday() >= 6)
        row["morning_order_share"] = share(orders, lambda order: 6 <= order.at.hour <= 11)
        row["afternoon_order_share"] = share(orders, lambda order: 12 <= order.at.hour <= 17)
        row["evening_order_share"] = share(orders, lambda order: 18 <= order.at.hour <= 23)
        row["history_days"] = min(LONGEST_HISTORY, history)
        return row | self._products(day, bought, prices)

    def _products(self, day: date, bought: Sequence[Line], prices: Mapping[str, Decimal]) -> Row:
        pairs = {
            (line.known_on, line.day, line.product)
            for line in bought
            if line.product and line.units
        }
        first: dict[str, tuple[date, date]] = {}
        for known, on, product in sorted(pairs):
            first.setdefault(product, (known, on))
        recent = [(known, on, product) for known, on, product in pairs if (day - on).days <= 90]
        new = [pair for pair in recent if first[pair[2]] == pair[:2]]
        row: Row = {
            "distinct_products": len(first),
            "product_days_90d": len(recent),
            "new_product_share_90d": ratio(len(new), len(recent)),
        }

        counts = Counter(c for _, _, p in pairs if (c := self.categories.get(p)))
        total = counts.total()
        row["distinct_categories"] = len(counts) if self.has_categories else None
        row["category_entropy"] = row["top_category_share"] = row["top_category"] = None
        if counts:
            shares = [count / total for count in counts.values()]
            row["category_entropy"] = -math.fsum(p * math.log(p) for p in shares)
            row["top_category_share"] = max(shares)
            row["top_category"] = max(counts, key=lambda c: (counts[c], category_code(c)))
        known = [(c, line) for line in bought if (c := self._category(line))]
        row["price_position"] = ratio(
            sum_of(line.gross for _, line in known),
            sum_of(line.units * prices[category] for category, line in known),
        )
        return row

    def _visits(self, day: date, customer: str, has_events: bool, orders: int) -> Row:
        facts = [fact for fact in self.events[customer] if fact.known_on <= day]

        def count(what: str, n: int) -> int:
            return sum(fact.what == what for fact in window(facts, day, 1, n))

        def sessions(n: int, what: str | None = None) -> set[Hashable]:
            within = window(facts, day, 1, n)
            return {(f.session, f.day, f.known_on) for f in within if what in (None, f.what)}

        def abandoned(n: int) -> int:
            return len(sessions(n, "cart_add") - sessions(n, "checkout"))

        row: Row = {
            "views_30d": count("view", 30),
            "views_90d": count("view", 90),
            "views_365d": count("view", 365),
            "searches_90d": count("search", 90),
            "wishlists_90d": count("wishlist", 90),
            "cart_adds_90d": count("cart_add", 90),
            "cart_removes_90d": count("cart_remove", 90),
            "checkouts_90d": count("checkout", 90),
            "logins_90d": count("login", 90),
            "support_contacts_365d": count("support", 365),
            "sessions_30d": len(sessions(30)),
            "sessions_90d": len(sessions(90)),
            "sessions_365d": len(sessions(365)),
            "days_since_last_visit": days_since(day, window(facts, day, 1, LOOK_BACK)),
            "cart_rate_90d": ratio(count("cart_add", 90), count("view", 90)),
            "checkout_rate_90d": ratio(count("checkout", 90), count("cart_add", 90)),
            "conversion_rate_90d": ratio(orders, len(sessions(90))),
            "abandoned_carts_30d": abandoned(30),
            "abandoned_carts_90d": abandoned(90),
            "abandoned_cart_share_90d": ratio(abandoned(90), len(sessions(90, "cart_add"))),
        }
        return _family("has_events", has_events, row)

    def _opinions(self, day: date, customer: str, has_reviews: bool) -> Row:
        facts = [fact for fact in self.reviews[customer] if fact.known_on <= day]
        rated = sorted((f for f in facts if f.rating is not None), key=lambda f: (f.at, f.key))
        ratings = [f.rating for f in rated if f.rating is not None]
        average = mean(ratings) if ratings else None
        row: Row = {
            "reviews_total": len(facts),
            "reviews_365d": len(window(facts, day, 1, 365)),
            "rating_mean": None if average is None else float(average),
            "rating_last": float(ratings[-1]) if ratings else None,
            "rating_trend": None if average is None else float(ratings[-1] - average),
            "negative_review_share": share(ratings, lambda rating: rating <= NEGATIVE_RATING),
            "days_since_last_review": days_since(day, facts),
        }
        return _family("has_reviews", has_reviews, row)

    def _answers(self, day: date, customer: str, has_campaigns: bool, orders: int) -> Row:
        facts = [fact for fact in self.contacts[customer] if fact.known_on <= day]

        def within(n: int, *what: str) -> list[Fact]:
            return [fact for fact in window(facts, day, 1, n) if fact.what in what]

        contacts = len(within(365, "contacted_at"))
        opens = len(within(365, "opened_at"))
        clicks = len(within(365, "clicked_at"))
        redemptions = len(within(365, "redeemed_at"))
        responses = within(LOOK_BACK, "clicked_at", "redeemed_at")
        row: Row = {
            "contacts_30d": len(within(30, "contacted_at")),
            "contacts_90d": len(within(90, "contacted_at")),
            "contacts_365d": contacts,
            "opens_90d": len(within(90, "opened_at")),
            "opens_365d": opens,
            "clicks_90d": len(within(90, "clicked_at")),
            "clicks_365d": clicks,
            "redemptions_365d": redemptions,
            "open_rate_365d": ratio(opens, contacts),
            "click_rate_365d": ratio(clicks, contacts),
            "response_rate_365d": ratio(redemptions, contacts),
            "coupon_order_share_365d": ratio(redemptions, orders),
            "days_since_last_contact": days_since(day, within(LOOK_BACK, "contacted_at")),
            "days_since_last_response": days_since(day, responses),
        }
        return _family("has_campaigns", has_campaigns, row)

    def _profile(self, day: date, customer: str, orders: Sequence[Order]) -> Row:
        said: Row = dict.fromkeys(
            ("country", "region", "gender", "income_band", "household", "acquisition_channel")
        )
        row: Row = {
            "has_profile": False,
            **said,
            "age_years": None,
            "age_band": None,
            "signed_up_days": None,
            "signup_to_order_days": None,
        }
        first = min(order.day for order in orders)
        profile = self.profiles.get(customer)
        if profile is not None and is_known(profile, day):
            row |= {"has_profile": True} | {column: profile[column] for column in said}
            if (born := profile["birth_year"]) is not None:
                age = row["age_years"] = day.year - born
                row["age_band"] = next((band for below, band in AGE_BANDS if age < below), OLDEST)
            signed_up = profile["signed_up_at"]
            if signed_up is not None and signed_up.date() < day:
                row["signed_up_days"] = (day - signed_up.date()).days
                row["signup_to_order_days"] = (first - signed_up.date()).days
        return row | {"cohort_month": first.replace(day=1)}


def known_on(at: datetime, known_at: datetime | None) -> date:
    """The first as-of day that sees what happened at this time."""
    after = at.date() + timedelta(days=1)
    return after if known_at is None else max(after, known_at.date())


def is_known(profile: Mapping[str, Any], day: date) -> bool:
    """Whether the day sees the customer's profile: once signed up, and once delivered."""
    known_at, signed_up = profile["known_at"], profile["signed_up_at"]
    if signed_up is not None:
        return known_on(signed_up, known_at) <= day
    return known_at is None or known_at.date() <= day


def netted(order_lines: Rows) -> list[tuple[str, Line]]:
    """The customer's lines that are left when what came back the same day has met its purchase.

    Within what became known together. Units that are taken back move with their share of the
    discount, which the first of the returns bears. Where only a discount is left of a return, it
    belongs to the purchases of the day.
    """
    groups: dict[Hashable, list[Mapping[str, Any]]] = defaultdict(list)
    for row in sorted(
        order_lines, key=lambda r: (r["ordered_at"], r["order_id"], r["line_number"])
    ):
        at = row["ordered_at"]
        known = known_on(at, row["known_at"])
        groups[row["customer_id"], at.date(), known, row["product_id"], row["unit_price"]].append(
            row
        )
    left: list[tuple[str, Line]] = []
    for rows in groups.values():
        bought = [row for row in rows if row["quantity"] >= 0]
        back = [row for row in rows if row["quantity"] < 0]
        met = min(sum_of(r["quantity"] for r in bought), -sum_of(r["quantity"] for r in back))
        moved, open_units = Decimal(0), met
        for row in bought:
            units = min(row["quantity"], open_units)
            open_units -= units
            discount = row["discount_amount"] or Decimal(0)
            taken = Decimal(0)
            if units:
                taken = (discount * units / row["quantity"]).quantize(
                    Decimal("0.000001"), ROUND_HALF_UP
                )
            moved += taken
            left.append(_left(row, row["quantity"] - units, discount - taken))
        open_units = met
        for row in back:
            units = min(-row["quantity"], open_units)
            open_units -= units
            discount = (row["discount_amount"] or Decimal(0)) + moved
            moved = Decimal(0)
            left.append(_left(row, row["quantity"] + units, discount))
    return [(customer, line) for customer, line in left if line.units or line.discount]


def _left(row: Mapping[str, Any], units: Decimal, discount: Decimal) -> tuple[str, Line]:
    line = Line(
        order_id=row["order_id"],
        line_number=row["line_number"],
        at=row["ordered_at"],
        known_on=known_on(row["ordered_at"], row["known_at"]),
        product=row["product_id"],
        channel=row["channel"],
        is_return=row["quantity"] < 0 and units != 0,
        units=units,
        gross=units * row["unit_price"],
        discount=discount,
    )
    return row["customer_id"], line


def purchases(lines: Iterable[Line]) -> list[Line]:
    """The lines that are no returns."""
    return [line for line in lines if not line.is_return]


def orders_of(lines: Iterable[Line]) -> list[Order]:
    """The orders that these lines of one customer make: those with something to pay."""
    parts: dict[tuple[str, date, date], list[Line]] = defaultdict(list)
    for line in purchases(lines):
        parts[line.order_id, line.day, line.known_on].append(line)
    orders: dict[tuple[str, date], Order] = {}
    for (order_id, day, known), some in sorted(parts.items(), key=lambda part: part[0]):
        total, units = amount_of(some), units_of(some)
        if total > 0 and units > 0 and (order_id, day) not in orders:
            orders[order_id, day] = Order(
                order_id,
                min(line.at for line in some),
                known,
                total,
                sum_of(line.discount for line in some),
                min((line.channel for line in some if line.channel), default=None),
            )
    return list(orders.values())


def gaps_of(orders: Iterable[Order]) -> list[int]:
    """Days between order days as they became known: one that is older than another makes none."""
    gaps: list[int] = []
    newest: date | None = None
    for _, day in sorted({(order.known_on, order.day) for order in orders}):
        if newest is not None and day > newest:
            gaps.append((day - newest).days)
        newest = day if newest is None else max(newest, day)
    return gaps


def _rfm(
    day: date, lines: Mapping[str, Sequence[Line]], orders: Mapping[str, Sequence[Order]]
) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for customer, bought in orders.items():
        purchased = amount_of(purchases(lines[customer]))
        rows[customer] = {
            "recency_days": (day - max(order.day for order in bought)).days,
            "frequency_orders": len(bought),
            "monetary_total": cents(amount_of(lines[customer])),
            "tenure_days": (day - min(order.day for order in bought)).days,
            "average_order_value": cents(purchased / len(bought)),
        }
    recency = _quintiles({customer: -row["recency_days"] for customer, row in rows.items()})
    frequency = _quintiles({customer: row["frequency_orders"] for customer, row in rows.items()})
    monetary = _quintiles({customer: row["monetary_total"] for customer, row in rows.items()})
    for customer, row in rows.items():
        r, f, m = recency[customer], frequency[customer], monetary[customer]
        row |= {
            "recency_quintile": r,
            "frequency_quintile": f,
            "monetary_quintile": m,
            "rfm_score": r + f + m,
            "rfm_segment": SEGMENTS[r - 1][f - 1],
        }
    return rows


def _quintiles(values: Mapping[str, Any]) -> dict[str, int]:
    """1 to 5, by how many of all customers are worse."""
    worse = {value: sum(v < value for v in values.values()) for value in set(values.values())}
    return {customer: 1 + 5 * worse[value] // len(values) for customer, value in values.items()}


def _first_day(lines: Sequence[Line]) -> Row:
    """The day of the first order to become known, as it did then."""
    days = {(line.known_on, line.day) for line in lines}
    for known, day in sorted(days):
        mine = purchases(line for line in lines if (line.known_on, line.day) == (known, day))
        if orders := orders_of(mine):
            first = min(orders, key=lambda order: (order.at, order.order_id))
            gross = sum_of(line.gross for line in mine)
            return {
                "first_order_value": cents(first.total),
                "first_order_lines": count_of(mine),
                "first_order_units": float(units_of(mine)),
                "first_order_discount_share": ratio(sum_of(ln.discount for ln in mine), gross),
                "first_order_hour": first.at.hour,
                "first_order_weekday": day.isoweekday(),
                "first_order_channel": first.channel,
                "first_order_products": len({ln.product for ln in mine if ln.product and ln.units}),
            }
    raise ValueError("a customer without an order")


def _family(flag: str, is_there: bool, row: Row) -> Row:
    """Columns of a table that the shop may lack: zeros are for a shop that has it."""
    return {flag: is_there} | (row if is_there else dict.fromkeys(row))


def _kind(fact: Fact) -> int:
    if fact.what == "review":
        return 12 if fact.rating is not None and fact.rating <= NEGATIVE_RATING else 11
    if fact.what == "contacted_at":
        return 13
    return (EVENT_KINDS | RESPONSES)[fact.what]


def _digits(text: str) -> int:
    return int(md5(text.encode(), usedforsecurity=False).hexdigest()[:7], 16)


def category_code(category: str | None) -> int:
    return 0 if category is None else 1 + _digits(category)


def log_amount(amount: Decimal) -> float:
    return math.copysign(math.log1p(abs(float(amount))), float(amount))


def window(things: Iterable[Any], day: date, first: int, last: int) -> list[Any]:
    """Those of `first` to `last` days ago."""
    return [thing for thing in things if first <= (day - thing.day).days <= last]


def days_since(day: date, things: Iterable[Any]) -> int | None:
    return min(((day - thing.day).days for thing in things), default=None)


def sum_of(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))


def amount_of(lines: Iterable[Line]) -> Decimal:
    return sum_of(line.amount for line in lines)


def units_of(lines: Iterable[Line]) -> Decimal:
    return sum_of(line.units for line in purchases(lines))


def count_of(lines: Iterable[Line]) -> int:
    """Lines with something bought: an amount off is none."""
    return sum(line.units > 0 for line in lines)


def ratio(part: Any, whole: Any) -> float | None:
    return None if whole == 0 else float(part) / float(whole)


def share(things: Sequence[Any], is_one: Any) -> float | None:
    return ratio(sum(map(is_one, things)), len(things))


def trend(now: Any, before: Any) -> float | None:
    """From -1, all of it before, to 1, all of it now."""
    return ratio(now - before, abs(now) + abs(before))


def cents(amount: Decimal) -> Decimal:
    """As PostgreSQL rounds a numeric: half away from zero."""
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def differences(
    found: Iterable[Mapping[str, Any]], expected: Mapping[Any, Row], key: Sequence[str]
) -> list[str]:
    """What is not the same, a line for every column: types too; floats to 1e-9 of their size."""
    rows: dict[Any, Row] = {}
    said: dict[str, list[str]] = defaultdict(list)
    for row in found:
        name = tuple(row[column] for column in key)
        name = name[0] if len(name) == 1 else name
        if name in rows:
            said["rows"].append(f"{name} is there twice")
        rows[name] = {column: value for column, value in row.items() if column not in key}
    said["rows"] += [f"{name} is missing" for name in expected if name not in rows]
    said["rows"] += [f"{name} is too much" for name in rows if name not in expected]
    for name, row in rows.items():
        true = expected.get(name, row)
        for column in row.keys() | true.keys():
            a, b = (side.get(column, "no such column") for side in (row, true))
            if not same(a, b):
                said[column].append(f"{name} has {a!r}, not {b!r}")
    return [
        f"{column}: {len(wrong)} wrong: {'; '.join(wrong[:2])}"
        for column, wrong in sorted(said.items())
        if wrong
    ]


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return a == b
