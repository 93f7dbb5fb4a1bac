{#
    The warehouse's names of the types that a column's `data_type` in YAML may have, by their neutral words. Those of raw
    columns are the members of `Type` in ecommersss_platform/contracts.py; `money_sum`, `percentage` and `share` are what
    the macros `money`, `percentage` and `share` return.
#}
{% macro column_types() -%}
    {{ return(adapter.dispatch('column_types')()) }}
{%- endmacro %}

{% macro duckdb__column_types() -%}
    {{ return({
        'int64': 'bigint',
        'float64': 'double',
        'string': 'varchar',
        'strings': 'varchar[]',
        'bool': 'boolean',
        'date': 'date',
        'timestamp': 'timestamp with time zone',
        'money': 'decimal(18, 2)',
        'money_sum': 'decimal(38, 2)',
        'percentage': 'decimal(5, 2)',
        'share': 'decimal(5, 4)',
    }) }}
{%- endmacro %}

{% macro bigquery__column_types() -%}
    {{ return({
        'int64': 'int64',
        'float64': 'float64',
        'string': 'string',
        'strings': 'array<string>',
        'bool': 'bool',
        'date': 'date',
        'timestamp': 'timestamp',
        'money': 'numeric',
        'money_sum': 'numeric',
        'percentage': 'numeric',
        'share': 'numeric',
    }) }}
{%- endmacro %}
