{{ config(cluster_by=['rule_name']) }}

with

performance as (
    select * from {{ ref('rule_performance') }}
),

orders as (
    select * from {{ ref('fact_orders') }}
),

labels as (
    select * from {{ ref('order_labels') }}
    where is_mature
),

-- All fraud that a book could have caught, also on days on which a rule flagged nothing and so has no row.
books as (
    select
        orders.rules_version,
        {{ labelled_fraud() }} as fraud_orders,
        {{ labelled_fraud_amount() }} as fraud_amount
    from orders
    inner join labels on orders.order_id = labels.order_id
    group by orders.rules_version
),

-- A rule is in a book if it ever flagged an order that the book decided.
per_book as (
    select
        rule_name,
        mode,
        rules_version,
        sum(flagged_orders) as flagged_orders,
        sum(case when is_mature then flagged_orders else 0 end) as mature_orders,
        sum(case when is_mature then labelled_fraud else 0 end) as labelled_fraud,
        sum(case when is_mature then labelled_genuine else 0 end) as labelled_genuine,
        sum(case when is_mature then fraud_caught_amount else 0 end) as fraud_caught_amount,
        sum(case when is_mature then genuine_flagged_amount else 0 end) as genuine_flagged_amount
    from performance
    group by rule_name, mode, rules_version
),

flagged as (
    select
        rule_name,
        mode,
        cast(sum(flagged_orders) as {{ column_types().int64 }}) as flagged_orders
    from per_book
    group by rule_name, mode
),

-- Only books with a mature day: nobody can judge the rules of the others yet.
judged as (
    select
        per_book.rule_name,
        per_book.mode,
        cast(sum(per_book.mature_orders) as {{ column_types().int64 }}) as mature_orders,
        cast(sum(per_book.labelled_fraud) as {{ column_types().int64 }}) as labelled_fraud,
        cast(sum(per_book.labelled_genuine) as {{ column_types().int64 }}) as labelled_genuine,
        cast(sum(books.fraud_orders) as {{ column_types().int64 }}) as fraud_orders,
        sum(per_book.fraud_caught_amount) as fraud_caught_amount,
        sum(per_book.genuine_flagged_amount) as genuine_flagged_amount,
        sum(books.fraud_amount) as fraud_amount
    from per_book
    inner join books on per_book.rules_version = books.rules_version
    group by per_book.rule_name, per_book.mode
)

select
    flagged.rule_name,
    flagged.mode,
    flagged.flagged_orders,
    judged.mature_orders,
    judged.labelled_fraud,
    judged.labelled_genuine,
    judged.fraud_orders - judged.labelled_fraud as missed_fraud,
    {{ share('judged.labelled_fraud', 'judged.mature_orders') }} as precision,
    {{ wilson_low('judged.labelled_fraud', 'judged.mature_orders') }} as precision_low,
    {{ wilson_high('judged.labelled_fraud', 'judged.mature_orders') }} as precision_high,
    {{ share('judged.labelled_fraud', 'judged.fraud_orders') }} as recall,
    {{ wilson_low('judged.labelled_fraud', 'judged.fraud_orders') }} as recall_low,
    {{ wilson_high('judged.labelled_fraud', 'judged.fraud_orders') }} as recall_high,
    {{ money('judged.fraud_caught_amount') }} as fraud_caught_amount,
    {{ money('judged.genuine_flagged_amount') }} as genuine_flagged_amount,
    {{ money('judged.fraud_amount - judged.fraud_caught_amount') }} as fraud_missed_amount
from flagged
left join judged on flagged.rule_name = judged.rule_name and flagged.mode = judged.mode
