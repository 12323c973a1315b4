{# Whole days from one date to a later one. dbt.datediff differs in type between engines. #}
{% macro days_between(first_date, second_date) -%}
    cast({{ dbt.datediff(first_date, second_date, 'day') }} as integer)
{%- endmacro %}

{# A date some days later. dbt.dateadd makes a timestamp of it. #}
{% macro plus_days(a_date, days) -%}
    {{ a_date }} + {{ days }}
{%- endmacro %}

{# The first as-of day that sees a row: the day after its own, or the day it was delivered. #}
{% macro known_on(a_date, known_at) -%}
    greatest({{ plus_days(a_date, 1) }}, {{ delivered_on(known_at) }})
{%- endmacro %}

{#
  The day a row was delivered, where the source says so; null for others and for what the shop's
  first daily delivery brought: that is its history, and when it became known nobody has recorded.
#}
{% macro delivered_on(known_at) -%}
    {%- if var('first_delivery') -%}
        case
            when
                cast({{ known_at }} as date)
                > cast('{{ var('first_delivery') }}' as date)
                then cast({{ known_at }} as date)
        end
    {%- else -%}
        cast({{ known_at }} as date)
    {%- endif -%}
{%- endmacro %}

{# 1 (Monday) to 7. #}
{% macro iso_weekday(a_date) -%}
    cast(extract(isodow from {{ a_date }}) as integer)
{%- endmacro %}

{# Whole seconds between two times. PostgreSQL has no datediff, and dbt's stand-in is a page long. #}
{% macro seconds_between(first_time, second_time) -%}
    {{ return(adapter.dispatch('seconds_between', 'tierhouse')(first_time, second_time)) }}
{%- endmacro %}

{% macro default__seconds_between(first_time, second_time) -%}
    {{ dbt.datediff(first_time, second_time, 'second') }}
{%- endmacro %}

{% macro postgres__seconds_between(first_time, second_time) -%}
    cast(
        extract(
            epoch from date_trunc('second', {{ second_time }})
            - date_trunc('second', {{ first_time }})
        ) as bigint
    )
{%- endmacro %}

{# The body of a CTE with the numbers from 1 to a last one: generated_number. #}
{% macro numbers_to(last_number) -%}
    {{ dbt.generate_series(last_number) }}
{%- endmacro %}

{# The day from which days are counted where a number must stand for a date. #}
{% macro epoch() -%}
    {{ return("cast('1970-01-01' as date)") }}
{%- endmacro %}
