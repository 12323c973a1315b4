import itertools
import json
import math
from dataclasses import asdict
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import intervals
from ml.intervals import Curve

TIERS = (0, 0.05, 0.20, 0.50, 1)  # shares of customers, highest expected spend first


def window(n, seed, returned=0.0):
    """Customers with a habit each: what a perfect model expects of them, and what they then spend.

    returned: share of customers whose window ends below 0.
    """
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.5, 0.6, n)
    amount = rng.lognormal(3, 1, n) * (1 + 4 * probability)
    spend = (rng.random(n) < probability) * amount * rng.gamma(2, 1 / 2, n)
    spend = np.where(rng.random(n) < returned, -rng.lognormal(3, 1, n), spend)
    return probability * amount, probability, spend


def held(ends, spend):
    low, high = ends
    return (low <= spend) & (spend <= high)


def one_bin(spend, probability=0.5, level=0.9):
    """Intervals from customers who are all expected to spend the same."""
    return intervals.fit(np.ones(spend.size), np.full(spend.size, probability), spend, level=level)


def ends_of(found, expected, probability):
    low, high = intervals.predict(found, np.array([expected]), np.array([probability]))
    return low[0], high[0]


@pytest.mark.parametrize("probability", [0.5, 1.0])
@pytest.mark.parametrize("customers, level", [(100, 0.9), (66, 0.9), (60, 0.8), (100, 0.55)])
def test_of_all_customers_left_out_in_turn_as_many_are_held_as_promised(
    customers, level, probability
):
    """The promise of conformal prediction, to the customer: whatever spend is distributed like."""
    spend = np.random.default_rng(0).beta(3, 1, customers)  # above its mean at every level here
    found = []
    for left_out in range(customers):
        others = np.delete(spend, left_out)
        ends = ends_of(one_bin(others, probability, level), others.mean(), probability)
        found.append(held(ends, spend[left_out]))
    assert sum(found) == math.ceil(round(customers * level, 6))


def test_all_misses_are_above_for_whoever_may_not_buy_and_halved_for_the_others():
    spend = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))
    assert ends_of(one_bin(spend, 0.5), 50, 0.5) == pytest.approx((0, 90))
    assert ends_of(one_bin(spend, 1.0), 50, 1.0) == pytest.approx((5, 95))
    assert ends_of(one_bin(spend, 0.949), 50, 0.949)[0] == 0
    assert ends_of(one_bin(spend, 0.95), 50, 0.95)[0] > 0


@pytest.mark.parametrize("returned", [0.0, 0.03])
def test_nine_customers_of_ten_are_held_in_every_tier_of_a_window_not_seen(returned):
    found = intervals.fit(*window(8_000, 1, returned))
    expected, probability, spend = window(40_000, 2, returned)
    inside = held(intervals.predict(found, expected, probability), spend)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    order = np.argsort(-expected)
    for start, end in itertools.pairwise(TIERS):
        tier = order[int(start * order.size) : int(end * order.size)]
        assert inside[tier].mean() == pytest.approx(0.9, abs=0.04), (start, end)
    sure = probability >= 0.95
    assert sure.sum() > 2_000
    assert inside[sure].mean() == pytest.approx(0.9, abs=0.03)


def test_another_level_is_another_promise():
    expected, probability, spend = window(40_000, 2)
    likely = probability > 0.5  # below 1 - level nobody can be held as seldom as promised
    for level in (0.5, 0.8, 0.98):
        found = intervals.fit(*window(8_000, 1), level=level)
        inside = held(intervals.predict(found, expected, probability), spend)
        assert inside[likely].mean() == pytest.approx(level, abs=0.05)


def test_great_customers_get_wider_intervals_than_small_ones_in_money_not_in_share():
    """Small customers come or stay away, great ones come: in this shop only they are steady."""
    rng = np.random.default_rng(0)
    expected = np.sort(rng.lognormal(3, 1, 4_000))
    noise = np.where(expected > np.median(expected), 0.1, 1.0)
    spend = expected * rng.lognormal(-(noise**2) / 2, noise)
    found = intervals.fit(expected, np.ones(4_000), spend)
    share = [
        np.subtract(*ends_of(found, at, 1.0)[::-1]) / at for at in np.quantile(expected, [0.2, 0.9])
    ]
    assert share[0] > 5 * share[1] > 0


