{#
  Post-hook. PostgreSQL plans joins on a table written a second ago without knowing its
  size, and takes a minute for a second's work; ANALYZE tells it.
#}
{% macro refresh_statistics() -%}
    {{ return(adapter.dispatch('refresh_statistics', 'tierhouse')()) }}
{%- endmacro %}

{% macro default__refresh_statistics() -%}
{%- endmacro %}

{% macro postgres__refresh_statistics() -%}
    analyze {{ this }}
{%- endmacro %}

{# DuckDB finds rows by the ranges of its blocks; its indexes cost more memory than the tables. #}
{% macro duckdb__create_indexes(relation) -%}
{%- endmacro %}
