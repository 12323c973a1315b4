{#
  An update builds again only what a load touched: whole days of the tables that hold facts by
  day, and all of the customers who were in them. `tierhouse build` knows both from ops.changes
  and says which days in var touched_days, by raw table, as ranges of two ISO dates; the customers
  are in ops.touched_customers. Without the variable everything is built.
#}
{% macro is_update() %}
    {{ return(var('touched_days') is mapping) }}
{% endmacro %}

{# A condition on a date or timestamp column: the row is of a day that one of the tables had touched. #}
{% macro touched_days(column, tables) -%}
    {%- if not is_update() -%}
        true
    {%- else -%}
        {%- set ranges = [] -%}
        {%- for table in tables -%}
            {%- do ranges.extend(var('touched_days').get(table, [])) -%}
        {%- endfor -%}
        (false
        {%- for first, last in ranges %}
            or ({{ column }} >= cast('{{ first }}' as date)
            and {{ column }} < {{ plus_days("cast('" ~ last ~ "' as date)", 1) }})
        {%- endfor -%}
        )
    {%- endif -%}
{%- endmacro %}

{# A condition on a column: the customer had a row touched in one of the tables. #}
{% macro touched_customers(column, tables) -%}
    {%- if not is_update() -%}
        true
    {%- else -%}
        {{ column }} in (
            select touched.customer_id
            from {{ source('ops', 'touched_customers') }} as touched
            where touched.table_name in ('{{ tables | join("', '") }}')
        )
    {%- endif -%}
{%- endmacro %}

{# The first day that any of the tables had touched, as a date literal. #}
{% macro first_touched_day(tables) -%}
    {%- set firsts = [] -%}
    {%- for table in tables -%}
        {%- for first, last in var('touched_days').get(table, []) -%}
            {%- do firsts.append(first | string) -%}
        {%- endfor -%}
    {%- endfor -%}
    cast('{{ firsts | min if firsts else '9999-12-30' }}' as date)
{%- endmacro %}

{#
  A condition on a staged row: it may stand in a customer's stream after the first day that any of
  the tables had touched, by its own time or because it was delivered late.
#}
{% macro touched_since(time, tables) -%}
    {%- if not is_update() -%}
        true
    {%- else -%}
        {{ touched_customers('customer_id', tables) }}
        and (
            {{ time }} >= {{ first_touched_day(tables) }}
            or known_at >= {{ plus_days(first_touched_day(tables), 1) }}
        )
    {%- endif -%}
{%- endmacro %}
