-- A contact becomes known in steps: what came of it is dated by its own time.
with

{% for step, happened_at in [
    ('contact', 'contacted_at'),
    ('open', 'opened_at'),
    ('click', 'clicked_at'),
    ('redemption', 'redeemed_at'),
] %}
    {{ step }}s as (

        select
            contact_id,
            customer_id,
            '{{ step }}' as step,
            {{ happened_at }} as happened_at,
            known_at
        from {{ ref('stg_campaign_contacts') }}
        where {{ happened_at }} is not null

    ),
{% endfor %}

steps as (

    select
        contact_id,
        customer_id,
        step,
        happened_at,
        known_at
    from contacts
    union all
    select
        contact_id,
        customer_id,
        step,
        happened_at,
        known_at
    from opens
    union all
    select
        contact_id,
        customer_id,
        step,
        happened_at,
        known_at
    from clicks
    union all
    select
        contact_id,
        customer_id,
        step,
        happened_at,
        known_at
    from redemptions

),

unpivoted as (

    select
        contact_id,
        customer_id,
        step,
        happened_at,
        cast(happened_at as date) as step_date,
        {{ known_on('cast(happened_at as date)', 'known_at') }} as known_on,
        known_at
    from steps

)

select * from unpivoted
