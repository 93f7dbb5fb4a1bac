{# The config `partition_by` of a table with one partition per day. DuckDB's own tables have no partitions. #}
{% macro partition_by_day(column) -%}
    {{ return(adapter.dispatch('partition_by_day')(column)) }}
{%- endmacro %}

{% macro duckdb__partition_by_day(column) -%}
    {{ return(none) }}
{%- endmacro %}

{% macro bigquery__partition_by_day(column) -%}
    {{ return({'field': column, 'data_type': 'date', 'granularity': 'day'}) }}
{%- endmacro %}
