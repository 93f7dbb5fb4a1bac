{#
    The comment of every statement, as JSON. BigQuery turns its keys and values into job labels. `dagster_run_id` and
    `asset` mean the same as in the jobs that load the raw tables.
#}
{% macro job_labels(node) -%}
    {%- set labels = {'managed_by': project_name} -%}
    {%- set run_id = env_var('DBT_ENV_CUSTOM_ENV_DAGSTER_RUN_ID', '') -%}
    {%- if run_id -%}
        {%- do labels.update({'dagster_run_id': run_id}) -%}
    {%- endif -%}
    {%- if node and node.resource_type == 'model' -%}
        {%- do labels.update({'asset': node.schema ~ '_' ~ node.alias}) -%}
    {%- elif node -%}
        {%- do labels.update({node.resource_type: node.name}) -%}
    {%- endif -%}
    {{ return(tojson(labels)) }}
{%- endmacro %}
