with

customer_days as (

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
        order_gap_days
    from {{ ref('int_customer_days') }}

),

customer_products as (

    select
        customer_id,
        category,
        first_ordered_on
    from {{ ref('int_customer_products') }}

),

new_products as (

    select
        customer_id,
        first_ordered_on,
        count(*) as products
    from customer_products
    group by customer_id, first_ordered_on

),

customer_categories as (

    select
        customer_id,
        category,
        min(first_ordered_on) as first_ordered_on
    from {{ ref('int_customer_products') }}
    where category is not null
    group by customer_id, category

),

new_categories as (

    select
        customer_id,
        first_ordered_on,
        count(*) as categories
    from customer_categories
    group by customer_id, first_ordered_on

),

shop as (

    select count(category) > 0 as has_categories
    from {{ ref('stg_products') }}

),

widened as (

    select
        customer_days.customer_id,
        customer_days.order_date,
        customer_days.orders,
        customer_days.net_spend,
        customer_days.purchased_amount,
        customer_days.returned_amount,
        customer_days.gross_amount,
        customer_days.discount_amount,
        customer_days.units,
        customer_days.lines,
        customer_days.order_value_max,
        customer_days.order_value_last,
        customer_days.order_gap_days,
        coalesce(new_products.products, 0) as products,
        case
            when shop.has_categories then coalesce(new_categories.categories, 0)
        end as categories,
        case
            when customer_days.orders > 0 then customer_days.order_date
        end as purchase_date
    from customer_days
    cross join shop
    left join new_products
        on
            customer_days.customer_id = new_products.customer_id
            and customer_days.order_date = new_products.first_ordered_on
    left join new_categories
        on
            customer_days.customer_id = new_categories.customer_id
            and customer_days.order_date = new_categories.first_ordered_on

),

running as (

    select
        customer_id,
        order_date as known_after,
        order_value_last,
        order_gap_days,
        lead(order_date) over day_by_day as known_until,
        min(purchase_date) over so_far as first_order_date,
        max(purchase_date) over so_far as last_order_date,
        count(purchase_date) over so_far as order_days,
        sum(orders) over so_far as orders,
        sum(net_spend) over so_far as net_spend,
        sum(purchased_amount) over so_far as purchased_amount,
        sum(returned_amount) over so_far as returned_amount,
        sum(gross_amount) over so_far as gross_amount,
        sum(discount_amount) over so_far as discount_amount,
        sum(units) over so_far as units,
        sum(lines) over so_far as lines,
        sum(products) over so_far as products,
        sum(categories) over so_far as categories,
        max(order_value_max) over so_far as order_value_max,
        avg(order_gap_days) over so_far as order_gap_mean_days,
        stddev_samp(order_gap_days) over so_far as order_gap_stddev_days
    from widened
    window
        day_by_day as (partition by customer_id order by order_date),
        so_far as (
            partition by customer_id
            order by order_date
            rows between unbounded preceding and current row
        )

),

-- A day with only returns keeps the last order of the days before it: between
-- two days with an order the count of order days stands still.
accumulated as (

    select
        customer_id,
        known_after,
        known_until,
        first_order_date,
        last_order_date,
        cast(orders as integer) as orders,
        cast(net_spend as numeric(28, 9)) as net_spend,
        cast(purchased_amount as numeric(28, 9)) as purchased_amount,
        cast(returned_amount as numeric(28, 9)) as returned_amount,
        cast(gross_amount as numeric(28, 9)) as gross_amount,
        cast(discount_amount as numeric(28, 9)) as discount_amount,
        cast(units as numeric(18, 3)) as units,
        cast(lines as integer) as lines,
        cast(products as integer) as products,
        cast(categories as integer) as categories,
        cast(order_value_max as numeric(28, 9)) as order_value_max,
        cast(
            max(order_value_last) over since_last_order as numeric(28, 9)
        ) as order_value_last,
        max(order_gap_days) over since_last_order as order_gap_last_days,
        cast(order_gap_mean_days as double precision) as order_gap_mean_days,
        cast(order_gap_stddev_days as double precision)
            as order_gap_stddev_days
    from running
    window since_last_order as (partition by customer_id, order_days)

)

select * from accumulated
