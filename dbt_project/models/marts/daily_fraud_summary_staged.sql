with

orders as (
    select * from {{ ref('fact_orders') }}
    where {{ in_staged_days('partition_date', this) }}
),

labels as (
    select * from {{ ref('order_labels') }}
    where {{ in_staged_days('partition_date', this) }}
),

per_day as (
    select
        orders.partition_date as business_day,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ total_amount() }} as total_amount,
        {{ fraud_amount() }} as fraud_amount,
        count(distinct orders.user_id) as users,
        {{ fraud_users() }} as fraud_users,
        count(case when {{ local_date('orders.flagged_at') }} > orders.partition_date then 1 end) as late_orders,
        max(case when labels.is_mature then 1 else 0 end) = 1 as is_mature,
        {{ labelled_fraud() }} as labelled_fraud,
        {{ labelled_genuine() }} as labelled_genuine,
        {{ labelled_fraud_amount() }} as labelled_fraud_amount,
        cast(coalesce(sum(labels.disputes_opened), 0) as {{ column_types().int64 }}) as disputes_opened,
        cast(coalesce(sum(labels.disputes_lost), 0) as {{ column_types().int64 }}) as disputes_lost,
        {{ money('coalesce(sum(labels.dispute_loss), 0)') }} as dispute_loss
    from orders
    left join labels on orders.order_id = labels.order_id
    group by orders.partition_date
)

select
    business_day,
    total_orders,
    genuine_orders,
    fraud_orders,
    {{ percentage('fraud_orders', 'total_orders') }} as fraud_percentage,
    total_amount,
    fraud_amount,
    users,
    fraud_users,
    late_orders,
    is_mature,
    labelled_fraud,
    labelled_genuine,
    {{ percentage('labelled_fraud', 'total_orders') }} as labelled_fraud_percentage,
    labelled_fraud_amount,
    disputes_opened,
    disputes_lost,
    dispute_loss
from per_day