def test_the_level_of_a_window_is_the_models_affair():
    """Two seasons that the model missed by a third either way teach what two right ones teach."""
    first, second = window(2_000, 1), window(2_000, 2)
    expected, probability, spend = (
        np.concatenate(column) for column in zip(first, second, strict=True)
    )
    windows = np.repeat(["2026-01-01", "2026-04-01"], 2_000)
    missed = np.where(windows == "2026-01-01", 1.5, 0.67)
    right, wrong = (
        intervals.fit(said, probability, spend, windows) for said in (expected, expected * missed)
    )
    for at in (1.0, 30.0, 500.0):
        assert ends_of(wrong, at, 0.5) == pytest.approx(ends_of(right, at, 0.5))
    as_one = intervals.fit(expected * missed, probability, spend)
    assert ends_of(as_one, 30.0, 0.5) != pytest.approx(ends_of(right, 30.0, 0.5), rel=0.01)


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0, 0.4), st.integers(60, 700))
@settings(max_examples=60, deadline=None)
def test_ends_never_fall_while_expected_spend_rises_whatever_was_seen(seed, kinds, returned, n):
    rng = np.random.default_rng(seed)
    expected = np.exp(rng.integers(0, kinds + 1, n) / 4)
    spend = rng.standard_t(2, n) * (rng.random(n) < 0.6) * 10
    spend = np.where(rng.random(n) < returned, -np.abs(spend), np.abs(spend)) + 1e-3
    spend[0] += np.abs(spend).sum()
    found = intervals.fit(expected, rng.choice([0.1, 0.9, 0.97], n), spend)
    asked = np.r_[0, np.geomspace(1e-3, 1e6, 400)]
    for probability in (0.02, 0.5, 0.95, 1.0):
        low, high = intervals.predict(found, asked, np.full(asked.size, probability))
        assert np.isfinite(low).all() and np.isfinite(high).all()
        assert (np.diff(low) >= -1e-9).all() and (np.diff(high) >= -1e-9).all()
        assert (low <= high).all() and (asked <= high).all()
        if probability < 0.95:
            assert not low.any()


def test_a_bin_has_fifty_customers_and_does_not_part_equal_ones():
    rng = np.random.default_rng(0)
    for expected, bins in (
        (np.arange(1.0, 2001), 10),
        (np.arange(1.0, 201), 4),
        (np.arange(1.0, 61), 1),
        (np.ones(500), 1),
        (np.repeat([1.0, 2.0, 3.0], [40, 300, 60]), 2),
    ):
        spend = rng.gamma(1, 10, expected.size)
        found = intervals.fit(expected, np.full(expected.size, 0.5), spend)
        assert found.may_not_buy is not None
        assert len(found.may_not_buy.expected) == bins, expected


def test_a_group_too_small_to_learn_from_is_served_by_the_other():
    expected, probability, spend = window(3_000, 1)
    few = intervals.fit(expected, np.minimum(probability, 0.9), spend)
    assert few.sure_to_buy is None
    assert ends_of(few, 20, 0.99) == ends_of(few, 20, 0.5)
    steady = one_bin(np.arange(1.0, 100.0), 1.0)
    assert steady.may_not_buy is None
    assert ends_of(steady, 50, 1.0) == pytest.approx((5, 95))
    assert ends_of(steady, 50, 0.5) == pytest.approx((0, 95))
    neither = intervals.fit(expected[:60], np.repeat([0.5, 0.99], 30), spend[:60])
    assert ends_of(neither, 20, 0.99) == ends_of(neither, 20, 0.5)


def test_returns_are_made_up_for_above_as_far_as_half_of_the_misses_go():
    spend = np.arange(1.0, 100.0)
    for returned, last_held in ((0, 90), (3, 93), (5, 95), (20, 95)):
        below = np.where(spend <= returned, -1.0, spend)
        found = one_bin(below)
        assert ends_of(found, below.mean(), 0.5) == pytest.approx((0, last_held)), returned
    nearly_all = np.where(spend < 98, -1.0, spend)
    assert ends_of(one_bin(nearly_all), 1.0, 0.5) == (0, 1)


def test_whoever_is_expected_to_spend_nothing_breaks_nothing():
    expected, probability, spend = window(2_000, 1)
    expected[:300] = 0
    probability[300:400] = 0
    found = intervals.fit(expected, probability, spend)
    low, high = intervals.predict(found, expected, probability)
    assert not low[:300].any() and not high[:300].any()
    assert held((low, high), spend)[300:].mean() > 0.85


def test_the_order_of_customers_changes_nothing_to_the_bit():
    expected, probability, spend = window(2_000, 1)
    windows = np.arange(2_000) % 3
    shuffled = np.random.default_rng(0).permutation(2_000)
    again = intervals.fit(*(v[shuffled] for v in (expected, probability, spend, windows)))
    assert again == intervals.fit(expected, probability, spend, windows)


