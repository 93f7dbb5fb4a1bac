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
        {{ labelled_fraud_amount() }} as fraud_amount,
        {{ genuine_orders() }} as passed_orders
    from orders
    inner join labels on orders.order_id = labels.order_id
    group by orders.rules_version
),

-- The random sample of a book is in its rows of each day.
samples as (
    select
        rules_version,
        sum(sampled_orders) as sampled_orders,
        sum(sampled_fraud) as sampled_fraud
    from performance
    where rule_name = 'random_sample' and is_mature
    group by rules_version
    having sum(sampled_orders) > 0
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
        sum(books.fraud_amount) as fraud_amount,
        cast(
            coalesce(sum(case when samples.sampled_orders > 0 then books.passed_orders end), 0) as {{ column_types().int64 }}
        ) as passed_orders,
        cast(coalesce(sum(samples.sampled_orders), 0) as {{ column_types().int64 }}) as sampled_orders,
        cast(coalesce(sum(samples.sampled_fraud), 0) as {{ column_types().int64 }}) as sampled_fraud,
        {{ summed_count('samples.sampled_fraud', 'samples.sampled_orders', 'books.passed_orders') }} as passed_fraud,
        {{ summed_count_low('samples.sampled_fraud', 'samples.sampled_orders', 'books.passed_orders') }} as passed_fraud_low,
        {{ summed_count_high('samples.sampled_fraud', 'samples.sampled_orders', 'books.passed_orders') }} as passed_fraud_high
    from per_book
    inner join books on per_book.rules_version = books.rules_version
    left join samples on per_book.rules_version = samples.rules_version
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
    {{ money('judged.fraud_amount - judged.fraud_caught_amount') }} as fraud_missed_amount,
    judged.passed_orders,
    judged.sampled_orders,
    judged.sampled_fraud,
    judged.passed_fraud,
    judged.passed_fraud_low,
    judged.passed_fraud_high
from flagged
left join judged on flagged.rule_name = judged.rule_name and flagged.mode = judged.mode
