with

rfm as (

    select
        customer_id,
        as_of_date,
        {{ plus_days('as_of_date', '-tenure_days') }} as first_order_date
    from {{ ref('feat_customer_rfm') }}
    where as_of_date in ({{ as_of_date_literals() }})

),

-- The order day of each customer that became known first.
first_order_days as (

    select
        customer_id,
        order_date,
        order_value_first,
        lines,
        units,
        products,
        gross_amount,
        discount_amount,
        first_order_hour,
        first_order_channel
    from {{ ref('int_customer_days_ordered') }}
    where is_first_order_day

),

customers as (

    select
        customer_id,
        signed_up_on,
        country,
        region,
        birth_year,
        gender,
        income_band,
        household,
        acquisition_channel,
        known_on
    from {{ ref('stg_customers') }}

),

known as (

    select
        rfm.customer_id,
        rfm.as_of_date,
        customers.customer_id is not null as has_profile,
        customers.country,
        customers.region,
        customers.gender,
        customers.income_band,
        customers.household,
        customers.acquisition_channel,
        cast(
            extract(year from rfm.as_of_date)
            - customers.birth_year as integer
        ) as age_years,
        case
            when customers.signed_up_on < rfm.as_of_date
                then customers.signed_up_on
        end as signed_up_on,
        rfm.first_order_date,
        first_order_days.order_date,
        first_order_days.order_value_first,
        first_order_days.lines,
        first_order_days.units,
        first_order_days.products,
        first_order_days.gross_amount,
        first_order_days.discount_amount,
        first_order_days.first_order_hour,
        first_order_days.first_order_channel
    from rfm
    inner join first_order_days
        on rfm.customer_id = first_order_days.customer_id
    left join customers
        on
            rfm.customer_id = customers.customer_id
            and (
                rfm.as_of_date >= customers.known_on
                or customers.known_on is null
            )

),

feat_customer_profile as (

    select
        customer_id,
        as_of_date,
        has_profile,
        country,
        region,
        gender,
        income_band,
        household,
        acquisition_channel,
        age_years,
        case
            when age_years < 25 then 'under 25'
            when age_years < 35 then '25-34'
            when age_years < 45 then '35-44'
            when age_years < 55 then '45-54'
            when age_years < 65 then '55-64'
            when age_years >= 65 then '65 and over'
        end as age_band,
        {{ days_between('signed_up_on', 'as_of_date') }} as signed_up_days,
        {{ days_between('signed_up_on', 'first_order_date') }}
            as signup_to_order_days,
        cast(date_trunc('month', first_order_date) as date) as cohort_month,
        cast(order_value_first as numeric(14, 2)) as first_order_value,
        lines as first_order_lines,
        cast(units as double precision) as first_order_units,
        products as first_order_products,
        {{ ratio('discount_amount', 'gross_amount') }}
            as first_order_discount_share,
        first_order_hour,
        {{ iso_weekday('order_date') }} as first_order_weekday,
        first_order_channel
    from known

)

select * from feat_customer_profile
