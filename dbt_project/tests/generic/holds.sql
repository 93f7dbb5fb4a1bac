{#
    A condition that is true of every row; NULL is not true. May stand at a column or at the model.
    With `day_column` only the days that the run replaces are looked at.
#}
{% test holds(model, condition, column_name=none, day_column=none) %}
    select * from {{ model }}
    where not coalesce({{ condition }}, false)
    {%- if day_column %} and {{ in_window(day_column) }}{% endif %}
{% endtest %}
