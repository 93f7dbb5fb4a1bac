{{ config(cluster_by=['status', 'user_id']) }}

with

outcomes as (
    select * from {{ ref('order_outcomes') }}
),

-- An order that a person cleared is no fraud order any more.
orders as (
    select
        user_id,
        amount,
        ordered_at,
        is_fraud and not is_cleared as is_fraud,
        is_cleared,
        label
    from outcomes
),

users as (
    select * from {{ ref('dim_users') }}
),

per_user as (
    select
        user_id,
        count(*) as total_orders,
        {{ total_amount() }} as total_spend,
        {{ fraud_orders() }} as fraud_orders,
        {{ labelled_fraud() }} as confirmed_fraud_orders,
        count(case when is_cleared then 1 end) as cleared_orders,
        {{ fraud_amount() }} as fraud_loss,
        max(ordered_at) as latest_order_at,
        max(case when is_fraud then ordered_at end) as latest_fraud_at
    from orders
    group by user_id
),

-- Keeps users without orders, and users who are missing from the dimension.
joined as (
    select
        coalesce(users.user_id, per_user.user_id) as user_id,
        users.username,
        users.masked_email,
        users.email_hash,
        users.default_payment,
        users.signed_up_at,
        coalesce(per_user.total_orders, 0) as total_orders,
        {{ money('coalesce(per_user.total_spend, 0)') }} as total_spend,
        coalesce(per_user.fraud_orders, 0) as fraud_orders,
        coalesce(per_user.confirmed_fraud_orders, 0) as confirmed_fraud_orders,
        coalesce(per_user.cleared_orders, 0) as cleared_orders,
        {{ money('coalesce(per_user.fraud_loss, 0)') }} as fraud_loss,
        per_user.latest_order_at,
        per_user.latest_fraud_at
    from users
    full outer join per_user on users.user_id = per_user.user_id
)

select
    *,
    {{ user_status('fraud_orders') }} as status
from joined
