select
    event_id,
    customer_id,
    session_id,
    occurred_at,
    event_type,
    product_id,
    source_row
from file
