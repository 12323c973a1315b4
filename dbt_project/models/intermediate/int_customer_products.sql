with

order_lines as (

    select
        customer_id,
        product_id,
        order_date
    from {{ ref('int_order_lines_netted') }}
    where product_id is not null and units > 0

),

products as (

    select
        product_id,
        category
    from {{ ref('stg_products') }}

),

first_orders as (

    select
        customer_id,
        product_id,
        min(order_date) as first_ordered_on
    from order_lines
    group by customer_id, product_id

),

customer_products as (

    select
        first_orders.customer_id,
        first_orders.product_id,
        products.category,
        first_orders.first_ordered_on
    from first_orders
    left join products
        on first_orders.product_id = products.product_id

)

select * from customer_products
