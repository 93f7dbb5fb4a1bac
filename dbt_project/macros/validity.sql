{#
    From versions to the periods in which a row was valid: half-open, [valid_from, valid_to), without gaps, the last one
    without an end. A period begins when one of `columns` changes, so a version that changes nothing else than other columns
    begins none. Of the versions of one instant, only the one with the highest number was ever valid.
#}

{# For the versions: keep one for each `key` and instant. Ends the query. #}
{% macro last_version_of_each_instant(key) -%}
    qualify row_number() over (partition by {{ key }}, valid_from order by version desc) = 1
{%- endmacro %}

{# For the versions: since when each has been known; the first one of each `key` always was. #}
{% macro known_from(key) -%}
    case
        when row_number() over (partition by {{ key }} order by version) = 1 then {{ first_instant() }}
        else coalesce(recorded_at, valid_from)
    end
{%- endmacro %}

{#
    Bounds of periods without a beginning or an end. A join on periods needs bounds that are never NULL: with a condition
    such as `valid_to is null or ...`, DuckDB compares every pair of rows in an outer join.
#}
{% macro first_instant() -%}
    cast('0001-01-01 00:00:00+00:00' as {{ column_types().timestamp }})
{%- endmacro %}

{% macro last_instant() -%}
    cast('9999-12-31 00:00:00+00:00' as {{ column_types().timestamp }})
{%- endmacro %}

{# For these: keep those that differ from the one before. Ends the query. #}
{% macro only_changes(key, columns) -%}
    {%- set before = 'over (partition by ' ~ key ~ ' order by valid_from)' -%}
    qualify row_number() {{ before }} = 1
    {%- for column in columns %}
        or {{ column }} is distinct from lag({{ column }}) {{ before }}
    {%- endfor %}
{%- endmacro %}

{# For these: the column `valid_to`, NULL for the last period. #}
{% macro valid_to(key) -%}
    lead(valid_from) over (partition by {{ key }} order by valid_from)
{%- endmacro %}
