select
    product_id,
    product_type as product_name,
    department as category,
    product_category as subcategory,
    brand,
    source_row
from file
