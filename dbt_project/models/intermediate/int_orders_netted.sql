with

order_lines as (

    select
        order_id,
        customer_id,
        ordered_at,
        order_date,
        is_return,
        units,
        gross_amount,
        discount_amount,
        line_amount
    from {{ ref('int_order_lines_netted') }}

),

-- The day is part of the key: a line that reaches an order after midnight must
-- not change what was known the day before.
orders as (

    select
        customer_id,
        order_id,
        order_date,
        is_return,
        min(ordered_at) as ordered_at,
        cast(sum(line_amount) as numeric(28, 9)) as order_total,
        cast(sum(gross_amount) as numeric(28, 9)) as gross_amount,
        cast(sum(discount_amount) as numeric(28, 9)) as discount_amount,
        cast(sum(units) as numeric(18, 3)) as units,
        cast(count(*) as integer) as lines
    from order_lines
    group by customer_id, order_id, order_date, is_return

)

select * from orders
