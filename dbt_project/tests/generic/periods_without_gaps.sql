{# Each period of a key, [valid_from, valid_to), ends when the next one begins; only the last one has no end. #}
{% test periods_without_gaps(model, key) %}
    with
    periods as (
        select
            {{ key }},
            valid_from,
            valid_to,
            lead(valid_from) over (partition by {{ key }} order by valid_from) as next_valid_from
        from {{ model }}
    )

    select * from periods
    where valid_to is distinct from next_valid_from or valid_from is null or valid_from >= valid_to
{% endtest %}
