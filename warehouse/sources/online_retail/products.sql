-- Stock codes differ by case and carry many spellings of a name: the latest one stands.
select
    upper(stock_code) as product_id,
    arg_max(description, row(invoice_date, source_row))
        filter (where description is not null) as product_name,
    min(source_row) as source_row
from file
where stock_code is not null
group by upper(stock_code)
