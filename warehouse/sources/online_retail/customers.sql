-- The country of the latest invoice.
select
    customer as customer_id,
    arg_max(country, row(invoice_date, source_row)) as country,
    min(source_row) as source_row
from file
where customer is not null
group by customer
