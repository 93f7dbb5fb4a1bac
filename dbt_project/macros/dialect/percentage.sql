{#
    The count `part` as a percentage of the count `whole`: 0 to 100 with two decimals, halves rounded up. NULL if
    the whole is zero.

    Computed in integer hundredths, floor(10000 * part / whole + 1/2), because warehouses round floats differently.
    Exact up to 4 * 10^14 rows.
#}
{% macro percentage(part, whole) -%}
    {{ return(adapter.dispatch('percentage')(part, whole)) }}
{%- endmacro %}

{% macro duckdb__percentage(part, whole) -%}
    cast(((20000 * {{ part }} + {{ whole }}) // nullif(2 * {{ whole }}, 0)) * 0.01 as decimal(5, 2))
{%- endmacro %}

{% macro bigquery__percentage(part, whole) -%}
    cast(div(20000 * {{ part }} + {{ whole }}, nullif(2 * {{ whole }}, 0)) as numeric) / 100
{%- endmacro %}

{# The same as a share: 0 to 1 with four decimals. #}
{% macro share(part, whole) -%}
    {{ return(adapter.dispatch('share')(part, whole)) }}
{%- endmacro %}

{% macro duckdb__share(part, whole) -%}
    cast({{ percentage(part, whole) }} * 0.01 as decimal(5, 4))
{%- endmacro %}

{% macro bigquery__share(part, whole) -%}
    {{ percentage(part, whole) }} / 100
{%- endmacro %}
