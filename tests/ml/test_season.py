"""What last year's window says, held against sums by hand and a shop whose habits are known."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from ml import season
from ml.season import Season

WINDOWS = (30, 60, 90, 180, 365)


def told(spend, orders, last_year, **columns) -> pd.DataFrame:
    """A day of a shop so old that its length is no matter, unless columns say otherwise."""
    return pd.DataFrame({
        "spend_90d": spend,
        "orders_90d": orders,
        "spend_same_window_last_year_90d": last_year,
        "orders_same_window_last_year_90d": np.sign(last_year),
        "orders_30d": orders,
        "tenure_days": 0,
        **columns,
    })  # fmt: skip


def test_the_total_is_last_years_its_known_customers_and_half_of_the_growth():
    day = told([600.0, 400.0], [1, 1], [2000.0, 1000.0])
    # 90 % of the newest window came from known customers, and it held .9 of its last year.
    assert season.totals(Season(90, 900, 1, 1000, 2), day, 90)[0] == pytest.approx(3000 * 0.9)
    grown = Season(90, 900, 1, 250, 2)
    assert season.totals(grown, day, 90)[0] == pytest.approx(3000 * 0.9 * 4**0.5)
    in_its_first_year = Season(90, 900, 1, None, None)
    assert season.totals(in_its_first_year, day, 90) == pytest.approx((3000 * 0.9, 2 * 0.5))


def test_nothing_is_said_where_last_year_is_not_known():
    day = told([600.0, 400.0], [1, 1], [np.nan, np.nan])
    assert season.totals(Season(90, 900, 1, None, None), day, 90) == (None, None)


def test_the_season_is_that_of_the_newest_window(shop):
    is_newest = (shop.features["as_of_date"] == shop.features["as_of_date"].max()).to_numpy()
    newest = shop.features[is_newest]
    found = season.of_newest(shop.features, shop.labels, shop.horizon_days)
    assert found is not None
    assert found.window_days == 30
    assert found.spend == pytest.approx(shop.labels["spend"][is_newest].sum())
    assert found.buyers == shop.labels["is_purchased"][is_newest].sum()
    assert found.last_year_spend == newest["spend_same_window_last_year_30d"].sum()
    assert found.last_year_buyers == (newest["orders_same_window_last_year_30d"] > 0).sum()


@pytest.mark.parametrize("power", [0.4, 0.9])
def test_the_odds_to_be_known_grow_as_a_power_of_the_length_of_the_history(power):
    today, level, buyers = 400, -3.0, 100_000
    looked = {60: 30, 90: 60, 180: 150, 365: 335}
    place = (np.arange(buyers) + 0.5) / buyers
    seen = {n: place < expit(level + power * np.log(back)) for n, back in looked.items()}
    known = place < expit(level + power * np.log(today - 30))
    columns = {f"orders_{n}d": 1 + was_seen for n, was_seen in seen.items()}
    columns |= {"orders_30d": 1, "tenure_days": np.where(known, today, 1)}
    last_year = np.where(np.arange(buyers) < 1000, 1.0, 0.0)
    day = told(1.0, 1, last_year, **{"orders_180d": 1, **columns})
    day["orders_90d"] = columns["orders_90d"]
    share = expit(level + power * np.log(today - 90))
    _, found = season.totals(Season(90, 1.0, share * buyers, None, None), day, 90)
    assert found == pytest.approx(1000 * expit(level + power * np.log(today)), rel=2e-3)
    assert found > 1000 * share


@pytest.mark.parametrize("length", [380, 430])
def test_a_young_history_does_not_take_old_customers_for_new(length):
    """An old shop of steady habits, of which only the last days are known: the forecast misses
    at least a third less than with a share that forgets how young it is."""
    rng, window = np.random.default_rng(5), 90
    rate = rng.gamma(0.6, 0.008, 30_000)  # orders a day; some every week, many once in years
    times = rng.poisson(rate * (length + window))
    who = np.repeat(np.arange(rate.size), times)
    when = rng.integers(0, length + window, who.size)  # days since the history began

    def as_of(day: int) -> pd.DataFrame:
        past = pd.DataFrame({"who": who, "when": when})[when < day]
        frame = (day - past.groupby("who")["when"].min()).to_frame("tenure_days")
        for n in WINDOWS:
            recent = past[past["when"] >= day - n].groupby("who").size()
            frame[f"orders_{n}d"] = recent.reindex(frame.index, fill_value=0)
        frame["spend_90d"] = 10.0 * frame["orders_90d"]
        began = day - 365
        then = past[past["when"].between(began, began + window - 1)].groupby("who").size()
        last_year = then.reindex(frame.index, fill_value=0) if began >= 0 else np.nan
        frame["orders_same_window_last_year_90d"] = last_year
        return frame.assign(spend_same_window_last_year_90d=10.0 * frame.iloc[:, -1])

    def after(day: int, frame: pd.DataFrame) -> pd.Series:
        came = pd.Series(who[(when >= day) & (when < day + window)]).value_counts()
        return came.reindex(frame.index, fill_value=0)

    before = as_of(length - window).assign(as_of_date=pd.Timestamp("2026-01-01"))
    orders = after(length - window, before)
    labels = pd.DataFrame({"spend": 10.0 * orders, "is_purchased": orders > 0})
    learned = season.of_newest(before, labels, window)
    assert learned is not None
    today = as_of(length)
    actual = after(length, today)
    recent, year_ago = (
        today[["spend_90d", "orders_90d"]].to_numpy(),
        today[[f"{name}_same_window_last_year_90d" for name in ("spend", "orders")]].to_numpy(),
    )
    spend, buyers = season.totals(learned, today, window)
    for found, known, by_all, then, brought in (
        (spend, learned.spend, recent[:, 0].sum(), year_ago[:, 0].sum(), 10.0 * actual.sum()),
        (buyers, learned.buyers, (recent[:, 1] > 0).sum(), (year_ago[:, 1] > 0).sum(),
         (actual > 0).sum()),
    ):  # fmt: skip
        assert found is not None
        missed, missed_as_if_old = 1 - found / brought, 1 - then * known / by_all / brought
        assert missed_as_if_old > 0.05
        assert abs(missed) < missed_as_if_old * 2 / 3
