-- Netting moves amounts inside a day of a customer and loses none.
with

landed as (

    select
        customer_id,
        order_date,
        sum(line_amount) as amount
    from {{ ref('stg_order_lines') }}
    group by customer_id, order_date

),

netted as (

    select
        customer_id,
        order_date,
        sum(order_total) as amount
    from {{ ref('int_orders_netted') }}
    group by customer_id, order_date

)

select
    landed.customer_id,
    landed.order_date,
    landed.amount as landed_amount,
    netted.amount as netted_amount
from landed
full outer join netted
    on
        landed.customer_id = netted.customer_id
        and landed.order_date = netted.order_date
where coalesce(landed.amount, 0) <> coalesce(netted.amount, 0)
