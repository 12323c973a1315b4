{{ config(meta={'replaces': {
    'days': 'order_date',
    'tables': ['order_lines'],
}}) }}

with

orders as (

    select
        customer_id,
        order_date,
        known_on,
        order_id,
        ordered_at,
        channel,
        is_return,
        is_order,
        order_total,
        gross_amount,
        discount_amount,
        units,
        lines,
        cast(extract(hour from ordered_at) as integer) as order_hour
    from {{ ref('int_orders_netted') }}

),

placed as (

    select
        customer_id,
        order_date,
        known_on,
        channel,
        is_return,
        is_order,
        order_total,
        gross_amount,
        discount_amount,
        units,
        lines,
        order_hour,
        row_number() over one_by_one = 1 as is_first,
        lead(order_id) over one_by_one is null as is_last
    from orders
    window
        one_by_one as (
            partition by customer_id, order_date, known_on, is_order
            order by ordered_at, order_id
        )

),

days as (

    select
        customer_id,
        order_date,
        known_on,
        sum(case when is_order then 1 else 0 end) as orders,
        sum(order_total) as net_spend,
        sum(case when is_return then 0 else order_total end)
            as purchased_amount,
        sum(case when is_return then -order_total else 0 end)
            as returned_amount,
        sum(case when is_return then lines else 0 end) as returned_lines,
        sum(case when is_return then 0 else gross_amount end) as gross_amount,
        sum(case when is_return then 0 else discount_amount end)
            as discount_amount,
        sum(case when is_return then 0 else units end) as units,
        sum(case when is_return then 0 else lines end) as lines,
        sum(case when is_order and discount_amount > 0 then 1 else 0 end)
            as discounted_orders,
        sum(
            case
                when is_order and order_hour between 6 and 11 then 1 else 0
            end
        ) as morning_orders,
        sum(
            case
                when is_order and order_hour between 12 and 17 then 1 else 0
            end
        ) as afternoon_orders,
        sum(case when is_order and order_hour >= 18 then 1 else 0 end)
            as evening_orders,
        max(case when is_order then order_total end) as order_value_max,
        max(case when is_order and is_first then order_total end)
            as order_value_first,
        max(case when is_order and is_last then order_total end)
            as order_value_last,
        max(case when is_order and is_first then order_hour end)
            as first_order_hour,
        max(case when is_order and is_first then channel end)
            as first_order_channel
    from placed
    group by customer_id, order_date, known_on

),

customer_days as (

    select
        customer_id,
        order_date,
        known_on,
        cast(orders as integer) as orders,
        cast(net_spend as numeric(38, 12)) as net_spend,
        cast(purchased_amount as numeric(38, 12)) as purchased_amount,
        cast(returned_amount as numeric(38, 12)) as returned_amount,
        cast(returned_lines as integer) as returned_lines,
        cast(gross_amount as numeric(38, 12)) as gross_amount,
        cast(discount_amount as numeric(38, 12)) as discount_amount,
        cast(units as numeric(18, 6)) as units,
        cast(lines as integer) as lines,
        cast(discounted_orders as integer) as discounted_orders,
        cast(morning_orders as integer) as morning_orders,
        cast(afternoon_orders as integer) as afternoon_orders,
        cast(evening_orders as integer) as evening_orders,
        cast(order_value_max as numeric(38, 12)) as order_value_max,
        cast(order_value_first as numeric(38, 12)) as order_value_first,
        cast(order_value_last as numeric(38, 12)) as order_value_last,
        cast(first_order_hour as integer) as first_order_hour,
        first_order_channel
    from days

)

select * from customer_days
