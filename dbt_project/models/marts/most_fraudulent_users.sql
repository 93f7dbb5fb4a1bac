{{ config(cluster_by=['fraud_rank']) }}

with

users as (
    select * from {{ ref('users_and_blacklist') }}
)

select
    row_number() over (order by fraud_orders desc, fraud_loss desc, user_id asc) as fraud_rank,
    user_id,
    username,
    masked_email,
    email_hash,
    status,
    total_orders,
    fraud_orders,
    {{ percentage('fraud_orders', 'total_orders') }} as fraud_percentage,
    total_spend,
    fraud_loss,
    latest_fraud_at
from users
where fraud_orders > 0
