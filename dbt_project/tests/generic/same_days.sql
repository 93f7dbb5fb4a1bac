{#
    Each day that was staged has as many rows in this model as in another relation, and the same total of an expression.
    A day without rows may be missing in both.
#}
{% test same_days(model, to, total) %}
    with
    staged_days as (
        select partition_date, count(*) as row_count, coalesce(sum({{ total }}), 0) as total
        from {{ model }}
        group by partition_date
    ),
    expected_days as (
        select partition_date, count(*) as row_count, coalesce(sum({{ total }}), 0) as total
        from {{ to }}
        where {{ in_staged_days('partition_date', model) }}
        group by partition_date
    )

    select
        partition_date,
        staged_days.row_count,
        expected_days.row_count as expected_row_count,
        staged_days.total,
        expected_days.total as expected_total
    from staged_days
    full join expected_days using (partition_date)
    where staged_days.row_count is distinct from expected_days.row_count
        or staged_days.total is distinct from expected_days.total
{% endtest %}
