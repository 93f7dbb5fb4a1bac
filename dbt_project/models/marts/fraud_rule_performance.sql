-- Without partitions, for the reason given in daily_fraud_summary.
{{ config(cluster_by=['business_day', 'rule_name']) }}

with

orders as (
    select * from {{ ref('fact_orders') }}
),

active as (
    select
        orders.partition_date,
        rule_name,
        'active' as mode,
        orders.user_id,
        orders.amount,
        array_length(orders.fraud_reasons) = 1 as is_only_reason
    from orders
    {{ cross_join_unnest('orders.fraud_reasons', 'rule_name') }}
),

-- A shadow rule changes no status. It is the only reason if no active rule held either.
shadow as (
    select
        orders.partition_date,
        rule_name,
        'shadow' as mode,
        orders.user_id,
        orders.amount,
        array_length(orders.shadow_reasons) = 1 and not orders.is_fraud as is_only_reason
    from orders
    {{ cross_join_unnest('orders.shadow_reasons', 'rule_name') }}
),

held as (
    select * from active
    union all
    select * from shadow
)

select
    partition_date as business_day,
    rule_name,
    mode,
    count(*) as flagged_orders,
    count(case when is_only_reason then 1 end) as only_reason_orders,
    {{ money('sum(amount)') }} as flagged_amount,
    count(distinct user_id) as flagged_users
from held
group by partition_date, rule_name, mode
