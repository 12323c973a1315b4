{#
  Incremental strategies: what is built again leaves the table, then its new rows enter, in the
  transaction of the model. What leaves follows from what was asked for and not from the new rows,
  so that what now yields nothing ends up empty.

  replace_days       the as-of days being built
  replace_touched    what a load touched in the `tables` of raw that config meta.replaces names: the
                     rows of these days (`days`: a column), or of these customers (`customers`),
                     of the latter only what stands after the first day (`since`)
#}
{% macro get_incremental_replace_days_sql(arg_dict) %}
    {{ replace_rows(arg_dict, 'as_of_date in (' ~ as_of_date_literals() ~ ')') }}
{% endmacro %}

{% macro get_incremental_replace_touched_sql(arg_dict) %}
    {%- set replaces = config.get('meta')['replaces'] -%}
    {%- if not is_update() -%}
        {%- set condition = 'true' -%}
    {%- elif 'days' in replaces -%}
        {%- set condition = touched_days(replaces.days, replaces.tables) -%}
    {%- else -%}
        {%- set condition = touched_customers(replaces.customers, replaces.tables) -%}
        {%- if 'since' in replaces -%}
            {%- set since = first_touched_day(replaces.tables) -%}
            {%- set condition = condition ~ ' and ' ~ replaces.since ~ ' > ' ~ since -%}
        {%- endif -%}
    {%- endif -%}
    {{ replace_rows(arg_dict, condition) }}
{% endmacro %}

{% macro replace_rows(arg_dict, condition) %}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}

    delete from {{ arg_dict['target_relation'] }}
    where {{ condition }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }}
    from {{ arg_dict['temp_relation'] }}
{% endmacro %}

{#
  An incremental model's new rows go straight into its table: what dbt makes a temporary table of
  is a temporary view here, so that they are not written twice. No model reads its own table, so
  it does not matter that the old rows have left when the view is read.
#}
{% macro postgres__create_table_as(temporary, relation, sql) -%}
    {%- if temporary and config.get('materialized') == 'incremental' -%}
        {{ rows_to_come(relation, sql) }}
    {%- else -%}
        {{ dbt.postgres__create_table_as(temporary, relation, sql) }}
    {%- endif -%}
{%- endmacro %}

{% macro duckdb__create_table_as(temporary, relation, compiled_code, language='sql', partitioned_by=none, sorted_by=none) -%}
    {%- if temporary and config.get('materialized') == 'incremental' -%}
        {{ rows_to_come(relation.include(database=false, schema=false), compiled_code) }}
    {%- else -%}
        {{ dbt.duckdb__create_table_as(
            temporary, relation, compiled_code, language, partitioned_by, sorted_by
        ) }}
    {%- endif -%}
{%- endmacro %}

{% macro rows_to_come(relation, sql) -%}
    {%- if config.get('contract').enforced -%}
        {{ get_assert_columns_equivalent(sql) }}
    {%- endif -%}
    create temporary view {{ relation }} as (
        {{ sql }}
    );
{%- endmacro %}
