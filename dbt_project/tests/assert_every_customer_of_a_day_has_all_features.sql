-- The families of a day hold the same customers: joining them loses nobody.
with

counted as (

    {% for family in ['rfm', 'behaviour', 'engagement', 'profile'] %}
        select
            '{{ family }}' as family,
            as_of_date,
            count(*) as customers
        from {{ ref('feat_customer_' ~ family) }}
        where as_of_date in ({{ as_of_date_literals() }})
        group by as_of_date
        {% if not loop.last %}union all{% endif %}
    {% endfor %}

),

joined as (

    select
        as_of_date,
        count(*) as customers
    from {{ ref('customer_features') }}
    where as_of_date in ({{ as_of_date_literals() }})
    group by as_of_date

)

select
    counted.family,
    counted.as_of_date,
    counted.customers,
    joined.customers as joined_customers
from counted
left join joined on counted.as_of_date = joined.as_of_date
where counted.customers <> coalesce(joined.customers, 0)
