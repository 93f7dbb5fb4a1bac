{# The first day of a DATE's month. #}
{% macro start_of_month(day) -%}
    {{ return(adapter.dispatch('start_of_month')(day)) }}
{%- endmacro %}

{% macro duckdb__start_of_month(day) -%}
    cast(date_trunc('month', {{ day }}) as date)
{%- endmacro %}

{% macro bigquery__start_of_month(day) -%}
    date_trunc({{ day }}, month)
{%- endmacro %}

{# How often a new day or month (`unit`) began from one DATE to another; negative if the other is earlier. #}
{% macro calendar_difference(unit, first, second) -%}
    {{ return(adapter.dispatch('calendar_difference')(unit, first, second)) }}
{%- endmacro %}

{% macro duckdb__calendar_difference(unit, first, second) -%}
    date_diff('{{ unit }}', {{ first }}, {{ second }})
{%- endmacro %}

{% macro bigquery__calendar_difference(unit, first, second) -%}
    date_diff({{ second }}, {{ first }}, {{ unit }})
{%- endmacro %}

{# The array of the integers from 0 to `last`, both included. #}
{% macro numbers_to(last) -%}
    {{ return(adapter.dispatch('numbers_to')(last)) }}
{%- endmacro %}

{% macro duckdb__numbers_to(last) -%}
    generate_series(0, {{ last }})
{%- endmacro %}

{% macro bigquery__numbers_to(last) -%}
    generate_array(0, {{ last }})
{%- endmacro %}
