{% set tables = ['order_lines', 'events', 'reviews', 'campaign_contacts'] %}
{{ config(meta={'replaces': {
    'customers': 'customer_id',
    'since': 'known_on',
    'tables': tables,
}}) }}

with

order_lines as (

    select
        customer_id,
        ordered_at as occurred_at,
        known_on,
        case when quantity < 0 then 2 else 1 end as kind,
        order_id as event_key,
        line_number as event_number,
        product_id,
        cast(line_amount as double precision) as amount
    from {{ ref('stg_order_lines') }}
    where {{ touched_since('ordered_at', tables) }}

),

events as (

    select
        customer_id,
        occurred_at,
        known_on,
        case event_type
            when 'view' then 3
            when 'search' then 4
            when 'wishlist' then 5
            when 'cart_add' then 6
            when 'cart_remove' then 7
            when 'checkout' then 8
            when 'login' then 9
            when 'support' then 10
        end as kind,
        event_id as event_key,
        0 as event_number,
        product_id,
        cast(0 as double precision) as amount
    from {{ ref('stg_events') }}
    where {{ touched_since('occurred_at', tables) }}

),

reviews as (

    select
        customer_id,
        reviewed_at as occurred_at,
        known_on,
        case when is_negative then 12 else 11 end as kind,
        review_id as event_key,
        0 as event_number,
        product_id,
        cast(0 as double precision) as amount
    from {{ ref('stg_reviews') }}
    where {{ touched_since('reviewed_at', tables) }}

),

contacts as (

    select
        customer_id,
        happened_at as occurred_at,
        known_on,
        case step
            when 'contact' then 13
            when 'open' then 14
            when 'click' then 15
            when 'redemption' then 16
        end as kind,
        contact_id as event_key,
        0 as event_number,
        cast(null as text) as product_id,
        cast(0 as double precision) as amount
    from {{ ref('int_contacts_unpivoted') }}
    where {{ touched_since('happened_at', tables) }}

),

happened as (

    select * from order_lines
    union all
    select * from events
    union all
    select * from reviews
    union all
    select * from contacts

),

products as (

    select
        product_id,
        category_code,
        product_bucket
    from {{ ref('stg_products') }}

),

coded as (

    select
        happened.customer_id,
        happened.occurred_at,
        cast(happened.occurred_at as date) as event_date,
        happened.known_on,
        happened.kind,
        happened.event_key,
        happened.event_number,
        coalesce(products.category_code + 1, 0) as category_code,
        case
            when happened.product_id is null then 0
            else coalesce(
                products.product_bucket,
                {{ product_bucket('happened.product_id') }}
            )
        end as product_bucket,
        sign(happened.amount) * ln(1 + abs(happened.amount)) as log_amount
    from happened
    left join products on happened.product_id = products.product_id
    {% if is_update() %}
        where happened.known_on > {{ first_touched_day(tables) }}
    {% endif %}

),

-- In the order in which things became known: what comes late stands where it
-- came, and never changes what stands before it.
streamed as (

    select
        customer_id,
        occurred_at,
        event_date,
        known_on,
        kind,
        category_code,
        product_bucket,
        log_amount,
        row_number() over stream as position,
        lag(occurred_at) over stream as previous_at
    from coded
    window
        stream as (
            partition by customer_id
            order by known_on, occurred_at, kind, event_key, event_number
        )

),

{% if is_update() %}
    standing as (

        select
            customer_id,
            occurred_at,
            position,
            row_number() over (
                partition by customer_id order by position desc
            ) as place_from_last
        from {{ this }}
        where
            known_on <= {{ first_touched_day(tables) }}
            and {{ touched_customers('customer_id', tables) }}

    ),

    continued as (

        select
            streamed.customer_id,
            streamed.occurred_at,
            streamed.event_date,
            streamed.known_on,
            streamed.kind,
            streamed.category_code,
            streamed.product_bucket,
            streamed.log_amount,
            streamed.position + coalesce(standing.position, 0) as position,
            coalesce(streamed.previous_at, standing.occurred_at) as previous_at
        from streamed
        left join standing
            on
                streamed.customer_id = standing.customer_id
                and standing.place_from_last = 1

    ),
{% else %}
    continued as (

        select * from streamed

    ),
{% endif %}

customer_events as (

    select
        customer_id,
        event_date,
        known_on,
        cast(position as integer) as position,
        occurred_at,
        kind,
        category_code,
        product_bucket,
        log_amount,
        case
            when previous_at is not null
                then greatest(
                    0, {{ seconds_between('previous_at', 'occurred_at') }}
                )
        end as seconds_since_last,
        cast(extract(hour from occurred_at) as integer) as hour,
        {{ iso_weekday('event_date') }} as weekday
    from continued

)

select * from customer_events
