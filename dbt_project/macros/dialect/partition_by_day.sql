{#
    The config `partition_by` of a table with one partition per day. DuckDB's own tables have no partitions. Not for a
    mart: it is made anew in each run, and BigQuery counts every partition of that towards what a table may change in a
    day (30,000), while a MERGE counts nothing. Their days are clustered instead.
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
