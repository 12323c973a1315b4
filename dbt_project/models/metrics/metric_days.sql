with

numbers as (

    {{ numbers_to(18263) }}

),

metric_days as (

    select
        {{ plus_days(
            "cast('2000-01-01' as date)",
            'cast(generated_number - 1 as integer)'
        ) }} as date_day
    from numbers

)

select * from metric_days
