select
    customer_id,
    signed_up_at,
    country,
    region,
    birth_year,
    gender,
    income_band,
    household,
    acquisition_channel,
    email,
    phone,
    full_name,
    source_row
from file
