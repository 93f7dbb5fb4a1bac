{#
    An expression over this model equals an expression over another one: nothing is lost or counted twice. With
    `to_staged_days`, the other one is limited to the days that this staged model holds.
#}
{% test same_total(model, expression, to, to_expression, to_where="true", to_staged_days=false) %}
    with
    this_model as (select {{ expression }} as total from {{ model }}),
    other_model as (select {{ to_expression }} as total from {{ to }} where {{ to_where }}
        {%- if to_staged_days %} and {{ in_staged_days('partition_date', model) }}{% endif -%}
    )

    select this_model.total as total, other_model.total as expected_total
    from this_model
    cross join other_model
    where this_model.total is distinct from other_model.total
{% endtest %}
