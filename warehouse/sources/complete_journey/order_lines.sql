-- What the shop received for a line is sales_value; the shelf price adds what the shop gave away.
-- The discount takes up the rounding of the unit price, so that
-- quantity * unit_price - discount_amount is sales_value to the last cent.
-- A basket has a product once, so the product tells its lines apart.
with

priced as (

    select
        *,
        greatest(quantity, 1) as units,
        cast(
            (sales_value + retail_disc + coupon_match_disc)
            / greatest(quantity, 1) as decimal(18, 6)
        ) as shelf_price
    from file

)

select
    basket_id as order_id,
    product_id as line_number,
    household_id as customer_id,
    transaction_timestamp as ordered_at,
    cast(cast(product_id as bigint) as varchar) as product_id,
    units as quantity,
    shelf_price as unit_price,
    units * shelf_price - sales_value as discount_amount,
    source_row
from priced
