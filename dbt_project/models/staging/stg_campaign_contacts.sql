with

campaign_contacts as (

    select
        contact_id,
        campaign_id,
        customer_id,
        treatment_arm,
        contacted_at,
        opened_at,
        clicked_at,
        redeemed_at,
        known_at
    from {{ source('raw', 'campaign_contacts') }}

)

select * from campaign_contacts
