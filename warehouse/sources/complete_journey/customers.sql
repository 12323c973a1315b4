select
    household_id as customer_id,
    income as income_band,
    household_comp as household,
    source_row
from file
