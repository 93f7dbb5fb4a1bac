{# One row for each text of an array column, named `element`. A row with an empty array yields none. #}
{% macro cross_join_unnest(array, element) -%}
    {{ return(adapter.dispatch('cross_join_unnest')(array, element)) }}
{%- endmacro %}

{% macro duckdb__cross_join_unnest(array, element) -%}
    cross join unnest({{ array }}) as unnested_{{ element }}({{ element }})
{%- endmacro %}

{% macro bigquery__cross_join_unnest(array, element) -%}
    cross join unnest({{ array }}) as {{ element }}
{%- endmacro %}
