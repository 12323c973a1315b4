"""Gate of what the models are taught: is what came after the day all there, and only that?"""

import great_expectations as gx

from expectations.tables import Columns, Scope, Table, at_least, at_most, has_rows, more_than

# As in dbt_project.yml.
HORIZONS = (7, 14, 30, 90, 180, 365)
# The high-value customers are the first tenth by spend, ties included; fewer customers than
# this, or fewer than a tenth with any spend, say nothing about the share.
MIN_CUSTOMERS = 20


def customer_labels(_: Columns = ()) -> gx.ExpectationSuite:
    """What came after the day. Optional: while its windows are open a day has no labels."""
    return gx.ExpectationSuite(
        name="customer_labels",
        expectations=[
            has_rows("The day has no labels."),
            at_most(
                "missing_horizons",
                0,
                "critical",
                "A window is closed and has no labels: rebuild the day.",
            ),
            # Half a window looks like customers who left.
            at_most(
                "open_horizons",
                0,
                "critical",
                "Labels of a window that the orders do not fill yet: rebuild the day.",
            ),
            # Who buys nothing later is the lesson: left out, every model overshoots.
            at_most(
                "customers_without_label",
                0,
                "critical",
                "Customers of the day have no label: rebuild the day.",
            ),
            at_most(
                "labels_without_customer",
                0,
                "critical",
                "Labels of nobody's features that day: rebuild the day.",
            ),
            # A shop that is closed for all of a 30-day window is no fault, but teaches nothing.
            more_than(
                "smallest_buyer_share",
                0,
                "warning",
                "In some window nobody bought: are the later orders loaded?",
            ),
            at_least("smallest_spend", 0, "warning", "Some window holds more returns than sales."),
            at_least(
                "smallest_growth_of_buyers",
                0,
                "critical",
                "A longer window holds fewer buyers than a shorter one: rebuild the day.",
            ),
            at_least(
                "smallest_high_value_share",
                0.05,
                "critical",
                "The tenth that spends most is not marked: rebuild the day.",
            ),
            # One price for all makes ties: then everybody is among the first.
            at_most(
                "largest_high_value_share",
                0.2,
                "warning",
                "Far more than a tenth are among the tenth that spends most.",
            ),
            # A cent per customer: every label is rounded.
            at_most(
                "spend_missing_from_raw",
                0,
                "critical",
                "What the customers spent in a window is not what their order lines sum to, by so "
                "much in the reporting currency: rebuild the day.",
            ),
        ],
    )


def customer_labels_facts(scope: Scope, _: Columns) -> str:
    """The worst horizon speaks for all. A week may pass without an order, or with returns only;
    buyers and spend are asked of 30 days and more."""
    day = scope.date_literal
    return f"""
    with

    customers as materialized (
        select customer_id
        from features.feat_customer_rfm
        where as_of_date = {day}
    ),

    labelled as (
        select
            horizon_days,
            count(*) as labels,
            count(customers.customer_id) as labels_of_customers,
            count(*) filter (where is_purchased) as buyers,
            cast(count(*) filter (where is_high_value) as double precision) / count(*)
                as high_value_share,
            count(*) >= {MIN_CUSTOMERS} and count(*) filter (where spend > 0) * 10 >= count(*)
                as has_high_value,
            sum(spend) as spend
        from features.customer_labels
        left join customers using (customer_id)
        where as_of_date = {day}
        group by horizon_days
    ),

    paid_days as (
        select
            cast(ordered_at as date) as order_date,
            sum(quantity * unit_price - coalesce(discount_amount, 0)) as spend
        from raw.order_lines
        inner join customers using (customer_id)
        where ordered_at >= {day} and ordered_at < {day} + (
            select max(horizon_days) from features.customer_labels where as_of_date = {day}
        )
        group by 1
    ),

    shop as (
        select cast(max(ordered_at) as date) - {day} as known_days
        from raw.order_lines
    ),

    closed as (
        select horizon_days
        from unnest(array{list(HORIZONS)}) as horizon_days
        cross join shop
        where horizon_days <= known_days
    ),

    horizons as (
        select
            horizon_days,
            horizon_days > known_days as is_open,
            labels,
            labels_of_customers,
            cast(buyers as double precision) / labels as buyer_share,
            buyers - lag(buyers) over (order by horizon_days) as growth_of_buyers,
            case when has_high_value then high_value_share end as high_value_share,
            spend,
            (
                select coalesce(sum(paid_days.spend), 0)
                from paid_days
                where order_date < {day} + horizon_days
            ) as raw_spend
        from labelled
        full join closed using (horizon_days)
        cross join shop
    )

    select
        cast(coalesce(sum(labels), 0) as bigint) as row_count,
        count(*) filter (where labels is null) as missing_horizons,
        count(*) filter (where is_open) as open_horizons,
        (select count(*) from customers) - min(labels_of_customers) as customers_without_label,
        max(labels - labels_of_customers) as labels_without_customer,
        coalesce(min(buyer_share) filter (where horizon_days >= 30), 1) as smallest_buyer_share,
        coalesce(cast(min(spend) filter (where horizon_days >= 30) as double precision), 0)
            as smallest_spend,
        coalesce(min(growth_of_buyers), 0) as smallest_growth_of_buyers,
        coalesce(min(high_value_share), 0.1) as smallest_high_value_share,
        coalesce(max(high_value_share), 0.1) as largest_high_value_share,
        cast(
            greatest(0, max(abs(spend - raw_spend) - 0.01 * labels)) as double precision
        ) as spend_missing_from_raw
    from horizons
    """


BUILD = "tierhouse build --as-of DAY"

TABLES = (
    Table(
        name="customer_labels",
        suite=customer_labels,
        facts=customer_labels_facts,
        needs={
            "features.customer_labels": BUILD,
            "features.feat_customer_rfm": BUILD,
            "raw.order_lines": "tierhouse load SOURCE PATH",
        },
        is_optional=True,
    ),
)
