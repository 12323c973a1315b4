{{ config(meta={'replaces': {
    'customers': 'customer_id',
    'tables': ['order_lines'],
}}) }}

with

customer_product_days as (

    select
        customer_id,
        product_id,
        known_on,
        units,
        gross_amount
    from {{ ref('int_customer_product_days') }}
    where {{ touched_customers('customer_id', ['order_lines']) }}

),

products as (

    select
        product_id,
        category_code
    from {{ ref('stg_products') }}
    where category is not null

),

days as (

    select
        customer_product_days.customer_id,
        products.category_code,
        customer_product_days.known_on,
        count(*) as product_days,
        sum(customer_product_days.units) as units,
        sum(customer_product_days.gross_amount) as gross_amount
    from customer_product_days
    inner join products
        on customer_product_days.product_id = products.product_id
    group by
        customer_product_days.customer_id,
        products.category_code,
        customer_product_days.known_on

),

running as (

    select
        customer_id,
        category_code,
        known_on as known_from,
        lead(known_on) over step_by_step as known_until,
        sum(product_days) over so_far as product_days,
        sum(units) over so_far as units,
        sum(gross_amount) over so_far as gross_amount
    from days
    window
        step_by_step as (
            partition by customer_id, category_code order by known_on
        ),
        so_far as (
            partition by customer_id, category_code
            order by known_on
            rows between unbounded preceding and current row
        )

),

customer_categories as (

    select
        customer_id,
        category_code,
        known_from,
        known_until,
        cast(product_days as integer) as product_days,
        cast(units as numeric(18, 6)) as units,
        cast(gross_amount as numeric(38, 12)) as gross_amount
    from running

)

select * from customer_categories
