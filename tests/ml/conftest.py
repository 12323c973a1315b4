"""A small shop with known habits: features and labels of any day, from its orders alone."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

HORIZON_DAYS = 30


@dataclass(frozen=True)
class Shop:
    orders: pd.DataFrame  # customer_id, day, amount
    first_day: date
    days: tuple[date, ...]
    features: pd.DataFrame
    labels: pd.DataFrame
    horizon_days: int = HORIZON_DAYS

    def closed(self, *horizons_days: int) -> pd.DataFrame:
        """Labels of these horizons, of all days whose windows are closed."""
        end = self.orders["day"].max().date()
        found = [
            labels_of(self.orders, frame.reset_index(drop=True), day.date(), days)
            for day, frame in self.features.groupby("as_of_date")
            for days in horizons_days
            if day.date() + timedelta(days=days) <= end
        ]
        return pd.concat(found, ignore_index=True)


def features_as_of(orders: pd.DataFrame, day: date, first_day: date) -> pd.DataFrame:
    before = orders[orders["day"] < pd.Timestamp(day)]
    age = (pd.Timestamp(day) - before["day"]).dt.days
    by_customer = before.assign(age=age).groupby("customer_id")
    frame = by_customer.agg(
        recency_days=("age", "min"),
        tenure_days=("age", "max"),
        frequency_orders=("age", "size"),
        monetary_total=("amount", "sum"),
        order_gap_stddev_days=("age", "std"),
    )
    for n in (30, 90):
        recent = before[age <= n].groupby("customer_id")["amount"]
        frame[f"spend_{n}d"] = recent.sum().reindex(frame.index, fill_value=0.0)
        frame[f"orders_{n}d"] = recent.size().reindex(frame.index, fill_value=0)
    last_year = pd.Timestamp(day) - pd.Timedelta(days=365)
    if last_year >= pd.Timestamp(first_day):
        window = before["day"].between(last_year, last_year + pd.Timedelta(days=29))
        then = before[window].groupby("customer_id")["amount"]
        frame["spend_same_window_last_year_30d"] = then.sum().reindex(frame.index, fill_value=0.0)
        frame["orders_same_window_last_year_30d"] = then.size().reindex(frame.index, fill_value=0)
    else:
        frame["spend_same_window_last_year_30d"] = np.nan
        frame["orders_same_window_last_year_30d"] = np.nan
    frame["rfm_score"] = frame["frequency_orders"].rank() - frame["recency_days"].rank()
    frame["is_repeat_buyer"] = frame["frequency_orders"] > 1
    return frame.reset_index().assign(as_of_date=pd.Timestamp(day))


def labels_of(
    orders: pd.DataFrame, frame: pd.DataFrame, day: date, horizon_days: int = HORIZON_DAYS
) -> pd.DataFrame:
    start = pd.Timestamp(day)
    window = (orders["day"] >= start) & (orders["day"] < start + pd.Timedelta(days=horizon_days))
    after = orders[window].groupby("customer_id")["amount"].agg(["sum", "size"])
    after = after.reindex(frame["customer_id"], fill_value=0).reset_index(drop=True)
    return pd.DataFrame({
        "customer_id": frame["customer_id"],
        "as_of_date": frame["as_of_date"],
        "horizon_days": horizon_days,
        "spend": after["sum"].astype(float),
        "orders": after["size"].astype(int),
        "is_purchased": after["size"] > 0,
    })  # fmt: skip


def make_shop(customers: int = 400, history_days: int = 480, seed: int = 0) -> Shop:
    rng = np.random.default_rng(seed)
    first_day = date(2024, 1, 1)
    count = rng.poisson(rng.gamma(0.8, 15, customers)) + 1
    who = np.repeat(np.arange(customers), count)
    amount = np.repeat(rng.lognormal(3, 0.8, customers), count) * rng.lognormal(0, 0.4, who.size)
    day = pd.Timestamp(first_day) + pd.to_timedelta(rng.integers(0, history_days, who.size), "D")
    orders = pd.DataFrame({"customer_id": [f"c{i:04}" for i in who], "day": day, "amount": amount})
    last = first_day + timedelta(days=history_days - HORIZON_DAYS)
    days = tuple(sorted(last - timedelta(days=30 * i) for i in range(13)))
    frames = [features_as_of(orders, d, first_day) for d in days]
    labels = [labels_of(orders, frame, d) for frame, d in zip(frames, days, strict=True)]
    features = pd.concat(frames, ignore_index=True)
    return Shop(orders, first_day, days, features, pd.concat(labels, ignore_index=True))


@pytest.fixture(scope="session")
def shop() -> Shop:
    return make_shop()
