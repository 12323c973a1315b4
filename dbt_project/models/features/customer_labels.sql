with

as_of_days as (

    {{ as_of_days() }}

),

horizons as (

    {{ label_horizons() }}

),

customers as (

    select
        customer_id,
        as_of_date
    from {{ ref('feat_customer_rfm') }}
    where as_of_date in ({{ as_of_date_literals() }})

),

customer_days as (

    select
        customer_id,
        order_date,
        orders,
        net_spend,
        units
    from {{ ref('int_customer_days') }}

),

shop as (

    select max(order_date) as newest_order_date
    from {{ ref('stg_order_lines') }}

),

-- The newest day may be half loaded, so a window is closed when it ends before.
closed_windows as (

    select
        as_of_days.as_of_date,
        horizons.horizon_days
    from as_of_days
    cross join horizons
    cross join shop
    where
        {{ days_between('as_of_days.as_of_date', 'shop.newest_order_date') }}
        >= horizons.horizon_days

),

came_after as (

    select
        customer_days.customer_id,
        closed_windows.as_of_date,
        closed_windows.horizon_days,
        sum(customer_days.net_spend) as spend,
        sum(customer_days.orders) as orders,
        sum(customer_days.units) as units
    from customer_days
    inner join closed_windows
        on
            customer_days.order_date >= closed_windows.as_of_date
            and {{ days_between(
                'closed_windows.as_of_date', 'customer_days.order_date'
            ) }} < closed_windows.horizon_days
    group by
        customer_days.customer_id,
        closed_windows.as_of_date,
        closed_windows.horizon_days

),

outcomes as (

    select
        customers.customer_id,
        customers.as_of_date,
        closed_windows.horizon_days,
        cast(coalesce(came_after.spend, 0) as numeric(14, 2)) as spend,
        cast(coalesce(came_after.orders, 0) as integer) as orders,
        cast(coalesce(came_after.units, 0) as double precision) as units
    from customers
    inner join closed_windows
        on customers.as_of_date = closed_windows.as_of_date
    left join came_after
        on
            customers.customer_id = came_after.customer_id
            and closed_windows.as_of_date = came_after.as_of_date
            and closed_windows.horizon_days = came_after.horizon_days

),

ranked as (

    select
        customer_id,
        as_of_date,
        horizon_days,
        spend,
        orders,
        units,
        rank() over (
            partition by as_of_date, horizon_days
            order by spend desc
        ) as spend_rank,
        count(*) over (partition by as_of_date, horizon_days) as customers
    from outcomes

),

customer_labels as (

    select
        customer_id,
        as_of_date,
        horizon_days,
        spend,
        orders,
        units,
        orders > 0 as is_purchased,
        orders = 0 as is_churned,
        spend > 0 and (spend_rank - 1) * 10 < customers as is_high_value
    from ranked

)

select * from customer_labels
