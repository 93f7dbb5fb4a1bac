{# The condition is true for every row; NULL counts as false. Usable on a column or a model. #}
{% test holds(model, condition, column_name=none) %}
    select * from {{ model }}
    where not coalesce({{ condition }}, false)
{% endtest %}
