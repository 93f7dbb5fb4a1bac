with

versions as (
    select * from {{ source('raw', 'shipments') }}
    where {{ in_any_day('partition_date') }}
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
from versions
qualify row_number() over (partition by order_id order by valid_from desc, version desc) = 1
