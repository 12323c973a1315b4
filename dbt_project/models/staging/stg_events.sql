with

events as (

    select
        event_id,
        customer_id,
        session_id,
        occurred_at,
        event_type,
        product_id,
        known_at
    from {{ source('raw', 'events') }}

),

dated as (

    select
        event_id,
        customer_id,
        session_id,
        occurred_at,
        cast(occurred_at as date) as event_date,
        {{ known_on('cast(occurred_at as date)', 'known_at') }} as known_on,
        event_type,
        product_id,
        known_at
    from events

)

select * from dated
