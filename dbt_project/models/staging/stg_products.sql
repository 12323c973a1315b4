with

products as (

    select
        product_id,
        product_name,
        category,
        subcategory,
        brand,
        unit_cost
    from {{ source('raw', 'products') }}

),

coded as (

    select
        product_id,
        product_name,
        category,
        {{ text_code('category') }} as category_code,
        {{ product_bucket('product_id') }} as product_bucket,
        subcategory,
        brand,
        unit_cost
    from products

)

select * from coded
