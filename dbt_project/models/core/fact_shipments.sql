{{ config(cluster_by=['order_id']) }}

with

shipments as (
    select * from {{ ref('stg_shipments') }}
)

select
    order_id,
    status,
    packed_at,
    shipped_at,
    delivered_at,
    cancelled_at,
    returned_at,
    refund_amount,
    updated_at
from shipments
