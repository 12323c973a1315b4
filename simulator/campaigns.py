"""Offers, who got one by the toss of a coin, and what an offer really does to whom.

Every fourth week a campaign chooses customers at random; half of them, at random again, get the
offer, the others are its control group. An offer works for WINDOW seconds: it makes a persuadable
customer order once more with a probability, keeps a sleeping dog from most orders, and leaves sure
things and lost causes as they are (the four groups of Radcliffe & Surry 1999). So the true uplift
of a contact, P(order in the window | treated) - P(order in the window | control), is a formula.
"""

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import pyarrow as pa

from simulator.customers import PERSUADABLE, RESPONSES, SLEEPING_DOG, SURE_THING, Customers
from simulator.seasons import CLOSED, DAY, HOUR, Clock
from simulator.writing import coded, ids, timestamps

FIRST_DAY, EVERY_DAYS = 14, 28
WINDOW = 14 * DAY  # ends before the next campaign begins, so effects never mix
CONTACTED, TREATED = 0.30, 0.50  # share of those who signed up before, and of the contacted
KEPT_BY_DOGS = 0.30  # of the orders that a sleeping dog would have made in the window
OFFERS = (("5 % off", 5), ("10 % off", 10), ("15 % off", 15), ("20 % off", 20))
_CHANNELS = (("email", 0.02), ("sms", 0.08), ("push", 0.01))  # and the cost of a contact in EUR


@dataclass(frozen=True)
class Contacts:
    """One row per contact of a part. campaign, customer: indices; at: seconds since the opening.

    extra: probability of one order more if treated; 0 but for persuadables who are still there.
    of: the contact of each customer by each campaign, -1 for none, shape (customers, campaigns).
    """

    campaign: np.ndarray
    customer: np.ndarray
    at: np.ndarray
    treated: np.ndarray
    extra: np.ndarray
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.at)


