select
    product_id,
    product_name,
    category,
    subcategory,
    brand,
    unit_cost,
    source_row
from file
