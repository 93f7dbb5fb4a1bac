{#
    No two rows of a staged model have the same value in the column, and no published row of another day has one of
    these values.
#}
{% test unique_among_days(model, column_name) %}
    with
    all_days as (
        select {{ column_name }} from {{ model }}
        {%- if stages_window(model) %}
        union all
        select {{ column_name }} from {{ published_table(model) }}
        where not ({{ in_staged_days('partition_date', model) }}) and {{ column_name }} in (select {{ column_name }} from {{ model }})
        {%- endif %}
    )

    select {{ column_name }}, count(*) as copies
    from all_days
    group by {{ column_name }}
    having count(*) > 1
{% endtest %}
