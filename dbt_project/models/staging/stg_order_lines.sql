with

order_lines as (

    select
        order_id,
        line_number,
        customer_id,
        ordered_at,
        product_id,
        quantity,
        unit_price,
        discount_amount,
        currency,
        channel,
        known_at
    from {{ source('raw', 'order_lines') }}

),

dated as (

    select
        order_id,
        line_number,
        customer_id,
        ordered_at,
        cast(ordered_at as date) as order_date,
        {{ known_on('cast(ordered_at as date)', 'known_at') }} as known_on,
        product_id,
        quantity,
        unit_price,
        coalesce(discount_amount, 0) as discount_amount,
        quantity * unit_price - coalesce(discount_amount, 0) as line_amount,
        currency,
        channel,
        known_at
    from order_lines

)

select * from dated
