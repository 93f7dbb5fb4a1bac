{# The business day of an instant: its DATE in the time zone of the business. #}
{% macro local_date(instant) -%}
    {{ return(adapter.dispatch('local_date')(instant)) }}
{%- endmacro %}

{% macro duckdb__local_date(instant) -%}
    cast({{ instant }} at time zone '{{ var("time_zone") }}' as date)
{%- endmacro %}

{% macro bigquery__local_date(instant) -%}
    date({{ instant }}, '{{ var("time_zone") }}')
{%- endmacro %}
