from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from ml import horizons, lightgbm_hurdle
from ml.lightgbm_hurdle import Config, fit

CONFIG = Config(rounds=20, min_data_in_leaf=20)


@pytest.fixture(scope="module")
def long_labels(shop):
    return shop.closed(7, 30, 90)


@pytest.fixture(scope="module")
def outlook(shop, long_labels):
    known_until = shop.days[-1]
    closed = shop.features["as_of_date"] <= pd.Timestamp(known_until - timedelta(days=30))
    labels = shop.labels[closed]
    asked = fit(shop.features[closed], labels, 30, CONFIG)
    before = shop.features[shop.features["as_of_date"] < pd.Timestamp(known_until)]
    return horizons.fit(asked, before, long_labels, known_until)


@pytest.fixture(scope="module")
def today(shop):
    return shop.features[shop.features["as_of_date"] == pd.Timestamp(shop.days[-1])]


def test_more_days_never_mean_less_spend_or_a_smaller_chance(outlook, today):
    found = horizons.predict(outlook, today).by_horizon
    assert tuple(found) == horizons.HORIZONS
    for what in ("expected_spend", "purchase_probability"):
        said = np.stack([getattr(one, what) for one in found.values()])
        assert (np.diff(said, axis=0) >= 0).all()
        assert np.isfinite(said).all()


def test_the_horizon_that_was_judged_stays_as_it_is(outlook, today):
    alone = lightgbm_hurdle.predict(outlook.asked, today)
    together = horizons.predict(outlook, today).asked
    assert together.expected_spend == pytest.approx(alone.expected_spend, rel=1e-12)
    assert together.purchase_probability == pytest.approx(alone.purchase_probability, rel=1e-12)


def test_a_horizon_learns_from_its_own_closed_windows_and_borrows_where_there_is_none(outlook):
    learned = {days: model.learned_days for days, model in outlook.models.items()}
    assert learned == {7: 7, 14: 7, 30: 30, 90: 90, 180: 90, 365: 90}


def test_a_window_that_closes_later_is_not_learned_from(outlook, shop, long_labels):
    known_until = shop.days[-1]
    before = shop.features[shop.features["as_of_date"] < pd.Timestamp(known_until)]
    open_then = long_labels["as_of_date"] + pd.to_timedelta(
        long_labels["horizon_days"], "D"
    ) > pd.Timestamp(known_until)
    assert open_then.any()
    told = long_labels.assign(spend=long_labels["spend"].mask(open_then, 1e6))
    again = horizons.fit(outlook.asked, before, told, known_until)
    for days, model in outlook.models.items():
        assert again.models[days].amount.model_to_string() == model.amount.model_to_string()


def test_files_give_back_the_same_forecast_to_the_bit(outlook, today, tmp_path):
    horizons.to_files(outlook, tmp_path)
    before = horizons.Served(outlook).predict(today)
    after = horizons._load_pyfunc(str(tmp_path)).predict(today)
    pd.testing.assert_frame_equal(before, after, check_exact=True)
    assert {"expected_spend_365d", "purchase_probability_7d", "next_order_days"} <= {*after}
    with pytest.raises(ValueError, match="train the model again"):
        horizons.from_files(tmp_path / "30d")


def test_the_next_order_is_due_when_the_chance_of_it_reaches_a_half():
    half_in_30 = np.array([0.1, 0.2, 0.5, 0.9])
    steady = 1 - 0.5 ** (np.array([7, 14, 30, 90]) / 60)  # half in 60 days, all along
    never = np.array([0.0, 0.0, 0.1, 0.4])
    at_once = np.array([1.0, 1.0, 1.0, 1.0])
    chances = np.stack([half_in_30, steady, never, at_once], axis=1)
    days = horizons.next_order_days((7, 14, 30, 90), chances)
    assert days[[0, 1, 3]] == pytest.approx([30, 60, 1])
    assert np.isnan(days[2])


def test_half_of_those_who_are_due_have_ordered_by_then():
    """Exponential waiting times of known rates, told at the horizons only."""
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, 0.01, 20_000)
    chances = -np.expm1(-np.outer(horizons.HORIZONS, rate))
    days = horizons.next_order_days(horizons.HORIZONS, chances)
    due = np.isfinite(days)
    ordered = rng.exponential(1 / rate)[due] <= days[due]
    assert ordered.mean() == pytest.approx(0.5, abs=0.02)


def test_a_week_in_which_nothing_was_kept_borrows_the_nearest_model(outlook, shop, long_labels):
    before = shop.features[shop.features["as_of_date"] < pd.Timestamp(shop.days[-1])]
    weeks = long_labels["horizon_days"] == 7
    silent = long_labels.assign(
        spend=long_labels["spend"].mask(weeks, 0.0),
        is_purchased=long_labels["is_purchased"] & ~weeks,
    )
    found = horizons.fit(replace(outlook.asked), before, silent, shop.days[-1])
    assert found.models[7].learned_days == 30
