{# The hour of the day, 0 to 23, that a clock in the time zone of the business shows at an instant. #}
{% macro local_hour(instant) -%}
    extract(hour from {{ instant }} at time zone '{{ var("time_zone") }}')
{%- endmacro %}
