{#
  Incremental strategy: the days being built leave the table, then their new rows enter,
  in the transaction of the model. The days come from the variable and not from the new
  rows, so a day that now yields nothing ends up empty.
#}
{% macro get_incremental_replace_days_sql(arg_dict) %}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}

    delete from {{ arg_dict['target_relation'] }}
    where as_of_date in ({{ as_of_date_literals() }});

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }}
    from {{ arg_dict['temp_relation'] }}
{% endmacro %}
