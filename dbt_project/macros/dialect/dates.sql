{# The days from one DATE to another: negative if the second is earlier. #}
{% macro days_between(first, second) -%}
    {{ return(adapter.dispatch('days_between')(first, second)) }}
{%- endmacro %}

{% macro duckdb__days_between(first, second) -%}
    date_diff('day', {{ first }}, {{ second }})
{%- endmacro %}

{% macro bigquery__days_between(first, second) -%}
    date_diff({{ second }}, {{ first }}, day)
{%- endmacro %}

{# An instant, days of 24 hours later. #}
{% macro add_days(instant, days) -%}
    {{ return(adapter.dispatch('add_days')(instant, days)) }}
{%- endmacro %}

{% macro duckdb__add_days(instant, days) -%}
    {{ instant }} + interval ({{ days }} * 24) hour
{%- endmacro %}

{% macro bigquery__add_days(instant, days) -%}
    timestamp_add({{ instant }}, interval {{ days }} * 24 hour)
{%- endmacro %}
