-- A contact becomes known in steps: what came of it is dated by its own time.
with

steps as (

    {% for step, happened_at in [
        ('contact', 'contacted_at'),
        ('open', 'opened_at'),
        ('click', 'clicked_at'),
        ('redemption', 'redeemed_at'),
    ] %}
        select
            contact_id,
            customer_id,
            '{{ step }}' as step,
            {{ happened_at }} as happened_at,
            known_at
        from {{ ref('stg_campaign_contacts') }}
        where {{ happened_at }} is not null
        {% if not loop.last %}union all{% endif %}
    {% endfor %}

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
