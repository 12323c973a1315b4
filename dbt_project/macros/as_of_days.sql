{#
  The days to build: var as_of_dates, checked, each once, in order.
  Parsing renders every model before a day is known, so only execution insists.
#}
{% macro as_of_dates() %}
    {%- set days = [] -%}
    {%- for day in var('as_of_dates') -%}
        {%- set text = day | string -%}
        {%- if not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', text) -%}
            {{ exceptions.raise_compiler_error(
                "as_of_dates holds '" ~ text ~ "', which is no ISO date such as 2011-09-09."
            ) }}
        {%- endif -%}
        {%- do days.append(text) -%}
    {%- endfor -%}
    {%- if execute and not days -%}
        {{ exceptions.raise_compiler_error(
            "No as-of day to build. Name at least one: "
            ~ "--vars '{\"as_of_dates\": [\"2011-09-09\"]}'"
        ) }}
    {%- endif -%}
    {{ return((days or ['1970-01-01']) | unique | sort) }}
{% endmacro %}

{# The body of a CTE with one row per day: as_of_date. #}
{% macro as_of_days() -%}
    {%- for day in as_of_dates() -%}
        {%- if not loop.first %} union all {% endif -%}
        select cast('{{ day }}' as date) as as_of_date
    {%- endfor -%}
{%- endmacro %}

{# The same days as a list of literals: as_of_date in (...). #}
{% macro as_of_date_literals() -%}
    {%- for day in as_of_dates() -%}
        cast('{{ day }}' as date){% if not loop.last %}, {% endif %}
    {%- endfor -%}
{%- endmacro %}

{# The body of a CTE with one row per label window: horizon_days. #}
{% macro label_horizons() -%}
    {%- for horizon in var('horizons') -%}
        {%- if not loop.first %} union all {% endif -%}
        select cast({{ horizon }} as integer) as horizon_days
    {%- endfor -%}
{%- endmacro %}

{# Lengths of the feature windows in days. #}
{% macro feature_windows() -%}
    {{ return([7, 14, 30, 60, 90, 180, 365]) }}
{%- endmacro %}

{# Lengths of the windows that begin 365 days before the as-of day, in days. #}
{% macro last_year_windows() -%}
    {{ return([30, 90, 180]) }}
{%- endmacro %}
