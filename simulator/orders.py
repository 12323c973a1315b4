"""When customers order, what each line costs, and what comes back."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from simulator import campaigns
from simulator.campaigns import Contacts
from simulator.customers import RATES, Customers
from simulator.products import Catalogue, product_ids
from simulator.seasons import DAY, HOUR, Clock, markdowns
from simulator.writing import coded, ids, timestamps

CHANNELS = ("web", "app", "store")
WEB, APP, STORE = range(3)
RETURNED_WITHIN = 30 * DAY
_RATES = np.array(list(RATES.values()))


@dataclass(frozen=True)
class Purchases:
    """The orders of a part in time order. owner: customer; redeems: contact, -1 for none."""

    owner: np.ndarray
    at: np.ndarray
    channel: np.ndarray
    redeems: np.ndarray

    def __len__(self) -> int:
        return len(self.at)


@dataclass(frozen=True)
class Lines:
    """The order lines as sold, in the order of their orders; money in cents of `currency`.

    order: which of the Purchases. returned: units that come back `returned_at`, 0 for none.
    """

    order: np.ndarray
    number: np.ndarray
    product: np.ndarray
    quantity: np.ndarray
    price: np.ndarray
    discount: np.ndarray
    returned: np.ndarray
    returned_at: np.ndarray


def purchase(
    rng: np.random.Generator, customers: Customers, contacts: Contacts, clock: Clock
) -> tuple[Purchases, np.ndarray]:
    """Draw every order: at sign-up, by the customer's own rate, and by offers.

    Also returns the second at which each contact was redeemed, -1 for never.
    """
    begins = clock.busy_days(customers.signed_up)
    alive = clock.busy_days(np.minimum(customers.dropped_out, clock.end)) - begins
    repeat = np.repeat(np.arange(len(customers)), rng.poisson(customers.rate * alive))
    at = clock.seconds(begins[repeat] + rng.random(len(repeat)) * alive[repeat])
    kept = campaigns.kept_orders(rng, contacts, customers, repeat, at)
    first = np.flatnonzero(customers.bought_at_signup)
    first_at = customers.signed_up[first] + rng.integers(HOUR // 12, 3 * HOUR // 4, len(first))
    extra, extra_at = campaigns.extra_orders(rng, contacts, customers, clock)

    owner = np.concatenate([repeat[kept], first, extra])
    at = np.concatenate([at[kept], first_at, extra_at])
    at = np.maximum(at, customers.signed_up[owner])
    in_time = np.argsort(at, kind="stable")
    owner, at = owner[in_time], at[in_time]
    online = np.where(rng.random(len(at)) < customers.app_share[owner], APP, WEB)
    channel = np.where(rng.random(len(at)) < customers.store_share[owner], STORE, online)
    redeems, redeemed = campaigns.redemptions(rng, contacts, customers, owner, at)
    channel = np.where((redeems >= 0) & (channel == STORE), online, channel)
    return Purchases(owner, at, channel, redeems), redeemed


def sell(
    rng: np.random.Generator,
    purchases: Purchases,
    contacts: Contacts,
    customers: Customers,
    catalogue: Catalogue,
    clock: Clock,
) -> Lines:
    """Fill every order: lines, products, units, discounts, and what the customer sends back.

    A discount is the offer that the order redeems, or a sale or a markdown that the customer
    found; who minds prices finds more of them. A line comes back whole or in part, more often when
    the product is poor.
    """
    size = 1 + rng.poisson(customers.basket[purchases.owner] - 1)
    order = np.repeat(np.arange(len(purchases)), size)
    owner = purchases.owner[order]
    product = catalogue.choose(rng, customers.taste, customers.levels, owner)
    quantity = 1 + rng.poisson(customers.units[owner] - 1)
    rate = _RATES[customers.currency[owner]]
    price = np.maximum(np.round(catalogue.price_cents[product] / rate), 1).astype(np.int64)

    percent = np.zeros(contacts.of.shape[1] + 1, dtype=np.int64)
    percent[:-1] = campaigns.percent_off(np.arange(contacts.of.shape[1]))
    campaign = np.append(contacts.campaign, -1)[purchases.redeems]
    sale = markdowns(clock.days)[purchases.at // DAY]
    marked = np.where(sale > 0, sale, 10)[order]
    finds = np.where(sale > 0, 0.35, 0.04)[order] + 0.4 * customers.price_sensitivity[owner]
    found = np.where(rng.random(len(order), dtype=np.float32) < finds, marked, 0)
    discount = quantity * price * np.maximum(found, percent[campaign][order]) // 100

    chance = customers.returns[owner] * (1 - 0.7 * catalogue.quality[product])
    returned, returned_at = _send_back(rng, chance, quantity, purchases.at[order])
    returned[returned_at >= clock.end] = 0
    first = np.cumsum(size) - size
    return Lines(
        order=order,
        number=np.arange(len(order)) - first[order] + 1,
        product=product,
        quantity=quantity,
        price=price,
        discount=discount,
        returned=returned,
        returned_at=returned_at,
    )


def _send_back(
    rng: np.random.Generator, chance: np.ndarray, quantity: np.ndarray, sold_at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Units of each line that come back, 0 for most, and the second; four in five lines whole."""
    back = np.flatnonzero(rng.random(len(chance), dtype=np.float32) < chance)
    units = quantity[back]
    some = np.where(rng.random(len(back)) < 0.8, units, rng.integers(1, units + 1))
    returned, returned_at = np.zeros_like(quantity), sold_at.copy()
    returned[back] = some
    returned_at[back] += rng.integers(HOUR, RETURNED_WITHIN, len(back))
    return returned, returned_at


def table(
    purchases: Purchases, lines: Lines, customers: Customers, clock: Clock, part: int
) -> pa.Table:
    """Raw order_lines: what was sold, then what came back.

    A return is a line of its own in its order: the next line numbers, the time of the return, the
    units and their share of the discount negative. quantity * unit_price - discount_amount of the
    two lines never goes below 0. Money columns are doubles: only they can hold what `dirt` puts in,
    and the double nearest to a cent is that cent again as decimal.
    """
    back = np.flatnonzero(lines.returned)
    back = back[np.argsort(lines.order[back], kind="stable")]
    sizes = np.bincount(lines.order, minlength=len(purchases))
    order_of_return = lines.order[back]
    starts = np.searchsorted(order_of_return, order_of_return)
    number = sizes[order_of_return] + 1 + np.arange(len(back)) - starts
    units = lines.returned[back]

    order = np.concatenate([lines.order, order_of_return])
    owner = purchases.owner[order]
    source = np.concatenate([np.arange(len(lines.order)), back])
    refunded = -(lines.discount[back] * units // lines.quantity[back])
    at = np.concatenate([purchases.at[lines.order], lines.returned_at[back]])
    return pa.table(
        {
            "order_id": coded(ids("O", part, len(purchases)), order),
            "line_number": np.concatenate([lines.number, number]).astype(np.int32),
            "customer_id": coded(customers.customer_id, owner),
            "ordered_at": timestamps(at, clock),
            "product_id": coded(product_ids(), lines.product[source]),
            "quantity": np.concatenate([lines.quantity, -units]).astype(np.float64),
            "unit_price": lines.price[source] / 100,
            "discount_amount": np.concatenate([lines.discount, refunded]) / 100,
            "currency": coded(tuple(RATES), customers.currency[owner]),
            "channel": coded(CHANNELS, purchases.channel[order]),
        }
    )
