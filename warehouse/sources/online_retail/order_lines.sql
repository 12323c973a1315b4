-- A cancellation is an invoice of its own with negative quantities. The workbook's two sheets
-- share nine days: an invoice counts where it stands first. Equal lines of one invoice are real
-- (the same item scanned twice), so a line's number is its place in the invoice. pandas writes
-- a column of numbers with gaps as 17850.0: a CSV or Parquet file of its has customers like that.
with

invoices_once as (

    select *
    from file
    qualify sheet = min(sheet) over (partition by invoice)

)

select
    invoice as order_id,
    row_number() over (
        partition by invoice
        order by source_row
    ) as line_number,
    regexp_replace(cast(customer_id as varchar), '\.0$', '') as customer_id,
    invoice_date as ordered_at,
    upper(trim(cast(stock_code as varchar))) as product_id,
    quantity,
    price as unit_price,
    0 as discount_amount,
    null as channel,
    source_row
from invoices_once
