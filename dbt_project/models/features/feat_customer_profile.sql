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
        first_known_order_date,
        first_order_value,
        first_order_lines,
        first_order_units,
        first_order_products,
        first_order_gross_amount,
        first_order_discount_amount,
        first_order_hour,
        first_order_channel
    from {{ ref('int_customer_days_accumulated') }}
    where orders > 0

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
        accumulated.customer_id,
        as_of_days.as_of_date,
        customers.customer_id is not null as has_profile,
        customers.country,
        customers.region,
        customers.gender,
        customers.income_band,
        customers.household,
        customers.acquisition_channel,
        cast(
            extract(year from as_of_days.as_of_date)
            - customers.birth_year as integer
        ) as age_years,
        case
            when customers.signed_up_on < as_of_days.as_of_date
                then customers.signed_up_on
        end as signed_up_on,
        accumulated.first_order_date,
        accumulated.first_known_order_date,
        accumulated.first_order_value,
        accumulated.first_order_lines,
        accumulated.first_order_units,
        accumulated.first_order_products,
        accumulated.first_order_gross_amount,
        accumulated.first_order_discount_amount,
        accumulated.first_order_hour,
        accumulated.first_order_channel
    from accumulated
    inner join as_of_days
        on
            accumulated.known_from <= as_of_days.as_of_date
            and (
                accumulated.known_until > as_of_days.as_of_date
                or accumulated.known_until is null
            )
    left join customers
        on
            accumulated.customer_id = customers.customer_id
            and (
                as_of_days.as_of_date >= customers.known_on
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
        cast(first_order_value as numeric(14, 2)) as first_order_value,
        first_order_lines,
        cast(first_order_units as double precision) as first_order_units,
        first_order_products,
        {{ ratio('first_order_discount_amount', 'first_order_gross_amount') }}
            as first_order_discount_share,
        first_order_hour,
        {{ iso_weekday('first_known_order_date') }} as first_order_weekday,
        first_order_channel
    from known

)

select * from feat_customer_profile
