{# DuckDB: dbt calls this for the strategy `replace_days`, in its transaction. #}
{% macro get_incremental_replace_days_sql(arg_dict) -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    delete from {{ arg_dict['target_relation'] }} where {{ _in_days_to_replace(day_column()) }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{%- endmacro %}

{#
    BigQuery: replaces dbt's statement for `insert_overwrite`, which filters on `date(partition_date) in (...)`. BigQuery
    prunes partitions reliably only if the bare column is compared with constants. This one also keeps out new rows of
    other days.

    The MERGE takes turns at a lock, as those of the raw tables do: see `in_turn_sql` in
    ecommersss_platform/warehouse/bigquery/sql.py. So a MERGE that a killed dbt left behind ends before this one begins.
#}
{% macro bigquery__get_insert_overwrite_merge_sql(target, source, dest_columns, predicates, include_sql_header) -%}
    {%- set columns = get_quoted_csv(dest_columns | map(attribute='name')) -%}
    {%- set lock = target.incorporate(path={'identifier': target.identifier ~ '_lock'}) -%}
    {%- set take = 'update ' ~ lock ~ ' set taken_at = current_timestamp() where true' -%}
    create table if not exists {{ lock }} as select current_timestamp() as taken_at;
    {{ take }};
    begin transaction;
    {{ take }};
    merge into {{ target }} as replaced
    using (select * from {{ source }} where {{ _in_days_to_replace(day_column()) }}) as staged
    on false
    when not matched by source and {{ _in_days_to_replace('replaced.' ~ day_column()) }} then delete
    when not matched then insert ({{ columns }}) values ({{ columns }});
    commit transaction
{%- endmacro %}

{#
    BigQuery: replaces dbt's choice between the partitions of the model's config, which are fixed when the project is
    parsed, and those that it finds in the new rows. Here they are the days of the window, with or without rows.
#}
{% macro bq_insert_overwrite_sql(
    tmp_relation, target_relation, sql, unique_key, partition_by, partitions, dest_columns, tmp_relation_exists, copy_partitions
) -%}
    {{ bq_static_insert_overwrite_sql(
        tmp_relation, target_relation, sql, partition_by, window_days(), dest_columns, tmp_relation_exists, copy_partitions
    ) }}
{%- endmacro %}

{# The DATE column of an incremental model by which days are replaced: `partition_date`, or its meta `day_column`. #}
{% macro day_column() -%}
    {{ return(model.config.meta.get('day_column', 'partition_date')) }}
{%- endmacro %}

{% macro _in_days_to_replace(column) -%}
    {%- if window() is none -%}
        {{ exceptions.raise_compiler_error("no days to replace: give the vars first_day and end_day") }}
    {%- endif -%}
    {{ in_days(column, staged_days(this.incorporate(path={'identifier': this.identifier ~ '_staged'}))) }}
{%- endmacro %}
