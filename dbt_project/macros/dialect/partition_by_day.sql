{#
    The config `partition_by` of a table with one partition per day. DuckDB's tables have no partitions.

    Do not use it for a mart. A mart is rebuilt in each run, and BigQuery counts every rebuilt partition towards the daily
    limit of partition changes per table (30,000); a MERGE counts none. Cluster a mart by day instead.
#}
{% macro partition_by_day(column) -%}
    {{ return(adapter.dispatch('partition_by_day')(column)) }}
{%- endmacro %}

{% macro duckdb__partition_by_day(column) -%}
    {{ return(none) }}
{%- endmacro %}

{% macro bigquery__partition_by_day(column) -%}
    {{ return({'field': column, 'data_type': 'date', 'granularity': 'day'}) }}
{%- endmacro %}
