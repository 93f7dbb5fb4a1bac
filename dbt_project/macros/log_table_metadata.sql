{#
    Log for Dagster what was built: the columns, the row counts of a table (in total and in each day that the run
    replaced), a mart's first rows, and the jobs that built it. Logging inside the run saves opening the warehouse a
    second time. Logs nothing when a person runs dbt, and only the jobs of a staged model, whose table Dagster does not
    show.

    The word `metadata` comes first, and then JSON, which `ecommersss_platform/dbt/results.py` reads.
#}
{% macro log_table_metadata() -%}
    {%- if execute and flags.WHICH in ('run', 'build') and env_var('DAGSTER_DBT_CLI', '') == 'true' -%}
        {%- set reported = {'jobs': _jobs()} -%}
        {%- if not model.name.endswith('_staged') -%}
            {%- set columns = {} -%}
            {%- for column in adapter.get_columns_in_relation(this) -%}
                {%- do columns.update({column.name: {
                    'data_type': column.dtype if column.is_string() else column.data_type,
                    'description': model.columns.get(column.name, {}).get('description', ''),
                }}) -%}
            {%- endfor -%}
            {%- do reported.update({'columns': columns}) -%}
            {%- if model.config.materialized != 'view' -%}
                {%- set counted = run_query('select count(*) from ' ~ this) -%}
                {%- do reported.update({'dagster/row_count': counted.columns[0].values()[0] | int}) -%}
                {%- if model.config.materialized == 'incremental' and window() is not none -%}
                    {%- set by_day = _count_days() -%}
                    {%- do reported.update({'rows_per_day': by_day.rows, 'jobs': by_day.jobs + reported.jobs}) -%}
                {%- endif -%}
                {%- if model.schema == 'gold' -%}
                    {%- do reported.update({'preview': first_rows(columns)}) -%}
                {%- endif -%}
            {%- endif -%}
        {%- endif -%}
        {%- do log('metadata ' ~ tojson(reported), info=true) -%}
    {%- endif -%}
{%- endmacro %}

{#
    The service's figures about the jobs that built the model, in order. For an incremental model this includes the job
    that built its temporary table. Empty on a warehouse without a service.
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

{# The rows of each day of the window that has any, and the service's figures about the job that counted them, if any. #}
{% macro _count_days() -%}
    {%- call statement('count_days', fetch_result=true) -%}
        select {{ day_column() }}, count(*) from {{ this }} where {{ in_window(day_column()) }} group by 1
    {%- endcall -%}
    {%- set counted = load_result('count_days') -%}
    {%- set days = {} -%}
    {%- for row in counted.table.rows -%}
        {%- do days.update({row[0] | string: row[1] | int}) -%}
    {%- endfor -%}
    {{ return({'rows': days, 'jobs': [counted.response.to_dict(omit_none=true)] if counted.response.job_id else []}) }}
{%- endmacro %}

{# Up to five rows of the table that was built, as text, without personal data. A service bills a scan: it shows none. #}
{% macro first_rows(columns) -%}
    {{ return(adapter.dispatch('first_rows')(columns)) }}
{%- endmacro %}

{% macro duckdb__first_rows(columns) -%}
    {%- set public = [] -%}
    {%- for name in columns if not model.columns.get(name, {}).get('meta', {}).get('pii') -%}
        {%- do public.append(adapter.quote(name)) -%}
    {%- endfor -%}
    {%- set days = in_window(day_column()) if model.config.materialized == 'incremental' and window() is not none else 'true' -%}
    {%- set found = run_query('select ' ~ public | join(', ') ~ ' from ' ~ this ~ ' where ' ~ days ~ ' limit 5') -%}
    {%- set rows = [] -%}
    {%- for row in found.rows -%}
        {%- set texts = {} -%}
        {%- for name, value in row.dict().items() -%}
            {%- do texts.update({name: '' if value is none else value | string}) -%}
        {%- endfor -%}
        {%- do rows.append(texts) -%}
    {%- endfor -%}
    {{ return(rows) }}
{%- endmacro %}

{% macro bigquery__first_rows(columns) -%}
    {{ return([]) }}
{%- endmacro %}
