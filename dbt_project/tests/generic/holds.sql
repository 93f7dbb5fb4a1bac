{#
    The condition is true for every row; NULL counts as false. Usable on a column or a model. With `day_column`, only the
    days that the run replaces are tested.
#}
{% test holds(model, condition, column_name=none, day_column=none) %}
    select * from {{ model }}
    where not coalesce({{ condition }}, false)
    {%- if day_column %} and {{ in_window(day_column) }}{% endif %}
{% endtest %}
