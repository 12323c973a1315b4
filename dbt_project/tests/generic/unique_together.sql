{#
  No two rows share these columns. Only rows just built are looked at: see rows_to_test. With
  `touched` only an update is tested, which might add rows to what it should have replaced; a full
  build groups by these columns.
#}
{% test unique_together(model, columns, each_day=false, touched=none) %}
    select
        {{ columns | join(', ') }}
    from {{ model }}
    where
        {{ rows_to_test(each_day, touched) }}
        {% if touched and not is_update() -%} and false {%- endif %}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
