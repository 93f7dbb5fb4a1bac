{#
    The half-open window of business days that this run replaces, from the vars: {'first': date, 'end': date}, or none
    if no window was given. Raises an error if only one var is given, or if they are not dates or an empty window.
#}
{% macro window() -%}
    {%- set first_day, end_day = var('first_day', none), var('end_day', none) -%}
    {%- if first_day is none and end_day is none -%}
        {{ return(none) }}
    {%- elif first_day is none or end_day is none -%}
        {{ exceptions.raise_compiler_error(
            "give both vars first_day and end_day, or neither; got first_day=" ~ first_day ~ ", end_day=" ~ end_day
        ) }}
    {%- endif -%}
    {%- set pattern = '^[0-9]{4}-[0-9]{2}-[0-9]{2}$' -%}
    {%- if not (modules.re.match(pattern, first_day | string) and modules.re.match(pattern, end_day | string)) -%}
        {{ exceptions.raise_compiler_error(
            "the vars first_day and end_day must be days as YYYY-MM-DD; got first_day=" ~ first_day ~ ", end_day=" ~ end_day
        ) }}
    {%- endif -%}
    {%- set first = modules.datetime.date.fromisoformat(first_day | string) -%}
    {%- set end = modules.datetime.date.fromisoformat(end_day | string) -%}
    {%- if first >= end -%}
        {{ exceptions.raise_compiler_error(
            "the window of days is empty: from " ~ first ~ " to before " ~ end ~ "; end_day is not included"
        ) }}
    {%- endif -%}
    {{ return({'first': first, 'end': end}) }}
{%- endmacro %}

{# The condition that a DATE column lies in the window; true for every day if no window was given. #}
{% macro in_window(column) -%}
    {{ in_days(column, window()) }}
{%- endmacro %}

{# The condition that a DATE column lies in these days, {'first': date, 'end': date}; true for every day if they are none. #}
{% macro in_days(column, days) -%}
    {%- if days is none -%}
        {{ in_any_day(column) }}
    {%- else -%}
        {{ column }} >= date '{{ days["first"] }}' and {{ column }} < date '{{ days["end"] }}'
    {%- endif -%}
{%- endmacro %}

{# A condition that is true for every day. On BigQuery the raw tables refuse queries without a filter on the partition. #}
{% macro in_any_day(column) -%}
    {{ column }} >= date '0001-01-01'
{%- endmacro %}

{#
    The days of the window as SQL literals, which are the partitions that BigQuery replaces; none without a window. Raises
    an error if the window has more days than one run can replace.
#}
{% macro window_days() -%}
    {%- set days = window() -%}
    {%- if days is none -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set number, most = (days['end'] - days['first']).days, most_days() -%}
    {%- if most is not none and number > most -%}
        {{ exceptions.raise_compiler_error(
            "the window from " ~ days['first'] ~ " to before " ~ days['end'] ~ " has " ~ number ~ " days, but one run replaces "
            ~ "at most " ~ most ~ ": split it"
        ) }}
    {%- endif -%}
    {%- set literals = [] -%}
    {%- for n in range(number) -%}
        {%- do literals.append("date '" ~ (days['first'] + modules.datetime.timedelta(days=n)) ~ "'") -%}
    {%- endfor -%}
    {{ return(literals) }}
{%- endmacro %}
