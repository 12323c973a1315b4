{# Whole days from one date to a later one. dbt.datediff differs in type between engines. #}
{% macro days_between(first_date, second_date) -%}
    cast({{ dbt.datediff(first_date, second_date, 'day') }} as integer)
{%- endmacro %}
