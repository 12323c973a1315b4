-- One row per household and campaign, and one for every further coupon that it redeemed: the file
-- of campaigns says who was contacted, the file of redemptions what came of it.
with

beginnings as (

    select
        campaign_id,
        start_date
    from file
    where start_date is not null

),

contacts as (

    select
        campaign_id,
        household_id,
        redemption_date,
        source_row,
        row_number() over (
            partition by campaign_id, household_id
            order by redemption_date, coupon_upc, source_row
        ) as contact_number
    from file
    where household_id is not null
    -- The bare contact of a household that redeemed something is its first redemption.
    qualify
        redemption_date is not null
        or count(redemption_date)
            over (partition by campaign_id, household_id) = 0

)

select
    concat_ws('-', contacts.campaign_id, contacts.household_id, contacts.contact_number)
        as contact_id,
    contacts.campaign_id,
    contacts.household_id as customer_id,
    beginnings.start_date as contacted_at,
    contacts.redemption_date as redeemed_at,
    contacts.source_row
from contacts
left join beginnings on beginnings.campaign_id = contacts.campaign_id
