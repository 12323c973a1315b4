with

customers as (

    select
        customer_id,
        signed_up_at,
        country,
        region,
        birth_year,
        gender,
        income_band,
        household,
        acquisition_channel,
        known_at
    from {{ source('raw', 'customers') }}

),

dated as (

    select
        customer_id,
        cast(signed_up_at as date) as signed_up_on,
        country,
        region,
        birth_year,
        gender,
        income_band,
        household,
        acquisition_channel,
        case
            when signed_up_at is null then {{ delivered_on('known_at') }}
            else {{ known_on('cast(signed_up_at as date)', 'known_at') }}
        end as known_on
    from customers

)

select * from dated
