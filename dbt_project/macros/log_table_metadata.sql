{#
    Tells Dagster what was built, from inside the run: the columns, (of a table) the number of rows, also of those in the
    days that the run replaced, and the jobs of a service that did it. So nobody has to open the warehouse again to learn
    them. Says nothing to whoever runs dbt by hand.

    The columns go out as dagster-dbt's own macro `log_column_level_metadata` writes them; the rest after the word
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
        {%- set told = {'jobs': _jobs()} -%}
        {%- if model.config.materialized != 'view' -%}
            {%- do told.update({'dagster/row_count': _count_rows()}) -%}
            {%- if model.config.materialized == 'incremental' and window() is not none -%}
                {%- do told.update({'rows_in_window': _count_rows(in_window('partition_date'))}) -%}
            {%- endif -%}
        {%- endif -%}
        {%- do log('metadata ' ~ tojson(told), info=true) -%}
    {%- endif -%}
{%- endmacro %}

{#
    What the warehouse's service says of its jobs that built the model, in order: where an incremental model was prepared
    first, that job too. Empty where there is no service.
#}
{% macro _jobs() -%}
    {%- set jobs = [] -%}
    {%- for statement in ('create_tmp_relation', 'main') -%}
        {%- set result = load_result(statement) -%}
        {%- if result and result.response.job_id -%}
            {%- do jobs.append(result.response.to_dict(omit_none=true)) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(jobs) }}
{%- endmacro %}

{% macro _count_rows(condition='true') -%}
    {{ return(run_query('select count(*) from ' ~ this ~ ' where ' ~ condition).columns[0].values()[0] | int) }}
{%- endmacro %}
