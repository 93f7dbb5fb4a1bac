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

{#
    The same for a count: how many of `population` rows would be successes, if `trials` of them were drawn at random; in
    whole rows.
#}
{% macro estimated_count(successes, trials, population) -%}
    {%- set as_float = ' as ' ~ column_types().float64 ~ ')' -%}
    {{ _whole_rows(
        'cast(' ~ population ~ as_float ~ ' * ' ~ successes ~ ' / nullif(cast(' ~ trials ~ as_float ~ ', 0)'
    ) }}
{%- endmacro %}

{% macro estimated_count_low(successes, trials, population) -%}
    {{ _whole_rows(population ~ ' * (' ~ _wilson_bound(successes, trials, '-') ~ ')') }}
{%- endmacro %}

{% macro estimated_count_high(successes, trials, population) -%}
    {{ _whole_rows(population ~ ' * (' ~ _wilson_bound(successes, trials, '+') ~ ')') }}
{%- endmacro %}

{#
    The sum of such counts over rows, each with a sample of its own. The distances of the ends from the estimates add up by
    their squares. G. Y. Zou and A. Donner, "Construction of confidence limits about effect measures", 2008.
#}
{% macro summed_count(successes, trials, population) -%}
    {{ _whole_rows(_summed(successes, trials, population)) }}
{%- endmacro %}

{% macro summed_count_low(successes, trials, population) -%}
    {{ _whole_rows(_summed(successes, trials, population) ~ ' - ' ~ _summed_distance(successes, trials, population, '-')) }}
{%- endmacro %}

{% macro summed_count_high(successes, trials, population) -%}
    {{ _whole_rows(_summed(successes, trials, population) ~ ' + ' ~ _summed_distance(successes, trials, population, '+')) }}
{%- endmacro %}

{% macro _summed(successes, trials, population) -%}
    {{ return('sum(' ~ population ~ ' * ' ~ _share(successes, trials) ~ ')') }}
{%- endmacro %}

{% macro _summed_distance(successes, trials, population, sign) -%}
    {%- set distance = _wilson_bound(successes, trials, sign) ~ ' - ' ~ _share(successes, trials) -%}
    {{ return('sqrt(sum(power(' ~ population ~ ' * (' ~ distance ~ '), 2)))') }}
{%- endmacro %}

{% macro _share(successes, trials) -%}
    {%- set as_float = ' as ' ~ column_types().float64 ~ ')' -%}
    {{ return('(cast(' ~ successes ~ as_float ~ ' / nullif(cast(' ~ trials ~ as_float ~ ', 0))') }}
{%- endmacro %}

{% macro _whole_rows(expression) -%}
    cast(round({{ expression }}) as {{ column_types().int64 }})
{%- endmacro %}

{% macro _wilson(successes, trials, sign) -%}
    {{ rounded_share(_wilson_bound(successes, trials, sign)) }}
{%- endmacro %}

{% macro _wilson_bound(successes, trials, sign) -%}
    {%- set z = 1.959963984540054 -%}
    {%- set as_float = ' as ' ~ column_types().float64 ~ ')' -%}
    {%- set n = 'nullif(cast(' ~ trials ~ as_float ~ ', 0)' -%}
    {%- set p = _share(successes, trials) -%}
    {{ return(
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
