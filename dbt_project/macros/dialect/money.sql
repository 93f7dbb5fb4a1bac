{# Exact rupiah: never a float, and wide enough for any sum of amounts. #}
{% macro money(expression) -%}
    {{ return(adapter.dispatch('money')(expression)) }}
{%- endmacro %}

{% macro duckdb__money(expression) -%}
    cast({{ expression }} as decimal(38, 2))
{%- endmacro %}

{% macro bigquery__money(expression) -%}
    cast({{ expression }} as numeric)
{%- endmacro %}
