-- Netting moves amounts inside a day of a customer and loses none.
with

landed as (

    select
        customer_id,
        order_date,
        known_on,
        sum(line_amount) as amount
    from {{ ref('stg_order_lines') }}
    where {{ touched_days('ordered_at', ['order_lines']) }}
    group by customer_id, order_date, known_on

),

netted as (

    select
        customer_id,
        order_date,
        known_on,
        net_spend as amount
    from {{ ref('int_customer_days') }}
    where {{ touched_days('order_date', ['order_lines']) }}

)

select
    landed.customer_id,
    landed.order_date,
    landed.known_on,
    landed.amount as landed_amount,
    netted.amount as netted_amount
from landed
full outer join netted
    on
        landed.customer_id = netted.customer_id
        and landed.order_date = netted.order_date
        and landed.known_on = netted.known_on
where coalesce(landed.amount, 0) <> coalesce(netted.amount, 0)
