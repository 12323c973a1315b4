with

as_of_days as (

    {{ as_of_days() }}

),

customers as (

    select
        customer_id,
        as_of_date,
        orders_90d,
        orders_365d
    from {{ ref('feat_customer_behaviour') }}
    where as_of_date in ({{ as_of_date_literals() }})

),

-- Which tables the shop had filled by the day.
active_days as (

    select
        known_on,
        max(events) as events,
        max(contacts) as contacts
    from {{ ref('int_customer_engagement_days') }}
    group by known_on

),

shop as (

    select
        as_of_days.as_of_date,
        coalesce(max(active_days.events) > 0, false) as has_events,
        coalesce(max(active_days.contacts) > 0, false) as has_campaigns
    from as_of_days
    left join active_days
        on as_of_days.as_of_date >= active_days.known_on
    group by as_of_days.as_of_date

),

past_days as (

    select
        days.customer_id,
        as_of_days.as_of_date,
        {{ days_between('days.activity_date', 'as_of_days.as_of_date') }}
            as days_ago,
        days.events,
        days.sessions,
        days.views,
        days.searches,
        days.wishlists,
        days.cart_adds,
        days.cart_removes,
        days.checkouts,
        days.logins,
        days.support_contacts,
        days.carts,
        days.abandoned_carts,
        days.contacts,
        days.opens,
        days.clicks,
        days.redemptions
    from {{ ref('int_customer_engagement_days') }} as days
    inner join as_of_days
        on
            days.known_on <= as_of_days.as_of_date
            and {{ days_between(
                'days.activity_date', 'as_of_days.as_of_date'
            ) }} <= 365

),

activity as (

    select
        customer_id,
        as_of_date,
        min(case when events > 0 then days_ago end) as days_since_last_visit,
        sum(case when days_ago <= 30 then views else 0 end) as views_30d,
        sum(case when days_ago <= 90 then views else 0 end) as views_90d,
        sum(views) as views_365d,
        sum(case when days_ago <= 90 then searches else 0 end) as searches_90d,
        sum(case when days_ago <= 90 then wishlists else 0 end)
            as wishlists_90d,
        sum(case when days_ago <= 90 then cart_adds else 0 end)
            as cart_adds_90d,
        sum(case when days_ago <= 90 then cart_removes else 0 end)
            as cart_removes_90d,
        sum(case when days_ago <= 90 then checkouts else 0 end)
            as checkouts_90d,
        sum(case when days_ago <= 90 then logins else 0 end) as logins_90d,
        sum(support_contacts) as support_contacts_365d,
        sum(case when days_ago <= 30 then sessions else 0 end) as sessions_30d,
        sum(case when days_ago <= 90 then sessions else 0 end) as sessions_90d,
        sum(sessions) as sessions_365d,
        sum(case when days_ago <= 90 then carts else 0 end) as carts_90d,
        sum(case when days_ago <= 30 then abandoned_carts else 0 end)
            as abandoned_carts_30d,
        sum(case when days_ago <= 90 then abandoned_carts else 0 end)
            as abandoned_carts_90d,
        min(case when contacts > 0 then days_ago end)
            as days_since_last_contact,
        min(case when clicks + redemptions > 0 then days_ago end)
            as days_since_last_response,
        sum(case when days_ago <= 30 then contacts else 0 end) as contacts_30d,
        sum(case when days_ago <= 90 then contacts else 0 end) as contacts_90d,
        sum(contacts) as contacts_365d,
        sum(case when days_ago <= 90 then opens else 0 end) as opens_90d,
        sum(opens) as opens_365d,
        sum(case when days_ago <= 90 then clicks else 0 end) as clicks_90d,
        sum(clicks) as clicks_365d,
        sum(redemptions) as redemptions_365d
    from past_days
    group by customer_id, as_of_date

),

reviews as (

    select
        reviews.customer_id,
        as_of_days.as_of_date,
        {{ days_between('reviews.review_date', 'as_of_days.as_of_date') }}
            as days_ago,
        reviews.rating,
        reviews.is_negative,
        case
            when
                reviews.rating is not null
                and row_number() over (
                    partition by
                        reviews.customer_id,
                        as_of_days.as_of_date,
                        reviews.rating is null
                    order by reviews.reviewed_at desc, reviews.review_id desc
                ) = 1
                then reviews.rating
        end as rating_last
    from {{ ref('stg_reviews') }} as reviews
    inner join as_of_days on reviews.known_on <= as_of_days.as_of_date

),

