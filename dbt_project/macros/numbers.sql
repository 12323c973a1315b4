{#
  A decimal divided, rounded half away from zero. PostgreSQL divides decimals as decimals; DuckDB
  makes doubles of them, and a cent of some would be another cent.
#}
{% macro divided(dividend, divisor, decimals) -%}
    {{ return(adapter.dispatch('divided', 'tierhouse')(dividend, divisor, decimals)) }}
{%- endmacro %}

{% macro default__divided(dividend, divisor, decimals) -%}
    round({{ dividend }} / {{ divisor }}, {{ decimals }})
{%- endmacro %}

{# In whole numbers: millionths of millionths over millionths. #}
{% macro duckdb__divided(dividend, divisor, decimals) -%}
    {%- set over -%}
        cast(cast({{ dividend }} as decimal(38, 12)) * 1000000000000 as hugeint)
    {%- endset -%}
    {%- set under -%}
        cast(cast({{ divisor }} as decimal(38, 6)) * 1000000 as hugeint)
    {%- endset -%}
    cast(
        cast(
            case when ({{ over }} < 0) = ({{ under }} < 0) then 1 else -1 end
            * (
                (2 * abs({{ over }}) + abs({{ under }}) * {{ 10 ** (6 - decimals) }})
                // (2 * abs({{ under }}) * {{ 10 ** (6 - decimals) }})
            ) as decimal(38, 0)
        ) * cast({{ '0.' ~ '0' * (decimals - 1) ~ '1' }} as decimal(7, {{ decimals }}))
        as decimal(38, {{ decimals }})
    )
{%- endmacro %}

{# A ratio as a double; null where there is nothing to divide by. #}
{% macro ratio(part, whole) -%}
    cast({{ part }} as double precision)
    / nullif(cast({{ whole }} as double precision), 0)
{%- endmacro %}

{# From -1 (all gone) over 0 (the same) to 1 (all new); null where there was nothing at either time. #}
{% macro change(now, before) -%}
    cast({{ now }} - {{ before }} as double precision)
    / nullif(cast(abs({{ now }}) + abs({{ before }}) as double precision), 0)
{%- endmacro %}

{#
  A whole number below 2 to the power of 28 that follows from a text, the same on every engine:
  the first seven hexadecimal digits of its MD5.
#}
{% macro text_code(text) -%}
    {{ return(adapter.dispatch('text_code', 'tierhouse')(text)) }}
{%- endmacro %}

{% macro postgres__text_code(text) -%}
    cast(('x' || left(md5({{ text }}), 7))::bit(28) as integer)
{%- endmacro %}

{% macro duckdb__text_code(text) -%}
    cast('0x' || left(md5({{ text }}), 7) as integer)
{%- endmacro %}

{# 1 to 8192: few enough for a model to learn each, many enough to keep most products apart. #}
{% macro product_bucket(product_id) -%}
    1 + {{ text_code(product_id) }} % 8192
{%- endmacro %}

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
