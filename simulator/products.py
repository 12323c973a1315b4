"""What the shop sells: 2,000 products in 10 categories, 4 price levels each, with their costs."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

PRICE_LEVELS = 4
_PER_CELL = 50  # products of one category and price level
_SLOTS = 4_096  # a product's popularity in its cell, in shares of 1 / _SLOTS

# category -> (median price of the lowest level in euro, what a product is, its subcategory)
CATEGORIES = {
    "fashion": (12, {"shirt": "tops", "jeans": "trousers", "dress": "dresses", "coat": "coats"}),
    "shoes": (25, {"sneaker": "sports shoes", "boot": "boots", "sandal": "summer shoes"}),
    "beauty": (6, {"serum": "skin care", "lipstick": "make-up", "perfume": "fragrance"}),
    "home": (9, {"cushion": "textiles", "lamp": "lighting", "vase": "decoration"}),
    "kitchen": (10, {"pan": "cookware", "knife": "cutlery", "kettle": "appliances"}),
    "toys": (8, {"puzzle": "games", "doll": "dolls", "train": "vehicles"}),
    "sports": (14, {"mat": "fitness", "bottle": "accessories", "racket": "ball games"}),
    "electronics": (22, {"headphones": "audio", "charger": "power", "keyboard": "computing"}),
    "books": (7, {"novel": "fiction", "atlas": "non-fiction", "picture book": "children"}),
    "grocery": (3, {"coffee": "drinks", "olive oil": "cooking", "chocolate": "sweets"}),
}
_BRANDS = {  # by price level
    0: ("Basico", "Plainly", "Everyday"),
    1: ("Norrland", "Fielder", "Marlowe"),
    2: ("Aurelia", "Kestrel", "Thornbury"),
    3: ("Maison Verre", "Halcyon", "Ostrava Atelier"),
}
_STYLES = ("Classic", "Urban", "Soft", "Bright", "Nordic", "Retro", "Light", "Bold", "Calm", "Pure")


@dataclass(frozen=True)
class Catalogue:
    """table: raw products. By product, shape (2000,): price_cents, quality (-1 to 1), category.

    mean_price: expected list price in cents of a purchase by category and level, shape (10, 4).
    """

    table: pa.Table
    price_cents: np.ndarray
    quality: np.ndarray
    category: np.ndarray
    mean_price: np.ndarray
    popularity: np.ndarray

    def choose(
        self, rng: np.random.Generator, taste: np.ndarray, levels: np.ndarray, who: np.ndarray
    ) -> np.ndarray:
        """A product for each of `who` (rows of taste and levels): category, level, then popularity.

        taste: cumulative, shape (customers, 10); levels: cumulative, shape (customers, 4).
        """
        category = _draw(rng, taste, who)
        cell = category * PRICE_LEVELS + _draw(rng, levels, who)
        slot = rng.integers(0, _SLOTS, len(who), dtype=np.uint16)
        return cell * _PER_CELL + self.popularity[slot]


def catalogue(rng: np.random.Generator) -> Catalogue:
    """Log-normal prices that rise by level, costs of 35 to 70 percent, popularity by Zipf's law."""
    cells = len(CATEGORIES) * PRICE_LEVELS
    count = cells * _PER_CELL
    category = np.repeat(np.arange(len(CATEGORIES)), PRICE_LEVELS * _PER_CELL)
    level = np.tile(np.repeat(np.arange(PRICE_LEVELS), _PER_CELL), len(CATEGORIES))
    lowest = np.array([median for median, _ in CATEGORIES.values()])[category]
    euro = lowest * 1.8**level * np.exp(rng.normal(0, 0.25, count))
    price_cents = np.maximum(np.round(euro).astype(np.int64) * 100 - 1, 99)  # 12.99
    cost_cents = np.round(price_cents * rng.uniform(0.35, 0.70, count)).astype(np.int64)
    popularity = _popularity()
    shares = np.bincount(popularity, minlength=_PER_CELL) / _SLOTS
    mean_price = (price_cents.reshape(cells, _PER_CELL) @ shares).reshape(-1, PRICE_LEVELS)
    return Catalogue(
        table=_table(rng, category, level, cost_cents),
        price_cents=price_cents,
        quality=np.clip(rng.normal(0, 0.4, count), -1, 1),
        category=category,
        mean_price=mean_price,
        popularity=popularity,
    )


def product_ids() -> pa.Array:
    """P00001 on, one for each product."""
    count = len(CATEGORIES) * PRICE_LEVELS * _PER_CELL
    return pa.array([f"P{number:05d}" for number in range(1, count + 1)])


def _table(
    rng: np.random.Generator, category: np.ndarray, level: np.ndarray, cost_cents: np.ndarray
) -> pa.Table:
    names = list(CATEGORIES)
    kinds = [list(CATEGORIES[name][1].items()) for name in names]
    picked = [kinds[c][n % len(kinds[c])] for n, c in enumerate(category)]
    brands = [
        _BRANDS[own][draw] for own, draw in zip(level, rng.integers(0, 3, len(level)), strict=True)
    ]
    styles = [_STYLES[draw] for draw in rng.integers(0, len(_STYLES), len(level))]
    named = zip(brands, styles, picked, strict=True)
    return pa.table(
        {
            "product_id": product_ids(),
            "product_name": [f"{brand} {style} {kind}" for brand, style, (kind, _) in named],
            "category": [names[c] for c in category],
            "subcategory": [subcategory for _, subcategory in picked],
            "brand": brands,
            "unit_cost": cost_cents / 100,
        }
    )


def _popularity() -> np.ndarray:
    """Which product of a cell each of _SLOTS equal draws means, shape (_SLOTS,)."""
    weights = 1 / np.arange(1, _PER_CELL + 1) ** 0.8
    edges = np.cumsum(weights) / weights.sum()
    slots = np.searchsorted(edges, (np.arange(_SLOTS) + 0.5) / _SLOTS)
    return slots.astype(np.int64)


def _draw(rng: np.random.Generator, cumulative: np.ndarray, who: np.ndarray) -> np.ndarray:
    """A column of `cumulative` for each of `who`; the last column is always 1."""
    u = rng.random(len(who), dtype=np.float32)
    chosen = np.zeros(len(who), dtype=np.int64)
    for column in range(cumulative.shape[1] - 1):
        chosen += u > cumulative[who, column]
    return chosen
