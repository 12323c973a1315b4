with

orders as (

    select
        customer_id,
        order_date,
        ordered_at,
        order_id,
        is_return,
        order_total,
        gross_amount,
        discount_amount,
        units,
        lines,
        not is_return and order_total > 0 as is_order
    from {{ ref('int_orders_netted') }}

),

ranked as (

    select
        customer_id,
        order_date,
        is_return,
        is_order,
        order_total,
        gross_amount,
        discount_amount,
        units,
        lines,
        row_number() over (
            partition by customer_id, order_date, is_order
            order by ordered_at desc, order_id desc
        ) as place_from_last
    from orders

),

days as (

    select
        customer_id,
        order_date,
        cast(sum(case when is_order then 1 else 0 end) as integer) as orders,
        sum(order_total) as net_spend,
        sum(case when is_return then 0 else order_total end)
            as purchased_amount,
        sum(case when is_return then -order_total else 0 end)
            as returned_amount,
        sum(case when is_return then 0 else gross_amount end) as gross_amount,
        sum(case when is_return then 0 else discount_amount end)
            as discount_amount,
        sum(case when is_return then 0 else units end) as units,
        cast(sum(case when is_return then 0 else lines end) as integer)
            as lines,
        max(case when is_order then order_total end) as order_value_max,
        max(case when is_order and place_from_last = 1 then order_total end)
            as order_value_last
    from ranked
    group by customer_id, order_date

),

with_previous as (

    select
        customer_id,
        order_date,
        orders,
        net_spend,
        purchased_amount,
        returned_amount,
        gross_amount,
        discount_amount,
        units,
        lines,
        order_value_max,
        order_value_last,
        max(case when orders > 0 then order_date end) over (
            partition by customer_id
            order by order_date
            rows between unbounded preceding and 1 preceding
        ) as previous_order_date
    from days

),

customer_days as (

    select
        customer_id,
        order_date,
        orders,
        cast(net_spend as numeric(28, 9)) as net_spend,
        cast(purchased_amount as numeric(28, 9)) as purchased_amount,
        cast(returned_amount as numeric(28, 9)) as returned_amount,
        cast(gross_amount as numeric(28, 9)) as gross_amount,
        cast(discount_amount as numeric(28, 9)) as discount_amount,
        cast(units as numeric(18, 3)) as units,
        lines,
        cast(order_value_max as numeric(28, 9)) as order_value_max,
        cast(order_value_last as numeric(28, 9)) as order_value_last,
        previous_order_date,
        case
            when orders > 0
                then {{ days_between('previous_order_date', 'order_date') }}
        end as order_gap_days
    from with_previous

)

select * from customer_days
