{{ config(meta={'replaces': {
    'days': 'order_date',
    'tables': ['order_lines'],
}}) }}

with

order_lines as (

    select
        customer_id,
        product_id,
        order_date,
        known_on,
        units,
        gross_amount
    from {{ ref('int_order_lines_netted') }}
    where product_id is not null and units > 0

),

customer_product_days as (

    select
        customer_id,
        product_id,
        order_date,
        known_on,
        cast(sum(units) as numeric(18, 6)) as units,
        cast(sum(gross_amount) as numeric(38, 12)) as gross_amount
    from order_lines
    group by customer_id, product_id, order_date, known_on

)

select * from customer_product_days
