with

as_of_days as (

    {{ as_of_days() }}

),

accumulated as (

    select
        customer_id,
        known_after,
        known_until,
        last_order_date,
        orders,
        purchased_amount,
        returned_amount,
        gross_amount,
        discount_amount,
        units,
        lines,
        products,
        categories,
        order_value_max,
        order_value_last,
        order_gap_mean_days,
        order_gap_stddev_days,
        order_gap_last_days
    from {{ ref('int_customer_days_accumulated') }}
    where orders > 0

),

customer_days as (

    select
        customer_id,
        order_date,
        orders,
        net_spend,
        returned_amount
    from {{ ref('int_customer_days') }}

),

shop as (

    select min(order_date) as first_order_date
    from {{ ref('int_customer_days') }}
    where orders > 0

),

-- What was known of a customer at the start of the day.
known as (

    select
        accumulated.customer_id,
        as_of_days.as_of_date,
        accumulated.orders,
        accumulated.purchased_amount,
        accumulated.returned_amount,
        accumulated.gross_amount,
        accumulated.discount_amount,
        accumulated.units,
        accumulated.lines,
        accumulated.products,
        accumulated.categories,
        accumulated.order_value_max,
        accumulated.order_value_last,
        accumulated.order_gap_mean_days,
        accumulated.order_gap_stddev_days,
        accumulated.order_gap_last_days,
        {{ days_between(
            'accumulated.last_order_date', 'as_of_days.as_of_date'
        ) }} as recency_days,
        least(
            730,
            {{ days_between(
                'shop.first_order_date', 'as_of_days.as_of_date'
            ) }}
        ) as history_days
    from accumulated
    inner join as_of_days
        on
            accumulated.known_after < as_of_days.as_of_date
            and (
                accumulated.known_until >= as_of_days.as_of_date
                or accumulated.known_until is null
            )
    cross join shop

),

past_days as (

    select
        customer_days.customer_id,
        as_of_days.as_of_date,
        {{ days_between('customer_days.order_date', 'as_of_days.as_of_date') }}
            as days_ago,
        customer_days.orders,
        customer_days.net_spend,
        customer_days.returned_amount
    from customer_days
    inner join as_of_days
        on
            customer_days.order_date < as_of_days.as_of_date
            and {{ days_between(
                'customer_days.order_date', 'as_of_days.as_of_date'
            ) }} <= 365

),

-- A window of n days holds days_ago 1 to n. The 90 days that begin a year
-- before the as-of day hold days_ago 365 down to 276.
windows as (

    select
        customer_id,
        as_of_date,
        sum(case when days_ago <= 30 then orders else 0 end) as orders_30d,
        sum(case when days_ago <= 90 then orders else 0 end) as orders_90d,
        sum(case when days_ago <= 180 then orders else 0 end) as orders_180d,
        sum(orders) as orders_365d,
        sum(case when days_ago <= 30 then net_spend else 0 end) as spend_30d,
        sum(case when days_ago <= 90 then net_spend else 0 end) as spend_90d,
        sum(case when days_ago <= 180 then net_spend else 0 end) as spend_180d,
        sum(net_spend) as spend_365d,
        sum(returned_amount) as returned_365d,
        sum(case when days_ago > 275 then orders else 0 end)
            as orders_last_year,
        sum(case when days_ago > 275 then net_spend else 0 end)
            as spend_last_year
    from past_days
    group by customer_id, as_of_date

),

feat_customer_behaviour as (

    select
        known.customer_id,
        known.as_of_date,
        known.order_gap_mean_days,
        known.order_gap_stddev_days,
        known.order_gap_last_days,
        known.recency_days / known.order_gap_mean_days as overdue_ratio,
        cast(coalesce(windows.orders_30d, 0) as integer) as orders_30d,
        cast(coalesce(windows.orders_90d, 0) as integer) as orders_90d,
        cast(coalesce(windows.orders_180d, 0) as integer) as orders_180d,
        cast(coalesce(windows.orders_365d, 0) as integer) as orders_365d,
        cast(coalesce(windows.spend_30d, 0) as numeric(14, 2)) as spend_30d,
        cast(coalesce(windows.spend_90d, 0) as numeric(14, 2)) as spend_90d,
        cast(coalesce(windows.spend_180d, 0) as numeric(14, 2)) as spend_180d,
        cast(coalesce(windows.spend_365d, 0) as numeric(14, 2)) as spend_365d,
        cast(coalesce(windows.returned_365d, 0) as numeric(14, 2))
            as returned_365d,
        cast(known.order_value_max as numeric(14, 2)) as order_value_max,
        cast(known.order_value_last as numeric(14, 2)) as order_value_last,
        cast(known.lines as double precision) / known.orders
            as lines_per_order,
        cast(known.units as double precision) / known.orders
            as units_per_order,
        known.products as distinct_products,
        known.categories as distinct_categories,
        cast(known.discount_amount as double precision)
        / cast(nullif(known.gross_amount, 0) as double precision)
            as discount_share,
        cast(known.returned_amount as double precision)
        / cast(nullif(known.purchased_amount, 0) as double precision)
            as return_share,
        cast(
            case
                when known.history_days >= 365
                    then coalesce(windows.spend_last_year, 0)
            end as numeric(14, 2)
        ) as spend_same_window_last_year_90d,
        cast(
            case
                when known.history_days >= 365
                    then coalesce(windows.orders_last_year, 0)
            end as integer
        ) as orders_same_window_last_year_90d,
        known.history_days
    from known
    left join windows
        on
            known.customer_id = windows.customer_id
            and known.as_of_date = windows.as_of_date

)

select * from feat_customer_behaviour
