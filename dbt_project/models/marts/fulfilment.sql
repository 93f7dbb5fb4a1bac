{{ config(cluster_by=['product_id']) }}

with

orders as (
    select * from {{ ref('order_outcomes') }}
),

products as (
    select * from {{ ref('dim_products') }}
),

timed as (
    select
        product_id,
        case when is_fraud then 'fraud' else 'genuine' end as fraud_status,
        refund_amount,
        shipment_status,
        is_cancelled,
        delivered_at is not null as is_delivered,
        {{ hours_between('ordered_at', 'delivered_at') }} as delivery_hours
    from orders
),

ranked as (
    select
        *,
        row_number() over (partition by product_id, fraud_status, is_delivered order by delivery_hours) as delivery_rank,
        count(*) over (partition by product_id, fraud_status, is_delivered) as deliveries
    from timed
),

per_product as (
    select
        product_id,
        fraud_status,
        count(*) as total_orders,
        count(shipment_status) as orders_with_shipment,
        count(case when is_delivered then 1 end) as delivered_orders,
        count(case when is_cancelled then 1 end) as cancelled_orders,
        {{ returned_orders() }} as returned_orders,
        count(case when refund_amount > 0 then 1 end) as refunded_orders,
        {{ money('coalesce(sum(refund_amount), 0)') }} as refund_amount,
        {{ quantile('delivery_hours', 50) }} as delivery_hours_p50,
        {{ quantile('delivery_hours', 90) }} as delivery_hours_p90,
        {{ quantile('delivery_hours', 99) }} as delivery_hours_p99
    from ranked
    group by product_id, fraud_status
)

select
    per_product.product_id,
    per_product.fraud_status,
    products.product_name,
    products.category,
    per_product.total_orders,
    per_product.orders_with_shipment,
    per_product.delivered_orders,
    per_product.delivery_hours_p50,
    per_product.delivery_hours_p90,
    per_product.delivery_hours_p99,
    per_product.cancelled_orders,
    {{ percentage('per_product.cancelled_orders', 'per_product.orders_with_shipment') }} as cancellation_percentage,
    per_product.returned_orders,
    {{ percentage('per_product.returned_orders', 'per_product.delivered_orders') }} as return_percentage,
    per_product.refunded_orders,
    {{ percentage('per_product.refunded_orders', 'per_product.orders_with_shipment') }} as refund_percentage,
    per_product.refund_amount
from per_product
left join products on per_product.product_id = products.product_id
