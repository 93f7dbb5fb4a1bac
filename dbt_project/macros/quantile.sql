{#
    A quantile of the delivered rows of a group, in per cent: the smallest value that at least so many per cent do not exceed.
    NULL without any. The rows have `is_delivered`, their `delivery_rank` by the value and the number of `deliveries`.
#}
{% macro quantile(value, percent) -%}
    min(case when is_delivered and delivery_rank * 100 >= {{ percent }} * deliveries then {{ value }} end)
{%- endmacro %}
