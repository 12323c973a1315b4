{{ config(meta={'replaces': {
    'customers': 'customer_id',
    'tables': ['order_lines'],
}}) }}

with

customer_days as (

    select
        customer_id,
        order_date,
        known_on,
        orders,
        net_spend,
        purchased_amount,
        returned_amount,
        returned_lines,
        gross_amount,
        discount_amount,
        units,
        lines,
        discounted_orders,
        morning_orders,
        afternoon_orders,
        evening_orders,
        order_value_max,
        order_value_first,
        order_value_last,
        first_order_hour,
        first_order_channel,
        case when orders > 0 then order_date end as purchase_date
    from {{ ref('int_customer_days') }}
    where {{ touched_customers('customer_id', ['order_lines']) }}

),

product_days as (

    select
        customer_id,
        product_id,
        order_date,
        known_on
    from {{ ref('int_customer_product_days') }}
    where {{ touched_customers('customer_id', ['order_lines']) }}

),

products as (

    select
        customer_id,
        order_date,
        known_on,
        count(*) as products
    from product_days
    group by customer_id, order_date, known_on

),

-- A product is new on the first of its days that became known; the two dates
-- as one number, because a window over every line costs twice as much.
first_days as (

    select
        customer_id,
        product_id,
        min(
            {{ days_between(epoch(), 'known_on') }}
            * cast(1000000 as bigint)
            + {{ days_between(epoch(), 'order_date') }}
        ) as first_day
    from product_days
    group by customer_id, product_id

),

new_products as (

    select
        customer_id,
        first_day,
        count(*) as new_products
    from first_days
    group by customer_id, first_day

),

-- The newest order day before the row, as it was known then. A day that comes
-- late and is older makes no gap of its own.
preceded as (

    select
        customer_days.*,
        coalesce(products.products, 0) as products,
        coalesce(new_products.new_products, 0) as new_products,
        max(customer_days.purchase_date) over (
            partition by customer_days.customer_id
            order by customer_days.known_on, customer_days.order_date
            rows between unbounded preceding and 1 preceding
        ) as previous_order_date
    from customer_days
    left join products
        on
            customer_days.customer_id = products.customer_id
            and customer_days.order_date = products.order_date
            and customer_days.known_on = products.known_on
    left join new_products
        on
            customer_days.customer_id = new_products.customer_id
            and new_products.first_day
            = {{ days_between(epoch(), 'customer_days.known_on') }}
            * cast(1000000 as bigint)
            + {{ days_between(epoch(), 'customer_days.order_date') }}

),

marked as (

    select
        *,
        purchase_date is not null and previous_order_date is null
            as is_first_order_day,
        purchase_date is not null
        and coalesce(purchase_date > previous_order_date, true)
            as is_newest_order_day,
        case
            when purchase_date > previous_order_date
                then {{ days_between('previous_order_date', 'purchase_date') }}
        end as order_gap_days
    from preceded

),

ordered as (

    select
        customer_id,
        order_date,
        known_on,
        orders,
        net_spend,
        purchased_amount,
        returned_amount,
        returned_lines,
        gross_amount,
        discount_amount,
        units,
        lines,
        discounted_orders,
        morning_orders,
        afternoon_orders,
        evening_orders,
        order_value_max,
        order_value_first,
        order_value_last,
        first_order_hour,
        first_order_channel,
        cast(products as integer) as products,
        cast(new_products as integer) as new_products,
        is_first_order_day,
        is_newest_order_day,
        case
            when is_newest_order_day
                then lead(known_on) over (
                    partition by customer_id, is_newest_order_day
                    order by known_on, order_date
                )
        end as newest_until,
        order_gap_days
    from marked

)

select * from ordered
