with

as_of_days as (

    {{ as_of_days() }}

),

accumulated as (

    select
        customer_id,
        known_from,
        known_until,
        first_order_date,
        last_order_date,
        orders,
        net_spend,
        purchased_amount
    from {{ ref('int_customer_days_accumulated') }}
    where orders > 0

),

-- What was known of a customer at the start of the day.
known as (

    select
        accumulated.customer_id,
        as_of_days.as_of_date,
        {{ days_between(
            'accumulated.last_order_date', 'as_of_days.as_of_date'
        ) }} as recency_days,
        accumulated.orders as frequency_orders,
        cast(accumulated.net_spend as numeric(14, 2)) as monetary_total,
        {{ days_between(
            'accumulated.first_order_date', 'as_of_days.as_of_date'
        ) }} as tenure_days,
        cast(
            {{ divided(
                'accumulated.purchased_amount', 'accumulated.orders', 2
            ) }} as numeric(14, 2)
        ) as average_order_value
    from accumulated
    inner join as_of_days
        on
            accumulated.known_from <= as_of_days.as_of_date
            and (
                accumulated.known_until > as_of_days.as_of_date
                or accumulated.known_until is null
            )

),

ranked as (

    select
        customer_id,
        as_of_date,
        recency_days,
        frequency_orders,
        monetary_total,
        tenure_days,
        average_order_value,
        {{ quintile('recency_days desc') }} as recency_quintile,
        {{ quintile('frequency_orders') }} as frequency_quintile,
        {{ quintile('monetary_total') }} as monetary_quintile
    from known

),

feat_customer_rfm as (

    select
        customer_id,
        as_of_date,
        recency_days,
        frequency_orders,
        monetary_total,
        tenure_days,
        average_order_value,
        recency_quintile,
        frequency_quintile,
        monetary_quintile,
        recency_quintile + frequency_quintile + monetary_quintile as rfm_score,
        case
            when recency_quintile = 5 and frequency_quintile >= 4
                then 'champions'
            when recency_quintile >= 3 and frequency_quintile >= 4
                then 'loyal_customers'
            when recency_quintile >= 4 and frequency_quintile >= 2
                then 'potential_loyalists'
            when recency_quintile = 5 then 'new_customers'
            when recency_quintile = 4 then 'promising'
            when recency_quintile = 3 and frequency_quintile = 3
                then 'need_attention'
            when recency_quintile = 3 then 'about_to_sleep'
            when frequency_quintile = 5 then 'cannot_lose'
            when frequency_quintile >= 3 then 'at_risk'
            else 'hibernating'
        end as rfm_segment
    from ranked

)

select * from feat_customer_rfm
