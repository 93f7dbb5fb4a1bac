{# The hour of the day (0 to 23) of an instant, in the time zone of the business. #}
{% macro local_hour(instant) -%}
    extract(hour from {{ instant }} at time zone '{{ var("time_zone") }}')
{%- endmacro %}
