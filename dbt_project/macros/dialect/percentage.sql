{#
    What percentage of `whole` is `part`, both counts: 0 to 100 with two decimals, a half rounded up; NULL when
    the whole is zero.

    Rounded in whole hundredths, as integers: a rounded float is not the same number on every warehouse.
    It is floor(10000 * part / whole + 1/2) hundredths, exact up to 4 * 10^14 rows.
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
