with

reviews as (

    select
        review_id,
        customer_id,
        product_id,
        rating,
        reviewed_at,
        known_at
    from {{ source('raw', 'reviews') }}

),

dated as (

    select
        review_id,
        customer_id,
        product_id,
        rating,
        rating <= {{ var('negative_rating') }} as is_negative,
        reviewed_at,
        cast(reviewed_at as date) as review_date,
        {{ known_on('cast(reviewed_at as date)', 'known_at') }} as known_on,
        known_at
    from reviews

)

select * from dated
