{#
    What the words of the business mean, each written once: expressions over rows of fact_orders or, where they need what
    became of an order, of order_outcomes.
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

{% macro labelled_fraud() -%}
    count(case when label = 'fraud' then 1 end)
{%- endmacro %}

{% macro labelled_genuine() -%}
    count(case when label = 'genuine' then 1 end)
{%- endmacro %}

{% macro labelled_fraud_amount() -%}
    {{ money("coalesce(sum(case when label = 'fraud' then amount end), 0)") }}
{%- endmacro %}

{% macro refund(amount, refund_amount) -%}
    cast(least(coalesce({{ refund_amount }}, 0), {{ amount }}) as {{ column_types().money }})
{%- endmacro %}

{% macro is_sale() -%}
    (not is_fraud and not is_cancelled)
{%- endmacro %}

{% macro revenue() -%}
    {{ money('coalesce(sum(case when ' ~ is_sale() ~ ' then amount - refund_amount end), 0)') }}
{%- endmacro %}

{% macro returned_orders() -%}
    count(case when shipment_status = 'returned' then 1 end)
{%- endmacro %}

{% macro active_customers() -%}
    count(distinct case when {{ is_sale() }} then user_id end)
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

{% macro rfm_segment(sales, recency, frequency, monetary) -%}
    case
        when {{ sales }} = 0 then 'No Sales'
        when {{ recency }} >= 4 and {{ frequency }} >= 4 and {{ monetary }} >= 4 then 'Champions'
        when {{ frequency }} >= 4 and {{ recency }} >= 3 then 'Loyal'
        when {{ frequency }} >= 4 then 'At Risk'
        when {{ recency }} >= 4 then 'Recent'
        when {{ recency }} <= 2 then 'Dormant'
        else 'Regular'
    end
{%- endmacro %}
