{#
    Audit before publication. The incremental model `X` publishes the rows of `X_staged`, a table beside it that holds
    only the days of the run. The tests belong to `X_staged`: if one of severity error fails, dbt skips `X`, and the
    published days stay as they were.
#}

{# The table that a staged relation is published as; none if it does not exist yet. #}
{% macro published_table(staged) -%}
    {%- if execute -%}
        {%- set published = adapter.get_relation(staged.database, staged.schema, staged.identifier[:-('_staged' | length)]) -%}
        {%- if published and published.is_table -%}
            {{ return(published) }}
        {%- endif -%}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}

{#
    Whether only the days of the window are staged. All days are if the published table is rebuilt in full: without a
    window, with --full-refresh, or because it does not exist yet.
#}
{% macro stages_window(staged) -%}
    {{ return(window() is not none and not flags.FULL_REFRESH and published_table(staged) is not none) }}
{%- endmacro %}

{#
    The days that this staged table holds and replaces: those of the window. A staged model with the meta
    `rebuilds_later_days` may hold the days after them, too.
#}
{% macro staged_days(staged) -%}
    {%- set days = window() -%}
    {%- set node = graph.get('nodes', {}).get('model.' ~ project_name ~ '.' ~ staged.identifier) if execute else none -%}
    {%- if days is not none and node and node.config.meta.get('rebuilds_later_days') -%}
        {%- set last = run_query('select max(partition_date) from ' ~ staged).columns[0].values()[0] -%}
        {%- if last and last >= days['end'] -%}
            {{ return({'first': days['first'], 'end': last + modules.datetime.timedelta(days=1)}) }}
        {%- endif -%}
    {%- endif -%}
    {{ return(days) }}
{%- endmacro %}

{# The condition that a DATE column lies in the days that are staged. #}
{% macro in_staged_days(column, staged) -%}
    {{ in_days(column, staged_days(staged)) if stages_window(staged) else in_any_day(column) }}
{%- endmacro %}

{#
    Before an incremental model is built, refuse to publish rows that this command does not stage and test as a whole: with
    `dbt run`, with a selection that leaves out the staged model or one of its tests, with --empty or --sample.
#}
{% macro require_audit() -%}
    {%- if execute and model.config.materialized == 'incremental' -%}
        {%- set staged = model.unique_id ~ '_staged' -%}
        {%- set missing = [] -%}
        {%- for node in graph.nodes.values() if node.unique_id not in selected_resources -%}
            {%- if node.unique_id == staged
                or node.resource_type == 'test' and node.config.severity | lower == 'error' and staged in node.depends_on.nodes -%}
                {%- do missing.append(node.name) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if missing or flags.EMPTY or flags.SAMPLE -%}
            {{ exceptions.raise_compiler_error(
                this ~ " publishes only rows that the same command staged and tested; this one left out "
                ~ (missing | join(', ') or 'rows (--empty or --sample)')
                ~ ": run `dbt build --select " ~ model.name ~ "_staged " ~ model.name ~ "`"
            ) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
