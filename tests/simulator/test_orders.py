import numpy as np
import pyarrow.parquet as pq
import pytest

from simulator import customers, shop


def test_lines_are_numbered_from_one_in_every_order(tables):
    assert tables.execute(
        "select count(*) from (select order_id from order_lines group by 1 "
        "having min(line_number) <> 1 or max(line_number) <> count(*))"
    ).fetchall() == [(0,)]


def test_an_order_has_one_customer_channel_currency_and_time_of_sale(tables):
    assert tables.execute(
        "select count(*) from (select order_id from order_lines group by 1 "
        "having count(distinct (customer_id, channel, currency)) > 1 "
        "or count(distinct ordered_at) filter (quantity > 0) <> 1)"
    ).fetchall() == [(0,)]


def test_baskets_have_three_lines_on_average(tables):
    basket = "select count(*) / count(distinct order_id) from order_lines where quantity > 0"
    assert tables.execute(basket).fetchall()[0][0] == pytest.approx(3, abs=0.3)


def test_money_is_whole_cents_and_products_cost_less_than_they_sell_for(tables):
    cents, below = tables.execute(
        "select max(abs(100 * cast(unit_price as decimal(18, 6)) % 1) + "
        "abs(100 * cast(discount_amount as decimal(18, 6)) % 1)), "
        "max(unit_cost / unit_price) from order_lines join products using (product_id)"
    ).fetchall()[0]
    assert cents == 0
    assert below < 0.75


def test_a_return_follows_its_sale_and_never_takes_back_more_than_was_paid(tables):
    """Every returned line is a sold line of its order and product, in units and in money."""
    returns, matched = tables.execute(
        "with sold as (from order_lines where quantity > 0), "
        "back as (from order_lines where quantity < 0) "
        "select (select count(*) from back), "
        "(select count(distinct (back.order_id, back.line_number)) from back join sold on "
        "sold.order_id = back.order_id and sold.product_id = back.product_id "
        "and sold.unit_price = back.unit_price and sold.quantity >= -back.quantity "
        "and back.ordered_at > sold.ordered_at and back.line_number > sold.line_number "
        "and sold.discount_amount * -back.quantity / sold.quantity + back.discount_amount "
        "between -0.0001 and 0.0101 "
        "and sold.quantity * sold.unit_price - sold.discount_amount "
        "+ back.quantity * back.unit_price - back.discount_amount > -0.001)"
    ).fetchall()[0]
    assert returns == matched > 500
    assert tables.execute(
        "select count(*) from (select order_id, product_id, sum(quantity) as units, "
        "sum(quantity * unit_price - discount_amount) as paid from order_lines group by all) "
        "where units < 0 or paid < -0.001"
    ).fetchall() == [(0,)]


def test_some_returns_are_days_later_and_some_orders_come_back_whole(tables):
    days, whole = tables.execute(
        "with orders as (select order_id, max(ordered_at) - min(ordered_at) as passed, "
        "sum(quantity) as units from order_lines group by 1) "
        "select count(*) filter (passed > interval 7 days), count(*) filter (units = 0) from orders"
    ).fetchall()[0]
    assert days > 100
    assert whole > 10


def test_identifiers_sort_by_time_within_a_part(folder):
    for file in sorted(folder.glob("order_lines-*.parquet"))[:2]:
        frame = pq.read_table(file).to_pandas()
        sold = frame[frame["quantity"] > 0]
        assert sold["order_id"].is_monotonic_increasing
        assert sold["ordered_at"].is_monotonic_increasing


def test_other_currencies_change_the_money_and_nothing_else(tmp_path):
    config = shop.Config(customers=500, days=90)
    several = shop.Config(customers=500, days=90, currencies=("EUR", "GBP", "USD"))
    plain, mixed = (
        pq.read_table(shop.simulate(each, tmp_path / name).out / "order_lines-0001.parquet")
        .to_pandas()
        .set_index(["order_id", "line_number"])
        for name, each in (("plain", config), ("mixed", several))
    )
    assert set(plain["currency"]) == {"EUR"}
    assert set(mixed["currency"]) == {"EUR", "GBP", "USD"}
    assert plain["quantity"].equals(mixed["quantity"])
    rate = mixed["currency"].map(customers.RATES)
    assert np.abs(mixed["unit_price"] * rate - plain["unit_price"]).max() <= 0.006
