"""Gate of what was landed: does it look like the orders of a living shop?"""

import great_expectations as gx

from expectations.tables import Columns, Scope, Table, at_least, at_most, has_rows


def order_lines(_: Columns = ()) -> gx.ExpectationSuite:
    """Lines before the as-of day; all lines when no day is given.

    Nothing here is about a shop's size, prices or basket, which differ by orders of magnitude
    between shops: each bound compares the shop with itself. So a history that is wrong from its
    first day on (all of it in cents) cannot be seen here.
    """
    return gx.ExpectationSuite(
        name="order_lines",
        expectations=[
            has_rows("No order was loaded before this day."),
            # A shop may close for more than two weeks at Christmas. After a month without orders
            # every 30-day feature is 0 for everybody, and the tiers would be an accident.
            at_most("days_since_newest_order", 21, "warning", "Is the newest file loaded?"),
            at_most(
                "days_since_newest_order",
                31,
                "critical",
                "Load the newest orders, or use an earlier as-of day.",
            ),
            # Every second week of two real shops' histories: never below 0.44 (a gift shop after
            # Christmas), and the thinnest stretch of any year 0.37.
            at_least(
                "newest_28_days_to_usual",
                0.3,
                "warning",
                "Few lines in the last 28 days: was the newest file loaded whole?",
            ),
            at_least(
                "newest_28_days_to_usual",
                0.05,
                "critical",
                "Hardly any line in the last 28 days: the newest file is missing.",
            ),
            at_least(
                "thinnest_28_days_to_usual",
                0.1,
                "warning",
                "A stretch of the last year is nearly empty: is a file missing?",
            ),
            # Real shops have 1 to 2 %. Between them and a guest account stands the large buyer
            # of a small wholesaler.
            at_most(
                "largest_customer_share",
                0.25,
                "warning",
                "Is it one customer, or an id that stands for guests?",
            ),
            at_most(
                "largest_customer_share",
                0.5,
                "critical",
                "One customer holds most lines: a missing id was given a name.",
            ),
            # Cents for units is a factor of 100 in the typical line; the oddest month of two real
            # shops was 1.3 away.
            at_most(
                "oddest_month_price_factor",
                5,
                "warning",
                "A month's typical line is far from the other months': check its unit.",
            ),
            at_most(
                "oddest_month_price_factor",
                20,
                "critical",
                "A month's amounts are in another unit (cents?) than the rest.",
            ),
            # Returns, gifts and corrections are the smaller part of any shop.
            at_least(
                "paid_line_share",
                0.5,
                "critical",
                "Most lines are worth nothing or less: check sign and price column.",
            ),
            # Either a shop names its products or it does not; the half is a broken join.
            at_most(
                "productless_line_share",
                0.5,
                "warning",
                "Only some lines name their product: check the product column.",
            ),
        ],
    )


def order_lines_facts(scope: Scope, _: Columns) -> str:
    """Lines are counted in stretches of 28 days back from the as-of day: months differ in length
    and in the week days that they hold. Prices are compared by geometric means per month."""
    newest = "(select cast(max(ordered_at) as date) + 1 from raw.order_lines)"
    end = newest if scope.day is None else scope.date_literal
    return f"""
    with

    order_days as (
        select
            cast(ordered_at as date) as order_date,
            count(*) as lines,
            count(product_id) as lines_with_product,
            count(*) filter (where amount > 0) as paid_lines,
            sum(ln(cast(amount as double precision))) filter (where amount > 0) as log_amount
        from raw.order_lines
        cross join lateral (
            select quantity * unit_price - coalesce(discount_amount, 0) as amount
        ) as paid
        where ordered_at < {end}
        group by 1
    ),

    totals as (
        select
            {end} - max(order_date) as days_since_newest_order,
            ({end} - min(order_date)) / 28 as whole_stretches,
            cast(coalesce(sum(lines), 0) as double precision) as lines,
            cast(sum(paid_lines) / sum(lines) as double precision) as paid_line_share,
            cast(1 - sum(lines_with_product) / sum(lines) as double precision)
                as productless_line_share
        from order_days
    ),

    stretches as (
        select
            stretch,
            cast(coalesce(sum(order_days.lines), 0) as double precision) as lines
        from totals
        cross join lateral generate_series(0, least(whole_stretches, 13) - 1) as stretch
        left join order_days on ({end} - order_date - 1) / 28 = stretch
        group by stretch
    ),

    volume as (
        select
            sum(lines) filter (where stretch = 0) as newest,
            min(lines) as thinnest,
            case when count(*) > 3 then
                nullif(percentile_cont(0.5) within group (order by lines), 0)
            end as usual
        from stretches
    ),

    months as (
        select sum(log_amount) / sum(paid_lines) as log_price
        from order_days
        group by date_trunc('month', order_date)
        having sum(paid_lines) >= 30
    ),

    prices as (
        select percentile_cont(0.5) within group (order by log_price) as usual_log_price
        from months
    ),

    largest_customer as (
        select count(*) as lines
        from raw.order_lines
        where ordered_at < {end}
        group by customer_id
        order by lines desc
        limit 1
    ),

    oddest_month as (
        select exp(max(abs(log_price - usual_log_price))) as price_factor
        from months
        cross join prices
    )

    select
        cast(totals.lines as bigint) as row_count,
        days_since_newest_order,
        coalesce(newest / usual, 1) as newest_28_days_to_usual,
        coalesce(thinnest / usual, 1) as thinnest_28_days_to_usual,
        (select lines from largest_customer) / nullif(totals.lines, 0) as largest_customer_share,
        coalesce(price_factor, 1) as oddest_month_price_factor,
        paid_line_share,
        case when productless_line_share < 1 then productless_line_share else 0 end
            as productless_line_share
    from totals
    cross join volume
    cross join oddest_month
    """


TABLES = (
    Table(
        name="order_lines",
        suite=order_lines,
        facts=order_lines_facts,
        needs={"raw.order_lines": "tierhouse load SOURCE PATH"},
    ),
)
