with

orders as (
    select * from {{ ref('fact_orders') }}
    where {{ in_staged_days('partition_date', this) }}
),

labels as (
    select * from {{ ref('order_labels') }}
    where {{ in_staged_days('partition_date', this) }}
),

labelled as (
    select
        orders.partition_date,
        orders.rules_version,
        orders.user_id,
        orders.amount,
        orders.is_fraud,
        orders.fraud_reasons,
        orders.shadow_reasons,
        orders.review_reasons,
        labels.label,
        labels.label_source,
        labels.is_mature
    from orders
    inner join labels on orders.order_id = labels.order_id
),

-- What a rule could have caught: all fraud of the day that the same rule book decided about.
books as (
    select
        partition_date,
        rules_version,
        {{ labelled_fraud() }} as fraud_orders,
        {{ labelled_fraud_amount() }} as fraud_amount,
        {{ genuine_orders() }} as passed_orders
    from labelled
    group by partition_date, rules_version
),

active as (
    select
        *,
        'active' as mode,
        array_length(fraud_reasons) = 1 as is_only_reason
    from labelled
    {{ cross_join_unnest('fraud_reasons', 'rule_name') }}
),

-- A shadow rule changes no status. It is the only reason if no active rule held either.
shadow as (
    select
        *,
        'shadow' as mode,
        array_length(shadow_reasons) = 1 and not is_fraud as is_only_reason
    from labelled
    {{ cross_join_unnest('shadow_reasons', 'rule_name') }}
),

-- The random sample stands among these as a rule of its own.
review as (
    select
        *,
        'review' as mode,
        array_length(review_reasons) = 1 and not is_fraud as is_only_reason
    from labelled
    {{ cross_join_unnest('review_reasons', 'rule_name') }}
),

held as (
    select * from active
    union all
    select * from shadow
    union all
    select * from review
),

-- The random sample of the orders that passed, as far as people have decided about it. Other labels would not do:
-- an undisputed order counts as genuine after a while, and that is what the sample is to find out.
samples as (
    select
        partition_date,
        rules_version,
        count(*) as sampled_orders,
        {{ labelled_fraud() }} as sampled_fraud
    from review
    where rule_name = 'random_sample' and label_source = 'verdict'
    group by partition_date, rules_version
),

per_rule as (
    select
        partition_date,
        rule_name,
        mode,
        rules_version,
        -- A day is mature or not as a whole.
        max(case when is_mature then 1 else 0 end) = 1 as is_mature,
        count(*) as flagged_orders,
        count(case when is_only_reason then 1 end) as only_reason_orders,
        count(distinct user_id) as flagged_users,
        {{ labelled_fraud() }} as labelled_fraud,
        {{ labelled_genuine() }} as labelled_genuine,
        count(case when label = 'unknown' then 1 end) as unlabelled,
        coalesce(sum(amount), 0) as flagged_amount,
        {{ labelled_fraud_amount() }} as fraud_caught_amount,
        coalesce(sum(case when label = 'genuine' then amount end), 0) as genuine_flagged_amount
    from held
    group by partition_date, rule_name, mode, rules_version
),

joined as (
    select
        per_rule.*,
        books.fraud_orders,
        books.fraud_amount,
        books.passed_orders,
        coalesce(samples.sampled_orders, 0) as sampled_orders,
        coalesce(samples.sampled_fraud, 0) as sampled_fraud,
        -- NULL until the day is mature, and with it everything that is computed from it.
        case when per_rule.is_mature then per_rule.labelled_fraud end as mature_hits,
        case when per_rule.is_mature then per_rule.flagged_orders end as mature_flagged,
        case when per_rule.is_mature then books.fraud_orders end as mature_fraud
    from per_rule
    inner join books
        on per_rule.partition_date = books.partition_date and per_rule.rules_version = books.rules_version
    left join samples
        on per_rule.partition_date = samples.partition_date and per_rule.rules_version = samples.rules_version
)

select
    partition_date as business_day,
    rule_name,
    mode,
    rules_version,
    is_mature,
    flagged_orders,
    only_reason_orders,
    flagged_users,
    labelled_fraud,
    labelled_genuine,
    unlabelled,
    fraud_orders - labelled_fraud as missed_fraud,
    {{ share('mature_hits', 'mature_flagged') }} as precision,
    {{ wilson_low('mature_hits', 'mature_flagged') }} as precision_low,
    {{ wilson_high('mature_hits', 'mature_flagged') }} as precision_high,
    {{ share('mature_hits', 'mature_fraud') }} as recall,
    {{ wilson_low('mature_hits', 'mature_fraud') }} as recall_low,
    {{ wilson_high('mature_hits', 'mature_fraud') }} as recall_high,
    {{ money('flagged_amount') }} as flagged_amount,
    {{ money('fraud_caught_amount') }} as fraud_caught_amount,
    {{ money('genuine_flagged_amount') }} as genuine_flagged_amount,
    {{ money('fraud_amount - fraud_caught_amount') }} as fraud_missed_amount,
    passed_orders,
    sampled_orders,
    sampled_fraud,
    {{ estimated_count('sampled_fraud', 'sampled_orders', 'passed_orders') }} as passed_fraud,
    {{ estimated_count_low('sampled_fraud', 'sampled_orders', 'passed_orders') }} as passed_fraud_low,
    {{ estimated_count_high('sampled_fraud', 'sampled_orders', 'passed_orders') }} as passed_fraud_high
from joined
