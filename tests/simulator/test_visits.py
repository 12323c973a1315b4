def test_more_is_viewed_than_carted_than_checked_out_than_bought(tables):
    counts = dict(tables.execute("select event_type, count(*) from events group by 1").fetchall())
    assert counts["view"] > 1.2 * counts["cart_add"] > 1.2**2 * counts["checkout"]
    assert set(counts) == {
        "view", "search", "wishlist", "cart_add", "cart_remove", "checkout", "login", "support",
    }  # fmt: skip
    sessions = tables.execute(
        "with stages as (select session_id, bool_or(event_type = 'view') as viewed, "
        "bool_or(event_type = 'cart_add') as carted, "
        "bool_or(event_type = 'checkout') as checked from events group by 1) "
        "select count(*), count(*) filter (viewed), count(*) filter (carted), "
        "count(*) filter (checked), count(*) filter (checked and not carted), "
        "(select count(distinct order_id) from order_lines where channel <> 'store') from stages"
    ).fetchall()[0]
    everyone, viewed, carted, checked, skipped, ordered = sessions
    assert everyone > viewed > 1.05 * carted > 1.05**2 * checked * 0.9 > 0
    assert checked > ordered > 0
    assert skipped == 0


def test_there_are_two_to_four_events_a_line(tables):
    events, lines = tables.execute(
        "select (select count(*) from events), (select count(*) from order_lines)"
    ).fetchall()[0]
    assert 2 < events / lines < 4


def test_every_online_order_ends_a_session_that_put_its_lines_into_the_cart(tables):
    orders, found = tables.execute(
        "with carts as (select session_id, customer_id, max(occurred_at) as ended_at, "
        "bool_or(event_type = 'checkout') as checked, "
        "list(product_id order by event_id) filter (event_type = 'cart_add') as cart "
        "from events group by 1, 2), "
        "orders as (select order_id, customer_id, ordered_at, "
        "list(product_id order by line_number) as bought from order_lines "
        "where channel <> 'store' and quantity > 0 group by all) "
        "select count(distinct order_id), "
        "count(distinct order_id) filter (checked and cart = bought) "
        "from orders left join carts on carts.customer_id = orders.customer_id "
        "and ended_at = ordered_at"
    ).fetchall()[0]
    assert orders == found > 1_000


def test_a_session_is_one_customer_s_and_in_the_order_of_its_identifiers(tables):
    wrong = tables.execute(
        "with steps as (select session_id, customer_id, occurred_at, "
        "lag(occurred_at) over one as before, lag(customer_id) over one as who from events "
        "window one as (partition by session_id order by event_id)) "
        "select count(*) filter (occurred_at < before or customer_id <> who), "
        "max(occurred_at - before) < interval 3 minutes from steps"
    ).fetchall()[0]
    assert wrong == (0, True)


def test_a_product_is_viewed_before_it_is_wished_for_carted_or_taken_out(tables):
    assert tables.execute(
        "with steps as (select event_type, product_id, "
        "lag(product_id) over (partition by session_id order by event_id) as before from events) "
        "select count(*) from steps where event_type in ('wishlist', 'cart_add', 'cart_remove') "
        "and product_id is distinct from before"
    ).fetchall() == [(0,)]


def test_products_are_named_where_there_is_one(tables):
    without = tables.execute(
        "select list(distinct event_type order by event_type) from events where product_id is null"
    ).fetchall()[0][0]
    assert without == ["checkout", "login", "search", "support"]
    assert tables.execute(
        f"select count(product_id) from events where event_type in {tuple(without)}"
    ).fetchall() == [(0,)]


def test_store_orders_leave_no_trace_online(tables):
    stores, seen = tables.execute(
        "with stores as (select distinct customer_id, ordered_at from order_lines "
        "where channel = 'store' and quantity > 0) "
        "select count(*), count(*) filter (exists (select 1 from events "
        "where events.customer_id = stores.customer_id and occurred_at = ordered_at)) from stores"
    ).fetchall()[0]
    assert stores > 1_000
    assert seen < 0.002 * stores


def test_who_leaves_asks_for_support_before_more_often_than_who_stays(tables):
    asked = dict(
        tables.execute(
            "select dropped_out_at < '2026-01-01', count(distinct events.customer_id) "
            "/ count(distinct truth.customer_id) from truth left join events "
            "on events.customer_id = truth.customer_id and event_type = 'support' group by 1"
        ).fetchall()
    )
    assert asked[True] > 3 * asked[False] > 0
