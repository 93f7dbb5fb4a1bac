{{ config(cluster_by=['product_id', 'user_id']) }}

with

orders as (
    select * from {{ ref('fact_orders') }}
),

users as (
    select * from {{ ref('dim_users') }}
),

products as (
    select * from {{ ref('dim_products') }}
),

per_user_and_product as (
    select
        user_id,
        product_id,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        max(ordered_at) as latest_order_at
    from orders
    group by user_id, product_id
)

-- Left joins: if a dimension lags behind, a name is missing, never an order.
select
    per_user_and_product.user_id,
    users.username,
    per_user_and_product.product_id,
    products.product_name,
    products.category,
    per_user_and_product.total_orders,
    per_user_and_product.genuine_orders,
    per_user_and_product.fraud_orders,
    per_user_and_product.latest_order_at
from per_user_and_product
left join users on per_user_and_product.user_id = users.user_id
left join products on per_user_and_product.product_id = products.product_id