def count(days: int) -> int:
    """Campaigns whose window ends before the shop's last day does."""
    return max(0, (days - 15 - FIRST_DAY) // EVERY_DAYS + 1)


def percent_off(campaign: np.ndarray) -> np.ndarray:
    """The offer of each campaign, in percent."""
    return np.array([percent for _, percent in OFFERS])[campaign % len(OFFERS)]


def table(days: int) -> pa.Table:
    """Raw campaigns."""
    numbers = range(count(days))
    opened = CLOSED - timedelta(days=days)
    starts = [opened + timedelta(days=FIRST_DAY + EVERY_DAYS * n) for n in numbers]
    channels = [_CHANNELS[n % len(_CHANNELS)] for n in numbers]
    offers = [OFFERS[n % len(OFFERS)][0] for n in numbers]
    return pa.table(
        {
            "campaign_id": _campaign_ids(days),
            "campaign_name": [
                f"{offer}, {day:%Y-%m}" for offer, day in zip(offers, starts, strict=True)
            ],
            "channel": pa.array([channel for channel, _ in channels], pa.string()),
            "offer": pa.array(offers, pa.string()),
            "starts_on": pa.array(starts, pa.date32()),
            "ends_on": pa.array([day + timedelta(days=13) for day in starts], pa.date32()),
            "cost_per_contact": pa.array([cost for _, cost in channels], pa.float64()),
        }
    )


def contact(rng: np.random.Generator, customers: Customers, clock: Clock) -> Contacts:
    """Toss the coins: who of those signed up before is contacted, in which arm, at what hour."""
    shape = (len(customers), count(clock.days))
    starts = (FIRST_DAY + EVERY_DAYS * np.arange(shape[1])) * DAY
    chosen = (rng.random(shape) < CONTACTED) & (customers.signed_up[:, None] < starts)
    campaign, customer = np.nonzero(chosen.T)
    at = starts[campaign] + rng.integers(8 * HOUR, 12 * HOUR, len(campaign))
    of = np.full(shape, -1, dtype=np.int64)
    of[customer, campaign] = np.arange(len(campaign))
    alive = (customers.response[customer] == PERSUADABLE) & (customers.dropped_out[customer] > at)
    offer = percent_off(campaign) / 20
    extra = (0.05 + 0.30 * customers.price_sensitivity[customer]) * offer
    return Contacts(
        campaign=campaign,
        customer=customer,
        at=at,
        treated=rng.random(len(campaign)) < TREATED,
        extra=np.where(alive, extra, 0.0),
        of=of,
    )


def contact_of_order(contacts: Contacts, owner: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The contact in whose window each order of customer `owner` falls, -1 for none."""
    number = (at // DAY - FIRST_DAY) // EVERY_DAYS
    known = (number >= 0) & (number < contacts.of.shape[1])
    found = np.full(len(at), -1, dtype=np.int64)
    found[known] = contacts.of[owner[known], number[known]]
    hit = np.flatnonzero(found >= 0)
    since = at[hit] - contacts.at[found[hit]]
    found[hit[(since < 0) | (since >= WINDOW)]] = -1
    return found


def extra_orders(
    rng: np.random.Generator, contacts: Contacts, customers: Customers, clock: Clock
) -> tuple[np.ndarray, np.ndarray]:
    """The orders that only the offers made: customer and second. Soon after the contact, mostly."""
    works = contacts.treated & (rng.random(len(contacts)) < contacts.extra)
    contact_row = np.flatnonzero(works)
    at = contacts.at[contact_row]
    begins, ends = clock.busy_days(at), clock.busy_days(at + WINDOW)
    second = clock.seconds(begins + rng.random(len(at)) ** 2 * (ends - begins))
    owner = contacts.customer[contact_row]
    alive = second < customers.dropped_out[owner]
    return owner[alive], np.maximum(second, at)[alive]


def kept_orders(
    rng: np.random.Generator,
    contacts: Contacts,
    customers: Customers,
    owner: np.ndarray,
    at: np.ndarray,
) -> np.ndarray:
    """Which orders are made in spite of an offer: sleeping dogs who are treated make fewer."""
    found = contact_of_order(contacts, owner, at)
    woken = (found >= 0) & (customers.response[owner] == SLEEPING_DOG)
    woken[woken] = contacts.treated[found[woken]]
    return ~woken | (rng.random(len(at)) < KEPT_BY_DOGS)


def redemptions(
    rng: np.random.Generator,
    contacts: Contacts,
    customers: Customers,
    owner: np.ndarray,
    at: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What each order (in time order) redeems, -1 for nothing; and when each contact was redeemed.

    The first order in the window of a treated contact redeems it, mostly: seconds, -1 for never.
    """
    redeems = contact_of_order(contacts, owner, at)
    redeems[redeems >= 0] = np.where(contacts.treated, np.arange(len(contacts)), -1)[
        redeems[redeems >= 0]
    ]
    hit = np.flatnonzero(redeems >= 0)
    willing = np.isin(customers.response[contacts.customer], (PERSUADABLE, SURE_THING))
    redeeming = rng.random(len(contacts)) < np.where(willing, 0.9, 0.3)
    first = np.full(len(contacts), -1, dtype=np.int64)
    first[redeems[hit[::-1]]] = hit[::-1]  # the last assignment is the earliest order
    first[~redeeming] = -1
    is_first = first[redeems[hit]] == hit
    redeems[hit[~is_first]] = -1
    return redeems, np.where(first >= 0, at[np.maximum(first, 0)] if len(at) else -1, -1)


def contact_table(
    rng: np.random.Generator,
    contacts: Contacts,
    customers: Customers,
    clock: Clock,
    part: int,
    redeemed: np.ndarray,
) -> pa.Table:
    """Raw campaign_contacts. Who redeems has opened and clicked before; controls never open."""
    rows = len(contacts)
    interest = np.array([0.45, 0.40, 0.15, 0.50])[customers.response[contacts.customer]]
    used = redeemed >= 0
    opened = used | (contacts.treated & (rng.random(rows) < interest))
    clicked = used | (opened & (rng.random(rows) < 0.3))
    until = np.where(used, redeemed - contacts.at, 3 * DAY)
    early, late = np.sort(rng.random((2, rows)) ** 3, axis=0)
    return pa.table(
        {
            "contact_id": ids("K", part, rows),
            "campaign_id": coded(_campaign_ids(clock.days), contacts.campaign),
            "customer_id": coded(customers.customer_id, contacts.customer),
            "contacted_at": timestamps(contacts.at, clock),
            "treatment_arm": coded(("control", "treatment"), contacts.treated),
            "opened_at": timestamps(contacts.at + (early * until).astype(int), clock, ~opened),
            "clicked_at": timestamps(contacts.at + (late * until).astype(int), clock, ~clicked),
            "redeemed_at": timestamps(redeemed, clock, ~used),
        }
    )


def truth(contacts: Contacts, customers: Customers, clock: Clock, part: int) -> pa.Table:
    """The probability of an order within the window after each contact, in either arm.

    uplift is their difference; window_days is the window.
    """
    response = customers.response[contacts.customer]
    until = np.minimum(contacts.at + WINDOW, customers.dropped_out[contacts.customer])
    begins, open_until = clock.busy_days(contacts.at), clock.busy_days(until)
    window = clock.busy_days(contacts.at + WINDOW) - begins
    busy = np.maximum(open_until - begins, 0)
    orders = customers.rate[contacts.customer] * busy
    extra = contacts.extra * np.sqrt(busy / window)  # as extra_orders draws them: u squared
    kept = np.where(response == SLEEPING_DOG, KEPT_BY_DOGS, 1.0)
    control = 1 - np.exp(-orders)
    treated = 1 - np.exp(-orders * kept) * (1 - extra)
    rows = len(contacts)
    return pa.table(
        {
            "contact_id": ids("K", part, rows),
            "customer_id": coded(customers.customer_id, contacts.customer),
            "campaign_id": coded(_campaign_ids(clock.days), contacts.campaign),
            "treatment_arm": coded(("control", "treatment"), contacts.treated),
            "response_type": coded(RESPONSES, response),
            "window_days": pa.array(np.full(rows, WINDOW // DAY, dtype=np.int32)),
            "order_probability_control": control,
            "order_probability_treatment": treated,
            "uplift": treated - control,
        }
    )


def _campaign_ids(days: int) -> pa.Array:
    return pa.array([f"M{number:04d}" for number in range(1, count(days) + 1)], pa.string())
