with

orders as (
    select * from {{ ref('fact_orders') }}
    where local_hour < {{ var('critical_time_end_hour') }}
),

per_method as (
    select
        payment_method,
        count(*) as total_orders,
        count(case when not is_fraud then 1 end) as genuine_orders,
        count(case when is_fraud then 1 end) as fraud_orders,
        {{ money('sum(amount)') }} as total_amount,
        {{ money('coalesce(sum(case when is_fraud then amount end), 0)') }} as fraud_amount
    from orders
    group by payment_method
)

select
    payment_method,
    total_orders,
    genuine_orders,
    fraud_orders,
    {{ percentage('fraud_orders', 'total_orders') }} as fraud_percentage,
    total_amount,
    fraud_amount
from per_method
