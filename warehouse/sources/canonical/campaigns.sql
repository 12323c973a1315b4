select
    campaign_id,
    campaign_name,
    channel,
    offer,
    starts_on,
    ends_on,
    cost_per_contact,
    source_row
from file
