with

as_of_days as (

    {{ as_of_days() }}

),

customers as (

    select
        customer_id,
        known_after,
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
        customers.customer_id,
        as_of_days.as_of_date,
        {{ days_between(
            'customers.last_order_date', 'as_of_days.as_of_date'
        ) }} as recency_days,
        customers.orders as frequency_orders,
        cast(customers.net_spend as numeric(14, 2)) as monetary_total,
        {{ days_between(
            'customers.first_order_date', 'as_of_days.as_of_date'
        ) }} as tenure_days,
        cast(customers.purchased_amount / customers.orders as numeric(14, 2))
            as average_order_value
    from customers
    inner join as_of_days
        on
            customers.known_after < as_of_days.as_of_date
            and (
                customers.known_until >= as_of_days.as_of_date
                or customers.known_until is null
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
        recency_quintile + frequency_quintile + monetary_quintile as rfm_score
    from ranked

)

select * from feat_customer_rfm
