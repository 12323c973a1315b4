from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.cutoffs import (
    NotEnoughHistory,
    backtest_days,
    newer_cutoffs,
    test_origins,
    training_cutoffs,
    training_cutoffs_among,
)

FIRST = date(2020, 1, 1)
horizons = st.integers(1, 200)
steps = st.integers(1, 60)


@given(st.integers(300, 2000), horizons, steps)
def test_training_windows_close_before_the_day_they_are_used_on(age, horizon, step):
    as_of = FIRST + timedelta(days=age)
    cutoffs = training_cutoffs(as_of, FIRST, horizon, step, max_count=12, min_history_days=30)
    assert 1 <= len(cutoffs) <= 12
    assert cutoffs[0] == as_of - timedelta(days=horizon)
    assert list(cutoffs) == sorted(set(cutoffs), reverse=True)
    for cutoff in cutoffs:
        assert cutoff + timedelta(days=horizon) <= as_of
        assert (cutoff - FIRST).days >= 30


@given(horizons, steps, st.integers(1, 6))
def test_test_windows_are_closed_and_each_has_something_to_learn_from(horizon, step, count):
    as_of = FIRST + timedelta(days=900)
    origins = test_origins(as_of, FIRST, horizon, count, step)
    assert len(origins) == count
    assert origins[0] + timedelta(days=horizon) == as_of
    for origin in origins:
        newest = training_cutoffs(origin, FIRST, horizon, step)[0]
        assert newest + timedelta(days=horizon) <= origin


def test_a_day_more_or_less_of_history_decides():
    enough = FIRST + timedelta(days=30 + 90)
    assert training_cutoffs(enough, FIRST, 90) == (FIRST + timedelta(days=30),)
    with pytest.raises(NotEnoughHistory, match=r"2019-12-31.*2020-01-01"):
        training_cutoffs(enough - timedelta(days=1), FIRST, 90)
    enough = FIRST + timedelta(days=30 + 90 + 3 * 30 + 90)
    assert len(test_origins(enough, FIRST, 90)) == 4
    with pytest.raises(NotEnoughHistory, match="4 test origins"):
        test_origins(enough - timedelta(days=1), FIRST, 90)


def test_cutoffs_among_days_end_where_the_days_end_and_bear_no_gap():
    origin = date(2021, 1, 1)
    wanted = training_cutoffs(origin, FIRST, 90)
    assert training_cutoffs_among({*wanted, origin, date(2020, 7, 7)}, origin, 90) == wanted
    assert training_cutoffs_among(wanted[:2], origin, 90) == wanted[:2]
    with pytest.raises(ValueError, match=str(wanted[1])):
        training_cutoffs_among({wanted[0], wanted[2]}, origin, 90)
    with pytest.raises(ValueError, match=str(origin)):
        training_cutoffs_among({origin}, origin, 90)


def test_the_days_of_a_backtest_are_all_that_its_origins_learn_from():
    origins = [date(2021, 3, 1), date(2020, 11, 11)]
    days = backtest_days(origins, FIRST, 90)
    assert days == sorted(set(days))
    for origin in origins:
        assert {origin, *training_cutoffs(origin, FIRST, 90)} <= set(days)
        assert training_cutoffs_among(days, origin, 90) == training_cutoffs(origin, FIRST, 90)


def test_shorter_horizons_have_the_days_between_the_newest_cutoff_and_today():
    assert newer_cutoffs(date(2021, 1, 1), date(2020, 10, 3)) == (
        date(2020, 12, 2), date(2020, 11, 2),
    )  # fmt: skip
    assert newer_cutoffs(date(2021, 1, 1), date(2020, 12, 2)) == ()


def test_a_horizon_of_no_days_is_refused():
    with pytest.raises(ValueError, match="horizon_days"):
        training_cutoffs(date(2021, 1, 1), FIRST, 0)
