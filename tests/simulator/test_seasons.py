from datetime import date

import numpy as np
import pytest

from simulator import seasons


def test_a_busy_day_is_an_average_day_of_2025():
    clock = seasons.clock(365)
    assert clock.passed[-1] == pytest.approx(365)


def test_busy_time_and_seconds_are_each_other_s_inverse():
    clock = seasons.clock(500)
    second = np.random.default_rng(0).integers(0, clock.end, 10_000)
    assert np.abs(clock.seconds(clock.busy_days(second)) - second).max() <= 1
    assert (np.diff(clock.passed) > 0).all()


def test_time_outside_the_shop_is_not_busy():
    clock = seasons.clock(10)
    late = clock.busy_days(np.array([clock.end, clock.end + seasons.DAY]))
    assert late[0] == late[1] == clock.passed[-1]


@pytest.mark.parametrize("day", [date(2023, 11, 24), date(2024, 11, 29), date(2025, 11, 28)])
def test_black_friday_follows_the_fourth_thursday_of_november(day):
    assert seasons.black_friday(day.year) == day


def test_orders_follow_the_seasons(tables):
    """Orders on a day over what the day's intensity says, in 2025, by customers known by then."""
    ordered = dict(
        tables.execute(
            "select cast(ordered_at as date), count(distinct order_id) from order_lines "
            "where quantity > 0 and ordered_at >= '2025-07-01' group by 1"
        ).fetchall()
    )
    days = [date.fromordinal(date(2025, 7, 1).toordinal() + n) for n in range(184)]
    orders = np.array([ordered.get(day, 0) for day in days])
    expected = seasons.intensities(days[0], len(days))
    assert np.corrcoef(orders, expected)[0, 1] > 0.9
    friday = days.index(date(2025, 11, 28))
    assert orders[friday] > 2 * orders[[friday - 7, friday - 14, friday - 21]].mean()
    weekday = np.array([day.weekday() for day in days])
    assert orders[weekday == 5].mean() > 1.1 * orders[weekday == 1].mean()
    assert orders[[day.month == 12 for day in days]].mean() > 1.2 * orders[:31].mean()


def test_shops_are_asleep_at_night(tables):
    by_hour = dict(
        tables.execute("select hour(ordered_at), count(*) from order_lines group by 1").fetchall()
    )
    assert by_hour[20] > 5 * by_hour[4]


def test_sales_are_cheaper(tables):
    inside, outside = (
        tables.execute(
            "select sum(discount_amount) / sum(quantity * unit_price) from order_lines "
            f"where quantity > 0 and {days}"
        ).fetchall()[0][0]
        for days in (
            "cast(ordered_at as date) between '2025-11-28' and '2025-12-01'",
            "month(ordered_at) = 10",
        )
    )
    assert inside > 2 * outside > 0
