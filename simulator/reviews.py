"""What customers write: a rating that follows the product and the mood, and a text that agrees."""

import numpy as np
import pyarrow as pa

from simulator.customers import Customers
from simulator.orders import Lines, Purchases
from simulator.products import CATEGORIES, Catalogue, product_ids
from simulator.seasons import DAY, Clock
from simulator.writing import coded, ids, timestamps

REVIEWED = 0.06  # of the lines sold
_OPENINGS = {
    1: ("Terrible.", "What a waste of money.", "Very disappointed.", "Awful, avoid this."),
    2: ("Not good.", "I expected better.", "Rather disappointing.", "Poor for the price."),
    3: ("It is okay.", "Average.", "Neither good nor bad.", "Does the job, no more."),
    4: ("Good.", "Quite happy with it.", "A solid choice.", "Nice, with small flaws."),
    5: ("Excellent!", "Absolutely love it.", "Perfect, could not be better.", "Wonderful!"),
}
_DETAILS = {
    1: ("The {0} item broke at once.", "Nothing about this {0} item works."),
    2: ("The {0} item feels cheap.", "For {0} I have seen better quality."),
    3: ("An ordinary {0} item.", "Acceptable {0}, no surprises."),
    4: ("A well made {0} item.", "For {0} this is above average."),
    5: ("The best {0} item I own.", "Outstanding quality for {0}."),
}
_CLOSINGS = {
    1: ("I want my money back.", "Never again."),
    2: ("I would not buy it again.", "I may send it back."),
    3: ("I might buy it again.", "No strong opinion."),
    4: ("I would buy it again.", "Recommended."),
    5: ("Highly recommended!", "I will order more."),
}


def table(
    rng: np.random.Generator,
    purchases: Purchases,
    lines: Lines,
    customers: Customers,
    catalogue: Catalogue,
    clock: Clock,
    part: int,
) -> pa.Table:
    """Raw reviews of lines that were sold, 2 to 21 days later.

    What came back, and what was bought in the last month before a customer left, is rated lower.
    """
    line = np.flatnonzero(rng.random(len(lines.order), dtype=np.float32) < REVIEWED)
    at = purchases.at[lines.order[line]] + rng.integers(2 * DAY, 21 * DAY, len(line))
    line, at = line[at < clock.end], at[at < clock.end]
    order, product = lines.order[line], lines.product[line]
    owner = purchases.owner[order]
    leaving = customers.dropped_out[owner] - purchases.at[order] < 30 * DAY
    mood = rng.normal(4.3, 0.9, len(line)) + catalogue.quality[product]
    mood -= 1.5 * (lines.returned[line] > 0) + 0.8 * leaving
    rating = np.clip(np.round(mood), 1, 5).astype(np.int64)
    return pa.table(
        {
            "review_id": ids("R", part, len(line)),
            "customer_id": coded(customers.customer_id, owner),
            "product_id": coded(product_ids(), product),
            "rating": rating.astype(np.float64),
            "body": _bodies(rng, rating, catalogue.category[product]),
            "reviewed_at": timestamps(at, clock),
        }
    )


def texts(rating: int, category: str) -> list[str]:
    """Every text that a rating of 1 to 5 can have."""
    return [
        " ".join((opening, detail.format(category), closing))
        for opening in _OPENINGS[rating]
        for detail in _DETAILS[rating]
        for closing in _CLOSINGS[rating]
    ]


def _bodies(rng: np.random.Generator, rating: np.ndarray, category: np.ndarray) -> pa.Array:
    known = [texts(stars, name) for stars in range(1, 6) for name in CATEGORIES]
    each = len(known[0])
    which = ((rating - 1) * len(CATEGORIES) + category) * each
    return coded([text for own in known for text in own], which + rng.integers(0, each, len(which)))
