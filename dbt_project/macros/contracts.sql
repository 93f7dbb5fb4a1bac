{# dbt's contracts, with the types of our YAML: each word becomes the warehouse's name of the type. #}

{# Replaces dbt's macro: the query whose columns a model's must equal in name and type. #}
{% macro get_empty_schema_sql(columns) -%}
    select
    {%- for column in columns_for_warehouse(columns).values() %}
        cast(null as {{ column.data_type }}) as {{ column.name }}{{ ',' if not loop.last }}
    {%- endfor %}
{%- endmacro %}

{# Replaces dbt's macro: the columns of a `create table`. #}
{% macro table_columns_and_constraints() -%}
    {%- set columns = adapter.render_raw_columns_constraints(raw_columns=columns_for_warehouse(model.columns)) -%}
    {%- set constraints = adapter.render_raw_model_constraints(raw_constraints=model.constraints) -%}
    ({{ (columns + constraints) | join(', ') }})
{%- endmacro %}

{# A model's columns with the warehouse's types. Raises an error that names the columns without one that we know. #}
{% macro columns_for_warehouse(columns) -%}
    {%- set types, typed, unknown = column_types(), {}, [] -%}
    {%- for name, column in columns.items() -%}
        {%- if column.data_type in types -%}
            {%- do typed.update({name: dict(column, data_type=types[column.data_type])}) -%}
        {%- else -%}
            {%- do unknown.append(name ~ " (" ~ (column.data_type or "none") ~ ")") -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if unknown -%}
        {{ exceptions.raise_compiler_error(
            "the contract of " ~ model.name ~ " needs a data_type for " ~ (unknown | join(', ')) ~ ": one of "
            ~ (types | join(', ')) ~ ", see macros/dialect/column_types.sql"
        ) }}
    {%- endif -%}
    {{ return(typed) }}
{%- endmacro %}
