{{ config(materialized='view') }}

with

orders as (
    select * from {{ ref('fact_orders') }}
),

labels as (
    select * from {{ ref('order_labels') }}
),

shipments as (
    select * from {{ ref('fact_shipments') }}
)

select
    orders.order_id,
    orders.user_id,
    orders.product_id,
    orders.amount,
    orders.payment_method,
    orders.is_fraud,
    orders.ordered_at,
    orders.partition_date,
    coalesce(labels.label, 'unknown') as label,
    coalesce(orders.is_fraud and labels.label = 'genuine' and labels.label_source = 'verdict', false) as is_cleared,
    coalesce(labels.disputes_lost, 0) as disputes_lost,
    shipments.status as shipment_status,
    coalesce(shipments.status = 'cancelled', false) as is_cancelled,
    shipments.delivered_at,
    {{ refund('orders.amount', 'shipments.refund_amount') }} as refund_amount
from orders
left join labels on orders.order_id = labels.order_id
left join shipments on orders.order_id = shipments.order_id
