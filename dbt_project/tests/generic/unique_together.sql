{# No two rows share these columns. Only rows just built are looked at: see rows_to_test. #}
{% test unique_together(model, columns, each_day=false, touched=none) %}
    select
        {{ columns | join(', ') }}
    from {{ model }}
    where {{ rows_to_test(each_day, touched) }}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
