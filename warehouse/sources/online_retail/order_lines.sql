-- A cancellation is an invoice of its own with negative quantities. Invoices have no line numbers,
-- and equal lines of one invoice are real (the same item scanned twice). So a line is known by its
-- content and by which of its equals it is: files that overlap, as the workbook's two sheets do
-- for nine days, bring the same lines again.
select
    invoice as order_id,
    line_key(row(
        upper(stock_code),
        quantity,
        invoice_date,
        price,
        row_number() over (
            partition by
                file_name, sheet, invoice, upper(stock_code), quantity,
                invoice_date, price
            order by source_row
        )
    )) as line_number,
    customer as customer_id,
    invoice_date as ordered_at,
    upper(stock_code) as product_id,
    quantity,
    price as unit_price,
    source_row
from file
