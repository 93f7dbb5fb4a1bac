with

versions as (
    select * from {{ ref('stg_product_versions') }}
)

select
    product_id,
    product_name,
    category,
    list_price,
    listed_at,
    updated_at
from versions
qualify row_number() over (partition by product_id order by valid_from desc, version desc) = 1
