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
    source_row
from file
