with

versions as (
    select * from {{ source('raw', 'products') }}
    where {{ in_any_day('partition_date') }}
)

select
    id as product_id,
    product_name,
    category,
    price as list_price,
    created_date as listed_at,
    updated_at,
    version,
    valid_from,
    recorded_at
from versions
