"""A small shop with known truth: who ordered what, what came back, what was cancelled."""

from datetime import date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import psycopg

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
