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

)

select * from products
