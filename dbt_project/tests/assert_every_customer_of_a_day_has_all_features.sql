-- The feature tables of a day hold the same customers: the join loses nobody.
with

as_of_days as (

    {{ as_of_days() }}

),

counted as (

    select
        as_of_days.as_of_date,
        (
            select count(*)
            from {{ ref('feat_customer_rfm') }} as rfm
            where rfm.as_of_date = as_of_days.as_of_date
        ) as rfm_customers,
        (
            select count(*)
            from {{ ref('feat_customer_behaviour') }} as behaviour
            where behaviour.as_of_date = as_of_days.as_of_date
        ) as behaviour_customers,
        (
            select count(*)
            from {{ ref('customer_features') }} as features
            where features.as_of_date = as_of_days.as_of_date
        ) as customers
    from as_of_days

)

select * from counted
where rfm_customers <> customers or behaviour_customers <> customers
