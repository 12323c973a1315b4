{{ config(meta={'replaces': {
    'days': 'order_date',
    'tables': ['order_lines'],
}}) }}

with

customer_product_days as (

    select
        product_id,
        order_date,
        known_on,
        units,
        gross_amount
    from {{ ref('int_customer_product_days') }}
    where {{ touched_days('order_date', ['order_lines']) }}

),

product_days as (

    select
        product_id,
        order_date,
        known_on,
        sum(units) as units,
        sum(gross_amount) as gross_amount
    from customer_product_days
    group by product_id, order_date, known_on

),

products as (

    select
        product_id,
        category,
        category_code
    from {{ ref('stg_products') }}
    where category is not null

),

category_days as (

    select
        products.category,
        products.category_code,
        product_days.order_date,
        product_days.known_on,
        cast(sum(product_days.units) as numeric(38, 6)) as units,
        cast(sum(product_days.gross_amount) as numeric(38, 12))
            as gross_amount
    from product_days
    inner join products on product_days.product_id = products.product_id
    group by
        products.category,
        products.category_code,
        product_days.order_date,
        product_days.known_on

)

select * from category_days
