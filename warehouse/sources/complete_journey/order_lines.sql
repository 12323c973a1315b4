-- What the shop received for a line is sales_value; the shelf price adds what the shop gave away.
-- The discount takes up the rounding of the unit price, so that
-- quantity * unit_price - discount_amount is sales_value to the last cent.
with

priced as (

    select
        *,
        greatest(quantity, 1) as units,
        cast(sales_value as decimal(18, 2)) as paid,
        cast(
            (sales_value + retail_disc + coupon_match_disc)
            / greatest(quantity, 1) as decimal(18, 6)
        ) as shelf_price
    from file

)

select
    basket_id as order_id,
    row_number() over (
        partition by basket_id
        order by source_row
    ) as line_number,
    household_id as customer_id,
    transaction_timestamp as ordered_at,
    product_id,
    units as quantity,
    shelf_price as unit_price,
    units * shelf_price - paid as discount_amount,
    null as channel,
    source_row
from priced
