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
    updated_at
from versions
qualify row_number() over (partition by id order by valid_from desc, version desc) = 1
