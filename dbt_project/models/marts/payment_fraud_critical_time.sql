with

orders as (
    select * from {{ ref('fact_orders') }}
    where {{ in_critical_time() }}
),

per_method as (
    select
        payment_method,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ total_amount() }} as total_amount,
        {{ fraud_amount() }} as fraud_amount
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
