{#
    Tells Dagster what was built, from inside the run: the columns, and (of a table) the number of rows, also of those
    in the days that the run replaced. So nobody has to open the warehouse again to learn them. Says nothing to whoever
    runs dbt by hand.

    The columns go out as dagster-dbt's own macro `log_column_level_metadata` writes them; the counts after the word
    `metadata`, for our own asset functions.
#}
{% macro log_table_metadata() -%}
    {%- if execute and flags.WHICH in ('run', 'build') and env_var('DAGSTER_DBT_CLI', '') == 'true' -%}
        {%- set columns = {} -%}
        {%- for column in adapter.get_columns_in_relation(this) -%}
            {%- do columns.update({column.name: {
                'data_type': column.dtype if column.is_string() else column.data_type,
                'description': model.columns.get(column.name, {}).get('description', ''),
            }}) -%}
        {%- endfor -%}
        {%- do log(tojson({'columns': columns}), info=true) -%}
        {%- if model.config.materialized != 'view' -%}
            {%- set counts = {'dagster/row_count': _count_rows()} -%}
            {%- if model.config.materialized == 'incremental' and window() is not none -%}
                {%- do counts.update({'rows_in_window': _count_rows(in_window('partition_date'))}) -%}
            {%- endif -%}
            {%- do log('metadata ' ~ tojson(counts), info=true) -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}

{% macro _count_rows(condition='true') -%}
    {{ return(run_query('select count(*) from ' ~ this ~ ' where ' ~ condition).columns[0].values()[0] | int) }}
{%- endmacro %}
