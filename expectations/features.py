"""Gate of what the models learn from: does the day follow from the day before it?"""

import great_expectations as gx

from expectations.tables import Columns, Scope, Table, at_least, at_most, has_rows, more_than

KEYS = ("customer_id", "as_of_date")


def customer_features(columns: Columns = ()) -> gx.ExpectationSuite:
    """One day's customers, against the nearest earlier day that is built."""
    return gx.ExpectationSuite(
        name="customer_features",
        expectations=[
            has_rows("No customer ordered before this day, or the day was not built."),
            # Who has ordered once stays a customer; only erasures and late cancellations take
            # some away.
            at_least(
                "customers_to_day_before",
                0.9,
                "critical",
                "Customers vanished since the day before: the day was built half.",
            ),
            more_than(
                "total_spend", 0, "critical", "The shop never earned anything: check the amounts."
            ),
            # An average over the whole history moves slowly; cents for units is a factor of 100.
            at_least(
                "order_value_to_day_before",
                0.2,
                "critical",
                "The average order changed its size: check the unit of the new amounts.",
            ),
            at_most(
                "order_value_to_day_before",
                5,
                "critical",
                "The average order changed its size: check the unit of the new amounts.",
            ),
            # Real shops have less than 4 %; a wholesaler may live off one buyer, and should know.
            at_most(
                "largest_customer_share", 0.5, "warning", "One customer holds most of all spend."
            ),
            at_least(
                "distinct_recency_days",
                2,
                "critical",
                "Everybody bought last on the same day: the order times are wrong.",
            ),
            # A grocer's customer of ten years has 600; beyond that lines were taken for orders.
            at_least("mean_frequency_orders", 0.5, "warning", "Are orders counted, or lines?"),
            at_most("mean_frequency_orders", 1000, "warning", "Are orders counted, or lines?"),
            # Seasons empty windows ("spend in 30 days" after the holidays), so that a tenth must
            # be left and no more.
            *(
                at_least(
                    f"{column}_filled",
                    0.1,
                    "critical",
                    "Share of customers with a value, against the day before: a join or a "
                    "source has broken.",
                )
                for column in columns
                if column not in KEYS
            ),
        ],
    )


def customer_features_facts(scope: Scope, columns: Columns) -> str:
    """`<column>_filled` is 1 where there is nothing to compare with: on the first day, and in a
    column that fewer than one customer in ten had a value in (a small shop has some with one)."""
    measured = [column for column in columns if column not in KEYS]
    shares = "".join(
        f',\ncast(count("{column}") as double precision) / nullif(count(*), 0) as "{column}"'
        for column in measured
    )
    filled = "".join(
        f',\ncase when day_before."{column}" >= 0.1 then today."{column}" / day_before."{column}" '
        f'else 1 end as "{column}_filled"'
        for column in measured
    )
    population = f"""
        select
            count(*) as _customers,
            cast(sum(monetary_total) as double precision) as _spend,
            cast(sum(monetary_total) as double precision)
                / nullif(sum(frequency_orders), 0) as _order_value,
            cast(max(monetary_total) as double precision)
                / nullif(sum(monetary_total), 0) as _largest_share,
            count(distinct recency_days) as _recency_days,
            cast(avg(frequency_orders) as double precision) as _orders{shares}
        from features.customer_features
        where as_of_date ="""
    return f"""
    with

    today as (
        {population} {scope.date_literal}
    ),

    day_before as (
        {population} (
            select max(as_of_date)
            from features.customer_features
            where as_of_date < {scope.date_literal}
        )
    )

    select
        today._customers as row_count,
        coalesce(cast(today._customers as double precision) / nullif(day_before._customers, 0), 1)
            as customers_to_day_before,
        today._spend as total_spend,
        coalesce(today._order_value / nullif(day_before._order_value, 0), 1)
            as order_value_to_day_before,
        coalesce(today._largest_share, 0) as largest_customer_share,
        today._recency_days as distinct_recency_days,
        today._orders as mean_frequency_orders{filled}
    from today
    cross join day_before
    """


def customer_labels(_: Columns = ()) -> gx.ExpectationSuite:
    """What came after the day. Optional: while its windows are open a day has no labels."""
    return gx.ExpectationSuite(
        name="customer_labels",
        expectations=[
            has_rows("The day has no labels."),
            # Who buys nothing later is the lesson: left out, every model overshoots.
            at_most(
                "customers_without_label",
                0,
                "critical",
                "Customers of the day have no label: rebuild the day.",
            ),
            # A shop that is closed for all of a 30-day window is no fault, but teaches nothing.
            more_than(
                "smallest_buyer_share",
                0,
                "warning",
                "In some window nobody bought: are the later orders loaded?",
            ),
            at_least("smallest_spend", 0, "warning", "Some window holds more returns than sales."),
        ],
    )


def customer_labels_facts(scope: Scope, _: Columns) -> str:
    """The worst horizon speaks for all."""
    return f"""
    with

    customers as (
        select customer_id
        from features.customer_features
        where as_of_date = {scope.date_literal}
    ),

    horizons as (
        select
            horizon_days,
            count(*) as labels,
            count(customers.customer_id) as labels_of_customers,
            cast(avg(cast(is_purchased as integer)) as double precision) as buyer_share,
            cast(sum(spend) as double precision) as spend
        from features.customer_labels
        left join customers using (customer_id)
        where as_of_date = {scope.date_literal}
        group by horizon_days
    )

    select
        cast(coalesce(sum(labels), 0) as bigint) as row_count,
        (select count(*) from customers) - min(labels_of_customers) as customers_without_label,
        min(buyer_share) as smallest_buyer_share,
        min(spend) as smallest_spend
    from horizons
    """


BUILD = "tierhouse build --as-of DAY"

TABLES = (
    Table(
        name="customer_features",
        suite=customer_features,
        facts=customer_features_facts,
        needs={"features.customer_features": BUILD},
    ),
    Table(
        name="customer_labels",
        suite=customer_labels,
        facts=customer_labels_facts,
        needs={"features.customer_labels": BUILD, "features.customer_features": BUILD},
        is_optional=True,
    ),
)
