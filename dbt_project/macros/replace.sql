{#
  Incremental strategies: what is built again leaves the table, then its new rows enter, in the
  transaction of the model. What leaves follows from what was asked for and not from the new rows,
  so that what now yields nothing ends up empty.

  replace_days       the as-of days being built
  replace_touched    what a load touched: config `replaces` is the condition on the standing rows
#}
{% macro get_incremental_replace_days_sql(arg_dict) %}
    {{ replace_rows(arg_dict, 'as_of_date in (' ~ as_of_date_literals() ~ ')') }}
{% endmacro %}

{% macro get_incremental_replace_touched_sql(arg_dict) %}
    {{ replace_rows(arg_dict, config.require('replaces')) }}
{% endmacro %}

{% macro replace_rows(arg_dict, condition) %}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}

    delete from {{ arg_dict['target_relation'] }}
    where {{ condition }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }}
    from {{ arg_dict['temp_relation'] }}
{% endmacro %}
