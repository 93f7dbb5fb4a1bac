{#
    A quantile of the delivered rows of a group: the smallest value that at least `percent` per cent of them do not exceed.
    NULL without any. The rows have `is_delivered`, their `delivery_rank` by the value and the number of `deliveries`.
#}
{% macro quantile(value, percent) -%}
    min(case when is_delivered and delivery_rank * 100 >= {{ percent }} * deliveries then {{ value }} end)
{%- endmacro %}
