{#
    What the words of the business mean, each written once: expressions over rows of fact_orders, which the marts use.
    definitions.yml says it in words, and docs/analytics.md shows both.
#}

{% macro genuine_orders() -%}
    count(case when not is_fraud then 1 end)
{%- endmacro %}

{% macro fraud_orders() -%}
    count(case when is_fraud then 1 end)
{%- endmacro %}

{% macro total_amount() -%}
    {{ money('coalesce(sum(amount), 0)') }}
{%- endmacro %}

{% macro genuine_amount() -%}
    {{ money('coalesce(sum(case when not is_fraud then amount end), 0)') }}
{%- endmacro %}

{% macro fraud_amount() -%}
    {{ money('coalesce(sum(case when is_fraud then amount end), 0)') }}
{%- endmacro %}

{% macro revenue() -%}
    {{ genuine_amount() }}
{%- endmacro %}

{% macro active_customers() -%}
    count(distinct case when not is_fraud then user_id end)
{%- endmacro %}

{% macro fraud_users() -%}
    count(distinct case when is_fraud then user_id end)
{%- endmacro %}

{% macro in_critical_time() -%}
    local_hour < {{ var('critical_time_end_hour') }}
{%- endmacro %}

{% macro user_status(fraud_orders) -%}
    case
        when {{ fraud_orders }} >= {{ var('blacklist_fraud_orders') }} then 'Blacklist'
        when {{ fraud_orders }} >= {{ var('watchlist_fraud_orders') }} then 'Watchlist'
        else 'Good Standing'
    end
{%- endmacro %}

{% macro months_since(day) -%}
    greatest(0, {{ calendar_difference('month', day, 'partition_date') }})
{%- endmacro %}

{% macro weeks_since(day) -%}
    cast(floor(greatest(0, {{ calendar_difference('day', day, 'partition_date') }}) / 7) as int64)
{%- endmacro %}
