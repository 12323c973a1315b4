-- Stock codes differ by case and carry many spellings of a name: the latest one stands.
select
    upper(trim(cast(stock_code as varchar))) as product_id,
    arg_max(trim(cast(description as varchar)), invoice_date) as product_name,
    null as category,
    null as subcategory,
    null as brand,
    null as unit_cost,
    min(source_row) as source_row
from file
group by upper(trim(cast(stock_code as varchar)))
