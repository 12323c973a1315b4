{#
  The SQL condition is not false for any row; name the columns that may be null in the
  condition itself. each_day: look only at the days being built.
#}
{% test holds(model, truth, each_day=false) %}
    select *
    from {{ model }}
    where not ({{ truth }})
    {% if each_day -%}
        and as_of_date in ({{ as_of_date_literals() }})
    {%- endif %}
{% endtest %}
