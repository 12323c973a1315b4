select
    contact_id,
    campaign_id,
    customer_id,
    contacted_at,
    treatment_arm,
    opened_at,
    clicked_at,
    redeemed_at,
    source_row
from file
