import numpy as np
import pytest


def test_about_half_of_the_buyers_buy_once_and_spend_has_a_heavy_tail(tables):
    once, top, buyers, customers = tables.execute(
        "with spent as (select customer_id, count(distinct order_id) as orders, "
        "sum(quantity * unit_price - discount_amount) as spend from order_lines group by 1), "
        "ranked as (select *, percent_rank() over (order by spend desc) as place from spent) "
        "select avg(cast(orders = 1 as integer)), "
        "sum(spend) filter (place < 0.1) / sum(spend), count(*), "
        "(select count(*) from customers) from ranked"
    ).fetchall()[0]
    assert 0.4 < once < 0.65
    assert top > 0.4
    assert 0.90 * customers < buyers < customers


def test_repeat_orders_are_as_many_as_the_true_rates_expect(tables):
    """Where offers change nothing: the sum over customers is Poisson with the sum of the means."""
    by_fifth = tables.execute(
        "with orders as (select customer_id, count(distinct order_id) as orders "
        "from order_lines where quantity > 0 group by 1) "
        "select ntile(5) over (order by expected_repeat_orders) as fifth, "
        "coalesce(orders, 0) - cast(bought_at_signup as integer) as repeats, "
        "expected_repeat_orders as expected "
        "from truth left join orders using (customer_id) "
        "where response_type in ('sure_thing', 'lost_cause')"
    ).df()
    sums = by_fifth.groupby("fifth")[["repeats", "expected"]].sum()
    assert (sums["expected"] > 0).all()
    away = (sums["repeats"] - sums["expected"]) / np.sqrt(sums["expected"])
    assert away.abs().max() < 4
    assert sums["repeats"].iloc[-1] > 5 * sums["repeats"].iloc[2]


def test_the_rate_is_of_an_average_day(tables):
    """Over a whole year, busy days are as many as days."""
    expected, by_days = tables.execute(
        "select sum(expected_repeat_orders), sum(purchase_rate_per_day * "
        "date_diff('second', signed_up_at, timestamp '2026-01-01') / 86400) "
        "from truth join customers using (customer_id) "
        "where dropped_out_at > '2026-01-01' and signed_up_at < '2025-01-05'"
    ).fetchall()[0]
    assert expected == pytest.approx(by_days, rel=0.03)


def test_nobody_orders_or_visits_after_dropping_out(tables):
    late = tables.execute(
        "select (select count(*) from order_lines join truth using (customer_id) "
        "where quantity > 0 and ordered_at > dropped_out_at + interval 45 minutes), "
        "(select count(*) from events join truth using (customer_id) "
        "where occurred_at > dropped_out_at + interval 45 minutes), "
        "(select count(*) from truth where dropped_out_at < '2026-01-01')"
    ).fetchall()[0]
    assert late[:2] == (0, 0)
    assert late[2] > 1_000


def test_order_values_are_what_the_truth_says(tables):
    found = tables.execute(
        "with orders as (select customer_id, count(distinct order_id) as orders, "
        "sum(quantity * unit_price) / count(distinct order_id) as value "
        "from order_lines where quantity > 0 group by 1) "
        "select sum(orders * value) / sum(orders * mean_order_value), "
        "corr(ln(value), ln(mean_order_value)) filter (orders >= 10) "
        "from orders join truth using (customer_id)"
    ).fetchall()[0]
    assert found[0] == pytest.approx(1, abs=0.03)
    assert found[1] > 0.8


def test_customers_buy_by_their_taste(tables):
    """Lines by category over lines expected from taste, for each category."""
    categories = [c for (c,) in tables.execute("select distinct category from products").fetchall()]
    assert len(categories) == 10
    tastes = " + ".join(f"taste_{name}" for name in categories)
    off = "select max(abs({} - 1)) from truth"
    assert tables.execute(off.format(tastes)).fetchall()[0][0] < 1e-5
    for name in categories:
        bought, expected, fans = tables.execute(
            f"select sum(cast(category = '{name}' as integer)), sum(taste_{name}), "
            f"avg(cast(category = '{name}' as integer)) filter (taste_{name} > 0.5) "
            "from order_lines join products using (product_id) join truth using (customer_id) "
            "where quantity > 0"
        ).fetchall()[0]
        assert bought == pytest.approx(expected, rel=0.05)
        assert fans > 0.55


def test_who_minds_prices_buys_cheaper_and_finds_more_discounts(tables):
    slopes = tables.execute(
        "select corr(price_sensitivity, ln(unit_price)), "
        "corr(price_sensitivity, cast(discount_amount > 0 as integer)) "
        "from order_lines join truth using (customer_id) where quantity > 0"
    ).fetchall()[0]
    assert slopes[0] < -0.1
    assert slopes[1] > 0.1


def test_personal_data_is_fake_on_sight_and_one_of_a_kind(tables):
    fake, people, emails, phones = tables.execute(
        "select count(*) filter (email like '%@example.org' and phone like '+999 %' "
        "and full_name like '_% _%'), count(*), count(distinct email), count(distinct phone) "
        "from customers"
    ).fetchall()[0]
    assert fake == people == emails == phones
