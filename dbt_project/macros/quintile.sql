{#
  1 (worst) to 5 (best) among the customers of a day. Equal values get equal quintiles,
  so the result depends on the values alone and not on the order of the rows.
  The order expression must put the worst customers first.
#}
{% macro quintile(worst_first) -%}
    cast(
        1 + floor(
            5 * cast(
                rank() over (partition by as_of_date order by {{ worst_first }}) - 1
                as double precision
            ) / count(*) over (partition by as_of_date)
        ) as integer
    )
{%- endmacro %}
