"""Who the customers are: when they come and go, how much and what they like, how they answer.

Purchases and drop-out: Pareto/NBD (Schmittlein, Morrison & Colombo 1987). While a customer is
alive, orders are Poisson with a rate that is Gamma over customers; the lifetime is exponential with
a rate that is Gamma too. Spend differs between customers by basket size (a shifted Poisson with a
Gamma mean), units of a line (an inverse Gamma mean, as the spend of Fader & Hardie's Gamma-Gamma
2013) and price level, so that it has a heavy tail. Taste is Dirichlet.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from simulator.products import CATEGORIES, PRICE_LEVELS, Catalogue
from simulator.seasons import DAY, HOUR, Clock
from simulator.writing import coded, ids, pick, timestamps

RESPONSES = ("persuadable", "sure_thing", "lost_cause", "sleeping_dog")
PERSUADABLE, SURE_THING, LOST_CAUSE, SLEEPING_DOG = range(4)

RATE_SHAPE, RATE_SCALE_DAYS = 0.75, 55.0  # orders a day ~ Gamma(shape, 1 / scale)
DROPOUT_SHAPE, DROPOUT_SCALE_DAYS = 0.70, 60.0  # drop-outs a day ~ Gamma(shape, 1 / scale)
BOUGHT_AT_SIGNUP = 0.92  # the rest open an account to look around

# country -> (share, currency, regions); what a currency is worth in EUR is RATES
COUNTRIES = {
    "DE": (0.30, "EUR", ("Bayern", "Berlin", "Hessen", "Sachsen")),
    "FR": (0.18, "EUR", ("Bretagne", "Normandie", "Occitanie")),
    "NL": (0.10, "EUR", ("Noord-Holland", "Utrecht")),
    "GB": (0.18, "GBP", ("England", "Scotland", "Wales")),
    "US": (0.14, "USD", ("California", "New York", "Texas")),
    "CH": (0.05, "CHF", ("Bern", "Vaud")),
    "SE": (0.05, "SEK", ("Skåne", "Uppsala")),
}
RATES = {"EUR": 1.0, "GBP": 1.16, "USD": 0.88, "CHF": 1.06, "SEK": 0.09}
REPORTING_CURRENCY = "EUR"

_FIRST_NAMES = ("Ada", "Bela", "Caro", "Dario", "Edda", "Finn", "Gala", "Hugo", "Iris", "Juri")
_LAST_NAMES = ("Muster", "Beispiel", "Sample", "Specimen", "Probe", "Muestra", "Esempio", "Nobody")
_CHANNELS = ("search", "social", "referral", "direct", "affiliate")
_INCOMES = ("under 30k", "30-50k", "50-80k", "80k and more")
_HOUSEHOLDS = ("single", "couple", "family", "shared")


@dataclass(frozen=True)
class Customers:
    """The truth of one part's customers, ordered by sign-up. Every array has shape (customers,).

    signed_up, dropped_out: seconds since the opening. rate: repeat orders a busy day. basket: mean
    lines an order. units: mean units a line. order_value: mean list value of an order in cents.
    taste, levels: cumulative shares over categories and price levels, shapes (customers, 10) and
    (customers, 4). currency, country: places in RATES and COUNTRIES. returns: share of lines that
    come back.
    """

    customer_id: pa.Array
    signed_up: np.ndarray
    dropped_out: np.ndarray
    rate: np.ndarray
    bought_at_signup: np.ndarray
    price_sensitivity: np.ndarray
    response: np.ndarray
    basket: np.ndarray
    units: np.ndarray
    order_value: np.ndarray
    taste: np.ndarray
    levels: np.ndarray
    currency: np.ndarray
    app_share: np.ndarray
    store_share: np.ndarray
    returns: np.ndarray
    country: np.ndarray

    def __len__(self) -> int:
        return len(self.rate)


def draw(
    rng: np.random.Generator,
    count: int,
    part: int,
    clock: Clock,
    catalogue: Catalogue,
    currencies: tuple[str, ...],
) -> Customers:
    """`count` customers who sign up over the whole time that the shop is open, busy days more."""
    signed_up = clock.seconds(np.sort(rng.random(count)) * clock.passed[-1])
    signed_up = np.minimum(signed_up, clock.end - HOUR)
    rate = rng.standard_gamma(RATE_SHAPE, count) / RATE_SCALE_DAYS
    hazard = rng.standard_gamma(DROPOUT_SHAPE, count) / DROPOUT_SCALE_DAYS
    lifetime_days = np.minimum(rng.standard_exponential(count) / np.maximum(hazard, 1e-9), 36_500)
    sensitivity = rng.beta(2, 2, count)
    basket = 1 + 1.7 * rng.standard_gamma(1.2, count)
    units = np.minimum(1 + 0.375 / np.maximum(rng.standard_gamma(2.5, count), 1e-3), 40)
    taste = rng.standard_gamma(0.35, (count, len(CATEGORIES))) + 1e-6
    taste /= taste.sum(axis=1, keepdims=True)
    levels = _level_shares(sensitivity)
    mean_price = np.einsum("nc,nl,cl->n", taste, levels, catalogue.mean_price)
    country = pick(rng, [share for share, _, _ in COUNTRIES.values()], count)
    return Customers(
        customer_id=ids("C", part, count),
        signed_up=signed_up,
        dropped_out=signed_up + (lifetime_days * DAY).astype(np.int64),
        rate=rate,
        bought_at_signup=rng.random(count) < BOUGHT_AT_SIGNUP,
        price_sensitivity=sensitivity,
        response=_responses(rng, sensitivity, rate),
        basket=basket,
        units=units,
        order_value=basket * units * mean_price,
        taste=_cumulative(taste),
        levels=_cumulative(levels),
        currency=_currency_of(currencies)[country],
        app_share=rng.beta(1.2, 1.8, count),
        store_share=rng.beta(0.6, 1.8, count),
        returns=rng.beta(0.8, 14, count),
        country=country,
    )


def table(rng: np.random.Generator, customers: Customers, clock: Clock, part: int) -> pa.Table:
    """Raw customers. Names, e-mails and phones are fake on sight: example.org, country +999."""
    count = len(customers)
    regions = [region for _, _, own in COUNTRIES.values() for region in own]
    sizes = np.array([len(own) for _, _, own in COUNTRIES.values()])
    first = np.cumsum(sizes) - sizes
    region = first[customers.country] + rng.integers(0, sizes[customers.country])
    born = np.clip(rng.normal(1984 + 8 * customers.app_share, 13, count), 1935, 2007)
    income = np.clip(rng.normal(2.4 - 2 * customers.price_sensitivity, 0.8, count), 0, 3)
    names = [f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]
    return pa.table(
        {
            "customer_id": customers.customer_id,
            "signed_up_at": timestamps(customers.signed_up, clock),
            "country": coded(tuple(COUNTRIES), customers.country),
            "region": coded(regions, region),
            "birth_year": pa.array(born.astype(np.int32), mask=rng.random(count) < 0.15),
            "gender": _some(rng, ("female", "male", "other"), (0.55, 0.43, 0.02), count),
            "income_band": coded(_INCOMES, income),
            "household": _some(rng, _HOUSEHOLDS, (0.3, 0.3, 0.3, 0.1), count),
            "acquisition_channel": _some(rng, _CHANNELS, (0.4, 0.2, 0.1, 0.2, 0.1), count),
            "email": ids("customer", part, count, "@example.org"),
            "phone": ids("+999 ", part, count),
            "full_name": coded(names, rng.integers(0, len(names), count)),
        }
    )


def truth(customers: Customers, clock: Clock) -> pa.Table:
    """What a model should find out, one row per customer.

    purchase_rate_per_day: of an average day, while alive, without campaigns. dropped_out_at may lie
    after the end. expected_repeat_orders: what that rate gives until drop-out or the end.
    mean_order_value: EUR at list prices, before discounts and returns. taste_*: shares of 1.
    """
    taste = np.diff(customers.taste, axis=1, prepend=0)
    alive_until = np.minimum(customers.dropped_out, clock.end)
    busy = clock.busy_days(alive_until) - clock.busy_days(customers.signed_up)
    return pa.table(
        {
            "customer_id": customers.customer_id,
            "purchase_rate_per_day": customers.rate,
            "bought_at_signup": customers.bought_at_signup,
            "dropped_out_at": timestamps(customers.dropped_out, clock),
            "expected_repeat_orders": customers.rate * busy,
            "mean_order_value": customers.order_value / 100,
            "mean_lines_per_order": customers.basket,
            "mean_units_per_line": customers.units,
            "price_sensitivity": customers.price_sensitivity,
            "return_rate": customers.returns,
            "response_type": coded(RESPONSES, customers.response),
            **{f"taste_{name}": taste[:, n] for n, name in enumerate(CATEGORIES)},
        }
    )


def _responses(rng: np.random.Generator, sensitivity: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Offers persuade the price-sensitive, frequent buyers buy anyway; chance has a part in it."""
    often = np.log(np.maximum(rate, 1e-6) * RATE_SCALE_DAYS / RATE_SHAPE)
    scores = np.stack(
        [
            0.3 + 3.0 * (sensitivity - 0.5),
            0.2 + 0.8 * often,
            -0.2 - 0.4 * often,
            -1.0 - 2.0 * (sensitivity - 0.5),
        ],
        axis=1,
    )
    return np.argmax(scores + rng.gumbel(size=scores.shape), axis=1)


def _level_shares(sensitivity: np.ndarray) -> np.ndarray:
    """Binomial over the price levels: who minds prices buys lower ones. Shape (customers, 4)."""
    up = (0.9 - 0.75 * sensitivity)[:, None]
    level = np.arange(PRICE_LEVELS)
    ways = np.array([1, 3, 3, 1])
    return ways * up**level * (1 - up) ** (PRICE_LEVELS - 1 - level)


def _cumulative(shares: np.ndarray) -> np.ndarray:
    return np.cumsum(shares, axis=1).astype(np.float32)


def _currency_of(currencies: tuple[str, ...]) -> np.ndarray:
    """Each country's own currency where the shop takes it, else the first that it takes."""
    names = list(RATES)
    own = [currency for _, currency, _ in COUNTRIES.values()]
    return np.array([names.index(c if c in currencies else currencies[0]) for c in own])


def _some(
    rng: np.random.Generator, names: tuple[str, ...], shares: tuple[float, ...], count: int
) -> pa.Array:
    """Names by share, one in twelve unknown."""
    return coded(names, pick(rng, shares, count), missing=rng.random(count) < 1 / 12)
