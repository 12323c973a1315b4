with

order_lines as (

    select
        order_id,
        line_number,
        customer_id,
        ordered_at,
        order_date,
        known_on,
        product_id,
        quantity,
        unit_price,
        discount_amount,
        channel
    from {{ ref('stg_order_lines') }}
    where {{ touched_days('ordered_at', ['order_lines']) }}

),

-- Few days and products see a return. Finding these first keeps the windows
-- below off the great majority of the lines. Lines without a product are money
-- (postage, fees): they meet each other only, at the same price.
returned as (

    select
        customer_id,
        order_date,
        known_on,
        coalesce(product_id, '') as product_key,
        unit_price,
        -sum(quantity) as units_returned
    from {{ ref('stg_order_lines') }}
    where
        quantity < 0
        and {{ touched_days('ordered_at', ['order_lines']) }}
    group by
        customer_id,
        order_date,
        known_on,
        coalesce(product_id, ''),
        unit_price

),

-- Purchases and returns of the same customer, product, price and day that
-- became known together.
met as (

    select
        stg_order_lines.order_id,
        stg_order_lines.line_number,
        stg_order_lines.customer_id,
        stg_order_lines.ordered_at,
        stg_order_lines.order_date,
        stg_order_lines.known_on,
        returned.product_key,
        stg_order_lines.unit_price,
        stg_order_lines.quantity,
        stg_order_lines.discount_amount,
        returned.units_returned,
        stg_order_lines.quantity < 0 as is_return
    from {{ ref('stg_order_lines') }} as stg_order_lines
    inner join returned
        on
            stg_order_lines.customer_id = returned.customer_id
            and stg_order_lines.order_date = returned.order_date
            and stg_order_lines.known_on = returned.known_on
            and coalesce(stg_order_lines.product_id, '') = returned.product_key
            and stg_order_lines.unit_price = returned.unit_price
    where
        stg_order_lines.quantity <> 0
        and {{ touched_days('stg_order_lines.ordered_at', ['order_lines']) }}

),

queued as (

    select
        order_id,
        line_number,
        customer_id,
        order_date,
        known_on,
        product_key,
        unit_price,
        quantity,
        discount_amount,
        is_return,
        units_returned,
        sum(case when is_return then 0 else quantity end) over (
            partition by
                customer_id, order_date, known_on, product_key, unit_price
        ) as units_purchased,
        row_number() over (
            partition by
                customer_id, order_date, known_on, product_key, unit_price,
                is_return
            order by ordered_at, order_id, line_number
        ) as place,
        sum(abs(quantity)) over (
            partition by
                customer_id, order_date, known_on, product_key, unit_price,
                is_return
            order by ordered_at, order_id, line_number
            rows between unbounded preceding and current row
        ) - abs(quantity) as units_before
    from met

),

matched as (

    select
        order_id,
        line_number,
        customer_id,
        order_date,
        known_on,
        product_key,
        unit_price,
        quantity,
        discount_amount,
        is_return,
        place,
        greatest(
            0,
            least(
                abs(quantity),
                least(units_purchased, units_returned) - units_before
            )
        ) as units_netted
    from queued

),

-- The discount of the units that were taken back moves with them.
given_back as (

    select
        order_id,
        line_number,
        customer_id,
        order_date,
        known_on,
        product_key,
        unit_price,
        is_return,
        place,
        case
            when is_return then units_netted else -units_netted
        end as units_moved,
        case
            when is_return then 0
            else -{{ divided('discount_amount * units_netted', 'quantity', 6) }}
        end as discount_moved
    from matched

),

moved as (

    select
        order_id,
        line_number,
        units_moved,
        case
            when is_return and place = 1
                then
                    -sum(discount_moved) over (
                        partition by
                            customer_id,
                            order_date,
                            known_on,
                            product_key,
                            unit_price
                    )
            else discount_moved
        end as discount_moved
    from given_back

),

remaining as (

    select
        order_lines.order_id,
        order_lines.line_number,
        order_lines.customer_id,
        order_lines.ordered_at,
        order_lines.order_date,
        order_lines.known_on,
        order_lines.product_id,
        order_lines.channel,
        order_lines.unit_price,
        order_lines.quantity < 0 as is_return,
        cast(
            order_lines.quantity
            + coalesce(moved.units_moved, 0) as numeric(18, 6)
        ) as units,
        cast(
            order_lines.discount_amount
            + coalesce(moved.discount_moved, 0) as numeric(18, 6)
        ) as discount_amount
    from order_lines
    left join moved
        on
            order_lines.order_id = moved.order_id
            and order_lines.line_number = moved.line_number

),

-- Of a return that was netted whole a discount may be left, of another line's
-- price: that is no return any more.
netted as (

    select
        order_id,
        line_number,
        customer_id,
        ordered_at,
        order_date,
        known_on,
        product_id,
        channel,
        is_return and units <> 0 as is_return,
        units,
        units * unit_price as gross_amount,
        discount_amount,
        units * unit_price - discount_amount as line_amount
    from remaining
    where units <> 0 or discount_amount <> 0

)

select * from netted
