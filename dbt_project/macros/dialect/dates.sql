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

{# An instant as the microseconds since 1970. #}
{% macro microseconds(instant) -%}
    {{ return(adapter.dispatch('microseconds')(instant)) }}
{%- endmacro %}

{% macro duckdb__microseconds(instant) -%}
    epoch_us({{ instant }})
{%- endmacro %}

{% macro bigquery__microseconds(instant) -%}
    unix_micros({{ instant }})
{%- endmacro %}

{# The whole seconds, hours or days of 24 hours from one instant to another, rounded down; NULL if either is. #}
{% macro seconds_between(first, second) -%}
    {{ _whole(first, second, 1) }}
{%- endmacro %}

{% macro hours_between(first, second) -%}
    {{ _whole(first, second, 60 * 60) }}
{%- endmacro %}

{% macro days_between(first, second) -%}
    {{ _whole(first, second, 24 * 60 * 60) }}
{%- endmacro %}

{# Exact: a quotient is less than 2^32, and differs from the next whole number by 10^-6 or more, or not at all. #}
{% macro _whole(first, second, seconds) -%}
    cast(floor(({{ microseconds(second) }} - {{ microseconds(first) }}) / {{ seconds * 1000000 }}) as {{ column_types().int64 }})
{%- endmacro %}
