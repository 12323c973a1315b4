{#
  The SQL condition is not false for any row; name the columns that may be null in the
  condition itself. Only rows just built are looked at: see rows_to_test.
#}
{% test holds(model, truth, each_day=false, touched=none) %}
    select *
    from {{ model }}
    where not ({{ truth }})
    and {{ rows_to_test(each_day, touched) }}
{% endtest %}