def test_the_ends_of_a_customer_do_not_depend_on_who_else_is_asked():
    found = intervals.fit(*window(2_000, 1))
    expected, probability, _ = window(50, 2)
    low, high = intervals.predict(found, expected, probability)
    for i in range(50):
        assert ends_of(found, expected[i], probability[i]) == (low[i], high[i])


def test_intervals_come_back_from_json_to_the_bit():
    expected, probability, spend = window(2_000, 1)
    for cap in (1.0, 0.9):  # with and without customers who are sure to buy
        found = intervals.fit(expected, np.minimum(probability, cap), spend)
        said = json.loads(json.dumps(intervals.to_json(found), allow_nan=False))
        assert intervals.from_json(said) == found


def test_what_are_no_intervals_is_refused():
    said = intervals.to_json(intervals.fit(*window(2_000, 1)))
    for broken in ({}, {**said, "may_not_buy": 3}, {**said, "sure_to_buy": {"expected": [1]}}):
        with pytest.raises(ValueError, match="fit them again"):
            intervals.from_json(broken)
    good = Curve((1.0, 2.0), (0.0, 0.0), (3.0, 4.0))
    for broken in (
        {"expected": (2.0, 1.0)},
        {"expected": (0.0, 1.0)},
        {"expected": ()},
        {"low": (4.0, 0.0)},
        {"high": (3.0,)},
        {"high": (3.0, float("nan"))},
    ):
        with pytest.raises(ValueError, match="fit the intervals again"):
            Curve(**{**asdict(good), **broken})


def test_a_window_of_a_model_that_knew_half_as_much_counts_and_one_that_knew_less_does_not():
    first, second, third = (date(2026, month, 1) for month in (1, 2, 3))
    learned_from = {first: 4, second: 5, third: 6}
    assert intervals.windows_to_use(learned_from, 10) == [third, second]
    assert intervals.windows_to_use(learned_from, 8) == [third, second, first]
    assert intervals.windows_to_use(learned_from, 13) == [third]
    with pytest.raises(ValueError, match="closed window"):
        intervals.windows_to_use({}, 3)


def test_a_window_that_teaches_nothing_is_refused():
    expected, probability, spend = window(100, 1)
    for columns, says in (
        ((expected[:49], probability[:49], spend[:49]), "need 50 customers"),
        ((expected, probability, np.zeros(100)), "a window with spend"),
        ((np.zeros(100), probability, spend), "a window with spend"),
        ((expected, probability, spend, spend == 0), "a window with spend"),
        ((-expected, probability, spend), "below 0"),
        ((expected, 2 * probability, spend), "between 0 and 1"),
        ((expected, probability[:99], spend), "probability must hold"),
        ((expected, probability, np.full(100, np.nan)), "actual must hold"),
        ((expected, probability, spend, np.zeros(99)), "windows must name"),
    ):
        with pytest.raises(ValueError, match=says):
            intervals.fit(*columns)
    with pytest.raises(ValueError, match="need 200 customers"):
        intervals.fit(expected, probability, spend, level=0.99)
    with pytest.raises(ValueError, match="level must lie"):
        intervals.fit(expected, probability, spend, level=1.0)


def told_windows(days, customers=2_000, seed=0):
    """Windows of one shop: log-normal spend about what was expected of those who buy."""
    rng = np.random.default_rng(seed)
    frames = []
    for day in days:
        expected = rng.gamma(2, 50, customers)
        probability = rng.uniform(0.3, 1, customers)
        buys = rng.random(customers) < probability
        spend = buys * expected / probability * rng.lognormal(-0.08, 0.4, customers)
        frames.append(
            pd.DataFrame({
                "expected_spend": expected, "purchase_probability": probability,
                "spend": spend, "as_of_date": pd.Timestamp(day),
            })
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_coverage_is_of_the_newest_window_by_what_had_closed_before_it():
    told = told_windows(["2025-01-01", "2025-03-02", "2025-04-01"])
    assert intervals.held_out_coverage(told, 90) == pytest.approx(0.9, abs=0.03)
    # The window of March was still open: what it held says nothing.
    is_open = told["as_of_date"] == pd.Timestamp("2025-03-02")
    changed = told.assign(spend=told["spend"].where(~is_open, 1e6))
    assert intervals.held_out_coverage(changed, 90) == intervals.held_out_coverage(told, 90)
    newest = told["as_of_date"] == pd.Timestamp("2025-04-01")
    exploded = told.assign(spend=told["spend"].where(~newest, 1e6))
    assert intervals.held_out_coverage(exploded, 90) == 0


def test_without_a_window_that_had_closed_there_is_no_coverage():
    assert np.isnan(intervals.held_out_coverage(told_windows(["2025-03-02", "2025-04-01"]), 90))
