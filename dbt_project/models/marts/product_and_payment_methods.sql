{{ config(cluster_by=['product_id']) }}

with

orders as (
    select * from {{ ref('fact_orders') }}
),

products as (
    select * from {{ ref('dim_products') }}
),

per_product_and_method as (
    select
        product_id,
        payment_method,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ total_amount() }} as total_amount,
        {{ genuine_amount() }} as genuine_amount,
        {{ fraud_amount() }} as fraud_amount
    from orders
    group by product_id, payment_method
)

select
    per_product_and_method.product_id,
    products.product_name,
    per_product_and_method.payment_method,
    row_number() over (
        partition by per_product_and_method.product_id
        order by
            per_product_and_method.total_orders desc,
            per_product_and_method.total_amount desc,
            per_product_and_method.payment_method asc
    ) as method_rank,
    per_product_and_method.total_orders,
    per_product_and_method.genuine_orders,
    per_product_and_method.fraud_orders,
    per_product_and_method.total_amount,
    per_product_and_method.genuine_amount,
    per_product_and_method.fraud_amount
from per_product_and_method
left join products on per_product_and_method.product_id = products.product_id
