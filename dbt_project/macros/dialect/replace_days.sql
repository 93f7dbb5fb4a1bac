{#
    How an incremental model replaces whole days in one atomic step. Everything that the table holds of the days
    goes, whether the new rows have such a day or key or not, so a row or a day that vanished upstream vanishes.
#}
{% macro replace_days_strategy() -%}
    {{ return(adapter.dispatch('replace_days_strategy')()) }}
{%- endmacro %}

{# Our own strategy: delete and insert, in dbt's transaction. #}
{% macro duckdb__replace_days_strategy() -%}
    {{ return('replace_days') }}
{%- endmacro %}

{# One MERGE with the static list of days as its predicate. #}
{% macro bigquery__replace_days_strategy() -%}
    {{ return('insert_overwrite') }}
{%- endmacro %}

{# How many days one run can replace; none: any number. #}
{% macro most_days() -%}
    {{ return(adapter.dispatch('most_days')()) }}
{%- endmacro %}

{% macro duckdb__most_days() -%}
    {{ return(none) }}
{%- endmacro %}

{# Partitions that BigQuery lets one job modify. #}
{% macro bigquery__most_days() -%}
    {{ return(4000) }}
{%- endmacro %}

{% macro get_incremental_replace_days_sql(arg_dict) -%}
    {%- set columns = get_quoted_csv(arg_dict['dest_columns'] | map(attribute='name')) -%}
    {%- if window() is none -%}
        {{ exceptions.raise_compiler_error("replace_days needs the vars first_day and end_day: which days to replace") }}
    {%- endif -%}
    delete from {{ arg_dict['target_relation'] }} where {{ in_window('partition_date') }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{%- endmacro %}
