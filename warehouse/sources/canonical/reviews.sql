select
    review_id,
    customer_id,
    product_id,
    rating,
    body,
    reviewed_at,
    source_row
from file
