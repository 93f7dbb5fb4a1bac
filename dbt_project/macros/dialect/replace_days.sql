{#
    How an incremental model replaces whole days in one atomic step. It removes all rows of these days, even if the
    new rows lack a day or a key, so that rows and days that vanished upstream vanish here too.
#}
{% macro replace_days_strategy() -%}
    {{ return(adapter.dispatch('replace_days_strategy')()) }}
{%- endmacro %}

{# Our own strategy: delete and insert in dbt's transaction (see replace_days_statements.sql). #}
{% macro duckdb__replace_days_strategy() -%}
    {{ return('replace_days') }}
{%- endmacro %}

{# dbt's strategy with our MERGE (see replace_days_statements.sql). #}
{% macro bigquery__replace_days_strategy() -%}
    {{ return('insert_overwrite') }}
{%- endmacro %}

{# The most days that one run can replace; none: no limit. #}
{% macro most_days() -%}
    {{ return(adapter.dispatch('most_days')()) }}
{%- endmacro %}

{% macro duckdb__most_days() -%}
    {{ return(none) }}
{%- endmacro %}

{#
    The most partitions that one BigQuery job may modify. A table with more days cannot be rebuilt at once either, only in
    windows. A table holds at most 10,000 partitions, which is 27 years.
#}
{% macro bigquery__most_days() -%}
    {{ return(4000) }}
{%- endmacro %}
