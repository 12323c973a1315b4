select
    campaign_id,
    campaign_type as campaign_name,
    'coupon' as offer,
    start_date as starts_on,
    end_date as ends_on,
    source_row
from file
