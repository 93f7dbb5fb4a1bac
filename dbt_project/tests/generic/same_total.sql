{# An expression over the whole of this model has the same value as one over another: nothing lost, nothing doubled. #}
{% test same_total(model, expression, to, to_expression, to_where="true") %}
    with
    here as (select {{ expression }} as total from {{ model }}),
    there as (select {{ to_expression }} as total from {{ to }} where {{ to_where }})

    select here.total as total, there.total as expected_total
    from here
    cross join there
    where here.total is distinct from there.total
{% endtest %}
