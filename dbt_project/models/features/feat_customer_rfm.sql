with

as_of_days as (

    {{ as_of_days() }}

),

-- Dates and totals of what was known at the start of the day.
totals as (

    select
        days.customer_id,
        as_of_days.as_of_date,
        min(case when days.orders > 0 then days.order_date end)
            as first_order_date,
        max(case when days.orders > 0 then days.order_date end)
            as last_order_date,
        sum(days.orders) as orders,
        sum(days.net_spend) as net_spend,
        sum(days.purchased_amount) as purchased_amount
    from {{ ref('int_customer_days') }} as days
    inner join as_of_days on days.known_on <= as_of_days.as_of_date
    group by days.customer_id, as_of_days.as_of_date
    having sum(days.orders) > 0

),

known as (

    select
        customer_id,
        as_of_date,
        {{ days_between('last_order_date', 'as_of_date') }} as recency_days,
        cast(orders as integer) as frequency_orders,
        cast(net_spend as numeric(14, 2)) as monetary_total,
        {{ days_between('first_order_date', 'as_of_date') }} as tenure_days,
        cast({{ divided('purchased_amount', 'orders', 2) }} as numeric(14, 2))
            as average_order_value
    from totals

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
