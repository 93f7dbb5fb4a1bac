{# A model's dataset is exactly the one that it states: bronze, silver or gold, never with a target's prefix. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ (custom_schema_name or target.schema) | trim }}
{%- endmacro %}
