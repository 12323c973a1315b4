{#
  No two rows share these columns. each_day: look only at the days being built, because
  the other days were tested when they were built.
#}
{% test unique_together(model, columns, each_day=false) %}
    select
        {{ columns | join(', ') }}
    from {{ model }}
    {% if each_day -%}
        where as_of_date in ({{ as_of_date_literals() }})
    {%- endif %}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
