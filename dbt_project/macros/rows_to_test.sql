{#
  The rows that a data test looks at; the others were tested when they were built. each_day: of the
  as-of days being built. touched: of the days that a load touched, {day: a column, tables: [of raw]},
  or of the first of them and all after it, {since: a column, tables: [of raw]}.
#}
{% macro rows_to_test(each_day, touched) -%}
    {%- if each_day -%}
        as_of_date in ({{ as_of_date_literals() }})
    {%- elif touched and 'since' in touched and is_update() -%}
        {{ touched.since }} > {{ first_touched_day(touched.tables) }}
    {%- elif touched and 'day' in touched -%}
        {{ touched_days(touched.day, touched.tables) }}
    {%- else -%}
        true
    {%- endif -%}
{%- endmacro %}
