{#
    The lower and the upper end of the 95 % Wilson score interval of a share, from two counts; NULL if `trials` is zero.
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
#}
{% macro wilson_low(successes, trials) -%}
    {{ _wilson(successes, trials, '-') }}
{%- endmacro %}

{% macro wilson_high(successes, trials) -%}
    {{ _wilson(successes, trials, '+') }}
{%- endmacro %}

{% macro _wilson(successes, trials, sign) -%}
    {%- set z = 1.959963984540054 -%}
    {%- set as_float = ' as ' ~ column_types().float64 ~ ')' -%}
    {%- set n = 'nullif(cast(' ~ trials ~ as_float ~ ', 0)' -%}
    {%- set p = '(cast(' ~ successes ~ as_float ~ ' / ' ~ n ~ ')' -%}
    {{ rounded_share(
        '(' ~ p ~ ' + ' ~ z * z / 2 ~ ' / ' ~ n ~ ' ' ~ sign ~ ' ' ~ z ~ ' * sqrt((' ~ p ~ ' * (1 - ' ~ p ~ ') + '
        ~ z * z / 4 ~ ' / ' ~ n ~ ') / ' ~ n ~ ')) / (1 + ' ~ z * z ~ ' / ' ~ n ~ ')'
    ) }}
{%- endmacro %}

{# A float between 0 and 1 with four decimals, exact. #}
{% macro rounded_share(expression) -%}
    {{ return(adapter.dispatch('rounded_share')(expression)) }}
{%- endmacro %}

{% macro duckdb__rounded_share(expression) -%}
    cast(round({{ expression }}, 4) as decimal(5, 4))
{%- endmacro %}

{% macro bigquery__rounded_share(expression) -%}
    round(cast({{ expression }} as numeric), 4)
{%- endmacro %}
