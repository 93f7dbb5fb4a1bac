{#
    Whether a model is rebuilt in full. Replaces dbt's macro: an incremental model is rebuilt if the run has no window of
    days, too. The window is read when the model is built, so one parsed project serves every window.
#}
{% macro should_full_refresh() -%}
    {%- set asked = config.get('full_refresh') -%}
    {%- set asked = flags.FULL_REFRESH if asked is none else asked -%}
    {{ return(asked or (model.config.materialized == 'incremental' and window() is none)) }}
{%- endmacro %}
