{{ config(meta={'replaces': {
    'days': 'activity_date',
    'tables': ['events', 'campaign_contacts'],
}}) }}

with

events as (

    select
        customer_id,
        event_date,
        known_on,
        event_type,
        coalesce(session_id, '') as session_id
    from {{ ref('stg_events') }}
    where {{ touched_days('occurred_at', ['events', 'campaign_contacts']) }}

),

sessions as (

    select
        customer_id,
        event_date,
        known_on,
        session_id,
        count(*) as events,
        sum(case when event_type = 'view' then 1 else 0 end) as views,
        sum(case when event_type = 'search' then 1 else 0 end) as searches,
        sum(case when event_type = 'wishlist' then 1 else 0 end) as wishlists,
        sum(case when event_type = 'cart_add' then 1 else 0 end) as cart_adds,
        sum(case when event_type = 'cart_remove' then 1 else 0 end)
            as cart_removes,
        sum(case when event_type = 'checkout' then 1 else 0 end) as checkouts,
        sum(case when event_type = 'login' then 1 else 0 end) as logins,
        sum(case when event_type = 'support' then 1 else 0 end)
            as support_contacts
    from events
    group by customer_id, event_date, known_on, session_id

),

visits as (

    select
        customer_id,
        event_date as activity_date,
        known_on,
        count(*) as sessions,
        sum(events) as events,
        sum(views) as views,
        sum(searches) as searches,
        sum(wishlists) as wishlists,
        sum(cart_adds) as cart_adds,
        sum(cart_removes) as cart_removes,
        sum(checkouts) as checkouts,
        sum(logins) as logins,
        sum(support_contacts) as support_contacts,
        sum(case when cart_adds > 0 then 1 else 0 end) as carts,
        sum(case when cart_adds > 0 and checkouts = 0 then 1 else 0 end)
            as abandoned_carts,
        0 as contacts,
        0 as opens,
        0 as clicks,
        0 as redemptions
    from sessions
    group by customer_id, event_date, known_on

),

campaigns as (

    select
        customer_id,
        step_date as activity_date,
        known_on,
        0 as sessions,
        0 as events,
        0 as views,
        0 as searches,
        0 as wishlists,
        0 as cart_adds,
        0 as cart_removes,
        0 as checkouts,
        0 as logins,
        0 as support_contacts,
        0 as carts,
        0 as abandoned_carts,
        sum(case when step = 'contact' then 1 else 0 end) as contacts,
        sum(case when step = 'open' then 1 else 0 end) as opens,
        sum(case when step = 'click' then 1 else 0 end) as clicks,
        sum(case when step = 'redemption' then 1 else 0 end) as redemptions
    from {{ ref('int_contacts_unpivoted') }}
    where {{ touched_days('happened_at', ['events', 'campaign_contacts']) }}
    group by customer_id, step_date, known_on

),

activities as (

    select * from visits
    union all
    select * from campaigns

),

engagement_days as (

    select
        customer_id,
        activity_date,
        known_on,
        cast(sum(events) as integer) as events,
        cast(sum(sessions) as integer) as sessions,
        cast(sum(views) as integer) as views,
        cast(sum(searches) as integer) as searches,
        cast(sum(wishlists) as integer) as wishlists,
        cast(sum(cart_adds) as integer) as cart_adds,
        cast(sum(cart_removes) as integer) as cart_removes,
        cast(sum(checkouts) as integer) as checkouts,
        cast(sum(logins) as integer) as logins,
        cast(sum(support_contacts) as integer) as support_contacts,
        cast(sum(carts) as integer) as carts,
        cast(sum(abandoned_carts) as integer) as abandoned_carts,
        cast(sum(contacts) as integer) as contacts,
        cast(sum(opens) as integer) as opens,
        cast(sum(clicks) as integer) as clicks,
        cast(sum(redemptions) as integer) as redemptions
    from activities
    group by customer_id, activity_date, known_on

)

select * from engagement_days
