-- With a window (vars first_day and end_day), exactly its days are read and replaced. Without one, or if the table
-- does not exist yet, all days are built.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('partition_date'),
        cluster_by=['user_id', 'product_id'],
    )
}}
-- Built after the dimensions, so that these are never older than the orders. The edge from raw orders, which skips
-- the view between, tells Dagster which partitions a day needs:
-- depends_on: {{ source('raw', 'orders') }}
-- depends_on: {{ ref('dim_users') }}
-- depends_on: {{ ref('dim_products') }}
with

orders as (
    select * from {{ ref('stg_orders') }}
    {%- if is_incremental() %}
    where {{ in_window('partition_date') }}
    {%- endif %}
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
    rules_version,
    ordered_at,
    {{ local_hour('ordered_at') }} as local_hour,
    flagged_at,
    topic_position,
    partition_date
from orders
