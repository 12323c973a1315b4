-- A row is a purchase: so many CDs for so much in all. Purchases have no numbers: equal ones of a
-- customer's day are counted.
with

purchases as (

    select
        *,
        row_number() over (
            partition by
                file_name, customer_id, date, number_of_cds, dollar_value
            order by source_row
        ) as purchase_number
    from file

)

select
    line_key(row(
        customer_id, date, number_of_cds, dollar_value, purchase_number
    )) as order_id,
    1 as line_number,
    customer_id,
    date as ordered_at,
    number_of_cds as quantity,
    cast(dollar_value / greatest(number_of_cds, 1) as decimal(18, 6))
        as unit_price,
    cast(dollar_value / greatest(number_of_cds, 1) as decimal(18, 6))
    * number_of_cds - dollar_value as discount_amount,
    source_row
from purchases
