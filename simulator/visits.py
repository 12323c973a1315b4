"""What customers do on web and app: visits that end in an order, and those that do not.

Only visits of known customers are seen, so far more of them end in an order than in a shop's own
counts. Customers visit as long as they are customers; some ask for support shortly before they
leave; some orders are looked at days before.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from simulator.customers import Customers
from simulator.orders import STORE, Lines, Purchases
from simulator.products import Catalogue, product_ids
from simulator.seasons import DAY, HOUR, Clock
from simulator.writing import coded, ids, timestamps

EVENTS = ("view", "search", "wishlist", "cart_add", "cart_remove", "checkout", "login", "support")
VIEW, SEARCH, WISHLIST, CART_ADD, CART_REMOVE, CHECKOUT, LOGIN, SUPPORT = range(8)
NO_END = -1  # a visit that just stops


@dataclass(frozen=True)
class Visits:
    """One row per visit, in the order of `at`, the second of its last event.

    order: which of the Purchases it ends in, -1 for none. cart: products put into the cart, looked
    at first. looks: further products looked at. end: the event that ends it, or NO_END.
    """

    owner: np.ndarray
    at: np.ndarray
    order: np.ndarray
    cart: np.ndarray
    looks: np.ndarray
    end: np.ndarray


def visit(
    rng: np.random.Generator,
    customers: Customers,
    purchases: Purchases,
    lines: Lines,
    clock: Clock,
) -> Visits:
    """Every visit of a part: to order, to look before an order, to look around, to complain."""
    online = np.flatnonzero(purchases.channel != STORE)
    occasions = (
        (purchases.owner[online], purchases.at[online]),
        _before_orders(rng, customers, purchases),
        _around(rng, customers, clock),
        _before_leaving(rng, customers, clock),
    )
    owner, at = (np.concatenate(column) for column in zip(*occasions, strict=True))
    count = len(at)
    order = np.concatenate([online, np.full(count - len(online), -1)])
    buys = order >= 0
    asks = np.arange(count) >= count - len(occasions[-1][0])
    asks |= ~buys & (rng.random(count) < 0.02)
    abandons = ~buys & ~asks & (rng.random(count) < 0.3)

    cart = np.zeros(count, dtype=np.int64)
    cart[buys] = np.bincount(lines.order, minlength=len(purchases))[online]
    cart[abandons] = 1 + rng.poisson(0.6, int(abandons.sum()))
    looks = rng.poisson(np.where(buys, 0.5, 1.0)) + ~(buys | abandons)
    looks[asks] = 0
    gives_up = rng.random(count)
    end = np.where(gives_up < 0.15, CHECKOUT, np.where(gives_up < 0.40, CART_REMOVE, NO_END))
    end = np.select([buys, abandons, asks], [CHECKOUT, end, SUPPORT], NO_END)

    at = np.maximum(at, customers.signed_up[owner])
    in_time = np.argsort(at, kind="stable")
    return Visits(*(column[in_time] for column in (owner, at, order, cart, looks, end)))


def table(
    rng: np.random.Generator,
    visits: Visits,
    lines: Lines,
    customers: Customers,
    catalogue: Catalogue,
    clock: Clock,
    part: int,
) -> pa.Table:
    """Raw events, visit by visit: [login] [search] looks, (view, cart_add) for the cart, the end.

    The order of a visit and its checkout share the second.
    """
    login = rng.random(len(visits.at)) < 0.25
    search = rng.random(len(visits.at)) < 0.22
    ends = visits.end != NO_END
    before = login.astype(np.int64) + search
    count = before + visits.looks + 2 * visits.cart + ends
    visit_of = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    position = np.arange(len(visit_of)) - first[visit_of]
    step = position - before[visit_of]  # 0 is the first look
    in_cart = step - visits.looks[visit_of]  # 0 is the first view of something for the cart
    is_end = ends[visit_of] & (position == count[visit_of] - 1)

    kind = np.where((in_cart >= 0) & (in_cart % 2 == 1), CART_ADD, VIEW).astype(np.int8)
    kind[step < 0] = SEARCH
    kind[first[login]] = LOGIN
    kind[is_end] = visits.end[visit_of[is_end]]

    product = np.full(len(kind), -1, dtype=np.int64)
    looking = np.flatnonzero((step >= 0) & (in_cart < 0))
    product[looking] = _look(rng, visits, customers, catalogue, visit_of[looking])
    wishes = looking[(step[looking] % 2 == 1) & (rng.random(len(looking)) < 0.15)]
    kind[wishes] = WISHLIST
    product[wishes] = product[wishes - 1]
    carried = np.flatnonzero((in_cart >= 0) & ~is_end)
    cart, first_in_cart = _carts(rng, visits, lines, customers, catalogue)
    product[carried] = cart[first_in_cart[visit_of[carried]] + in_cart[carried] // 2]
    removed = np.flatnonzero(kind == CART_REMOVE)
    product[removed] = product[removed - 1]

    since = np.maximum(visits.at - customers.signed_up[visits.owner], 0)
    gap = np.minimum(rng.integers(8, 70, len(count)), since // np.maximum(count, 1))
    left = count[visit_of] - 1 - position
    haste = rng.random(len(left), dtype=np.float32) * (left > 0)
    at = visits.at[visit_of] - ((left + haste) * gap[visit_of]).astype(np.int64)
    return pa.table(
        {
            "event_id": ids("E", part, len(kind)),
            "customer_id": coded(customers.customer_id, visits.owner[visit_of]),
            "session_id": coded(ids("S", part, len(count)), visit_of),
            "occurred_at": timestamps(at, clock),
            "event_type": coded(EVENTS, kind),
            "product_id": coded(product_ids(), product, missing=product < 0),
        }
    )


def _before_orders(
    rng: np.random.Generator, customers: Customers, purchases: Purchases
) -> tuple[np.ndarray, np.ndarray]:
    """Customer and second of visits some days before an order, by who has signed up by then."""
    looked = np.flatnonzero(rng.random(len(purchases)) < 0.25)
    owner = purchases.owner[looked]
    at = purchases.at[looked] - rng.integers(2 * HOUR, 6 * DAY, len(looked))
    known = at > customers.signed_up[owner]
    return owner[known], at[known]


def _around(
    rng: np.random.Generator, customers: Customers, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """Customer and second of visits for their own sake, more of them by who orders more."""
    begins = clock.busy_days(customers.signed_up)
    alive = clock.busy_days(np.minimum(customers.dropped_out, clock.end)) - begins
    visits = rng.poisson((0.4 * customers.rate + 0.002) * alive)
    owner = np.repeat(np.arange(len(customers)), visits)
    return owner, clock.seconds(begins[owner] + rng.random(len(owner)) * alive[owner])


def _before_leaving(
    rng: np.random.Generator, customers: Customers, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """Customer and second of calls for support in the last days before some drop out."""
    at = customers.dropped_out - rng.integers(0, 10 * DAY, len(customers))
    calls = (rng.random(len(customers)) < 0.3) & (customers.dropped_out < clock.end)
    owner = np.flatnonzero(calls & (at > customers.signed_up))
    return owner, at[owner]


def _look(
    rng: np.random.Generator,
    visits: Visits,
    customers: Customers,
    catalogue: Catalogue,
    visit_of: np.ndarray,
) -> np.ndarray:
    return catalogue.choose(rng, customers.taste, customers.levels, visits.owner[visit_of])


def _carts(
    rng: np.random.Generator,
    visits: Visits,
    lines: Lines,
    customers: Customers,
    catalogue: Catalogue,
) -> tuple[np.ndarray, np.ndarray]:
    """Products of all carts, and where each visit's begin: the order's own lines, or others."""
    left = np.where(visits.order < 0, visits.cart, 0)
    abandoned = _look(rng, visits, customers, catalogue, np.repeat(np.arange(len(left)), left))
    in_orders = np.searchsorted(lines.order, visits.order)
    in_abandoned = len(lines.order) + np.cumsum(left) - left
    first = np.where(visits.order >= 0, in_orders, in_abandoned)
    return np.concatenate([lines.product, abandoned]), first
