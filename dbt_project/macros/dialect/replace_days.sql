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

{# One MERGE; replace_days_statements.sql has both. #}
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

{#
    Partitions that BigQuery lets one job modify. So a table with more days than that is not built anew in one go either, only
    in windows; and it holds 10,000 at most, 27 years.
#}
{% macro bigquery__most_days() -%}
    {{ return(4000) }}
{%- endmacro %}