opinions as (

    select
        customer_id,
        as_of_date,
        count(*) as reviews_total,
        sum(case when days_ago <= 365 then 1 else 0 end) as reviews_365d,
        min(days_ago) as days_since_last_review,
        count(rating) as ratings,
        cast(sum(rating) as double precision) / nullif(count(rating), 0)
            as rating_mean,
        cast(max(rating_last) as double precision) as rating_last,
        sum(case when is_negative then 1 else 0 end) as negative_reviews
    from reviews
    group by customer_id, as_of_date

),

reviewing_days as (

    select distinct as_of_date
    from opinions

),

feat_customer_engagement as (

    select
        customers.customer_id,
        customers.as_of_date,
        shop.has_events,
        {% for measure in [
            'views_30d', 'views_90d', 'views_365d', 'searches_90d',
            'wishlists_90d', 'cart_adds_90d', 'cart_removes_90d',
            'checkouts_90d', 'logins_90d', 'support_contacts_365d',
            'sessions_30d', 'sessions_90d', 'sessions_365d',
            'abandoned_carts_30d', 'abandoned_carts_90d',
        ] %}
            case
                when shop.has_events
                    then cast(coalesce(activity.{{ measure }}, 0) as integer)
            end as {{ measure }},
        {% endfor %}
        activity.days_since_last_visit,
        {{ ratio('activity.cart_adds_90d', 'activity.views_90d') }}
            as cart_rate_90d,
        {{ ratio('activity.checkouts_90d', 'activity.cart_adds_90d') }}
            as checkout_rate_90d,
        {{ ratio('customers.orders_90d', 'activity.sessions_90d') }}
            as conversion_rate_90d,
        {{ ratio('activity.abandoned_carts_90d', 'activity.carts_90d') }}
            as abandoned_cart_share_90d,
        reviewing_days.as_of_date is not null as has_reviews,
        case
            when reviewing_days.as_of_date is not null
                then cast(coalesce(opinions.reviews_total, 0) as integer)
        end as reviews_total,
        case
            when reviewing_days.as_of_date is not null
                then cast(coalesce(opinions.reviews_365d, 0) as integer)
        end as reviews_365d,
        opinions.rating_mean,
        opinions.rating_last,
        opinions.rating_last - opinions.rating_mean as rating_trend,
        {{ ratio('opinions.negative_reviews', 'opinions.ratings') }}
            as negative_review_share,
        opinions.days_since_last_review,
        shop.has_campaigns,
        {% for measure in [
            'contacts_30d', 'contacts_90d', 'contacts_365d', 'opens_90d',
            'opens_365d', 'clicks_90d', 'clicks_365d', 'redemptions_365d',
        ] %}
            case
                when shop.has_campaigns
                    then cast(coalesce(activity.{{ measure }}, 0) as integer)
            end as {{ measure }},
        {% endfor %}
        {{ ratio('activity.opens_365d', 'activity.contacts_365d') }}
            as open_rate_365d,
        {{ ratio('activity.clicks_365d', 'activity.contacts_365d') }}
            as click_rate_365d,
        {{ ratio('activity.redemptions_365d', 'activity.contacts_365d') }}
            as response_rate_365d,
        case
            when shop.has_campaigns
                then {{ ratio(
                    'coalesce(activity.redemptions_365d, 0)',
                    'customers.orders_365d'
                ) }}
        end as coupon_order_share_365d,
        activity.days_since_last_contact,
        activity.days_since_last_response
    from customers
    inner join shop on customers.as_of_date = shop.as_of_date
    left join activity
        on
            customers.customer_id = activity.customer_id
            and customers.as_of_date = activity.as_of_date
    left join opinions
        on
            customers.customer_id = opinions.customer_id
            and customers.as_of_date = opinions.as_of_date
    left join reviewing_days
        on customers.as_of_date = reviewing_days.as_of_date

)

select * from feat_customer_engagement
