-- An order is written once and belongs to one day, so there are no versions to choose from. In this plain
-- projection a filter on partition_date reaches the raw partitions.
with

orders as (
    select * from {{ source('raw', 'orders') }}
    where {{ in_any_day('partition_date') }}
)

select
    id as order_id,
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
    created_date as ordered_at,
    flagged_at,
    position as topic_position,
    partition_date
from orders
