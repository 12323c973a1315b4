"""What a gain and a calibration curve are."""

import numpy as np
import pytest

from ml import curves

SPEND = np.array([0.0, 10, 0, 30, 60, 0, 100, 0, 0, 0])


def test_a_perfect_order_gains_all_spend_with_those_who_spent_and_no_order_gains_as_they_come():
    x, y = curves.gain(SPEND, SPEND)
    assert np.interp(0.1, x, y) == pytest.approx(100 / SPEND.sum())
    assert np.interp(0.4, x, y) == pytest.approx(1)
    same = curves.gain(SPEND, np.zeros(10))
    assert [list(ends) for ends in same] == [[0, 1], [0, 1]]


def test_no_order_of_customers_gains_more_than_that_of_what_they_spent():
    random = np.random.default_rng(0)
    shares = np.linspace(0, 1, 21)
    best = np.interp(shares, *curves.gain(SPEND, SPEND))
    for _ in range(50):
        other = np.interp(shares, *curves.gain(SPEND, random.random(10)))
        assert (other <= best + 1e-12).all() and (np.diff(other) >= 0).all()


def test_the_tenths_of_a_calibration_hold_all_customers_and_the_highest_expected_first():
    random = np.random.default_rng(1)
    spend, expected = random.gamma(1, 50, 997), random.gamma(1, 50, 997)
    x, y = curves.calibration(spend, expected)
    assert (np.diff(x) < 0).all()
    sizes = np.array([100] * 7 + [99] * 3)
    assert (x * sizes).sum() == pytest.approx(expected.sum())
    assert (y * sizes).sum() == pytest.approx(spend.sum())


def test_fewer_customers_than_tenths_leave_tenths_that_nobody_is_in():
    x, _ = curves.calibration(SPEND[:4], SPEND[:4])
    assert np.isfinite(x).sum() == 4
