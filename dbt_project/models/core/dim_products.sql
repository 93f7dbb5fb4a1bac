{{ config(cluster_by=['product_id']) }}

with

products as (
    select * from {{ ref('stg_products') }}
)

select
    product_id,
    product_name,
    category,
    list_price,
    listed_at,
    {{ local_date('listed_at') }} as listed_on,
    updated_at
from products
