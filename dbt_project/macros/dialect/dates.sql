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

{# The whole hours from one instant to another, rounded down; NULL if either is. #}
{% macro hours_between(first, second) -%}
    {{ return(adapter.dispatch('hours_between')(first, second)) }}
{%- endmacro %}

{% macro duckdb__hours_between(first, second) -%}
    cast(floor((epoch_us({{ second }}) - epoch_us({{ first }})) / 3600000000) as bigint)
{%- endmacro %}

{% macro bigquery__hours_between(first, second) -%}
    cast(floor(timestamp_diff({{ second }}, {{ first }}, microsecond) / 3600000000) as int64)
{%- endmacro %}
