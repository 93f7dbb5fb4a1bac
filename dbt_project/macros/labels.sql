{#
    The last business day whose disputes and verdicts count, as SQL: the var `labels_as_of`, or today. Orders are mature or
    not as of its end.
#}
{% macro labels_day() -%}
    {%- set day = var('labels_as_of', none) -%}
    {%- if day is none -%}
        {{ return(local_date('current_timestamp')) }}
    {%- elif not modules.re.match('^[0-9]{4}-[0-9]{2}-[0-9]{2}$', day | string) -%}
        {{ exceptions.raise_compiler_error("the var labels_as_of must be a day as YYYY-MM-DD; got " ~ day) }}
    {%- endif -%}
    {{ return("date '" ~ day ~ "'") }}
{%- endmacro %}
