with

order_lines as (

    select
        order_id,
        customer_id,
        ordered_at,
        order_date,
        known_on,
        channel,
        is_return,
        units,
        gross_amount,
        discount_amount,
        line_amount
    from {{ ref('int_order_lines_netted') }}

),

-- The day is part of the key: a line that reaches an order after midnight must
-- not change what was known the day before; nor must one delivered late.
orders as (

    select
        customer_id,
        order_id,
        order_date,
        known_on,
        is_return,
        min(ordered_at) as ordered_at,
        min(channel) as channel,
        cast(sum(line_amount) as numeric(38, 12)) as order_total,
        cast(sum(gross_amount) as numeric(38, 12)) as gross_amount,
        cast(sum(discount_amount) as numeric(38, 12)) as discount_amount,
        cast(sum(units) as numeric(18, 6)) as units,
        cast(sum(case when units <> 0 then 1 else 0 end) as integer) as lines
    from order_lines
    group by customer_id, order_id, order_date, known_on, is_return

),

-- The parts of one order of a day that came later make no second order.
later_parts as (

    select distinct
        later.customer_id,
        later.order_id,
        later.order_date,
        later.known_on
    from orders as later
    inner join orders as earlier
        on
            later.customer_id = earlier.customer_id
            and later.order_id = earlier.order_id
            and later.order_date = earlier.order_date
            and later.known_on > earlier.known_on
    where
        later.known_on > {{ plus_days('later.order_date', 1) }}
        and not earlier.is_return
        and earlier.order_total > 0
        and earlier.units > 0

),

counted as (

    select
        orders.customer_id,
        orders.order_id,
        orders.order_date,
        orders.known_on,
        orders.is_return,
        not orders.is_return
        and orders.order_total > 0
        and orders.units > 0
        and later_parts.order_id is null as is_order,
        orders.ordered_at,
        orders.channel,
        orders.order_total,
        orders.gross_amount,
        orders.discount_amount,
        orders.units,
        orders.lines
    from orders
    left join later_parts
        on
            orders.customer_id = later_parts.customer_id
            and orders.order_id = later_parts.order_id
            and orders.order_date = later_parts.order_date
            and orders.known_on = later_parts.known_on

)

select * from counted
