{# One row per text in an array column, under the name `element`; a row with an empty array gives none. #}
{% macro cross_join_unnest(array, element) -%}
    {{ return(adapter.dispatch('cross_join_unnest')(array, element)) }}
{%- endmacro %}

{% macro duckdb__cross_join_unnest(array, element) -%}
    cross join unnest({{ array }}) as unnested_{{ element }}({{ element }})
{%- endmacro %}

{% macro bigquery__cross_join_unnest(array, element) -%}
    cross join unnest({{ array }}) as {{ element }}
{%- endmacro %}
