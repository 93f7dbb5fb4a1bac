-- Rebuilt in each run, and therefore without partitions: each run would change all of them, and BigQuery limits
-- partition changes per table and day.
{{ config(cluster_by=['business_day']) }}

with

orders as (
    select * from {{ ref('fact_orders') }}
),

per_day as (
    select
        partition_date as business_day,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ total_amount() }} as total_amount,
        {{ fraud_amount() }} as fraud_amount,
        count(distinct user_id) as users,
        {{ fraud_users() }} as fraud_users
    from orders
    group by partition_date
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
    fraud_users
from per_day
