-- Built after the dimensions, so that these are never older than the orders. The edge from raw orders, which skips
-- the view between, tells Dagster which partitions a day needs:
-- depends_on: {{ source('raw', 'orders') }}
-- depends_on: {{ ref('dim_users') }}
-- depends_on: {{ ref('dim_products') }}
with

orders as (
    select * from {{ ref('stg_orders') }}
    where {{ in_staged_days('partition_date', this) }}
)

select
    order_id,
    user_id,
    product_id,
    quantity,
    amount,
    payment_method,
    country,
    is_fraud,
    fraud_reasons,
    shadow_reasons,
    review_reasons,
    rules_version,
    lists_version,
    ordered_at,
    {{ local_hour('ordered_at') }} as local_hour,
    flagged_at,
    topic_position,
    partition_date
from orders
