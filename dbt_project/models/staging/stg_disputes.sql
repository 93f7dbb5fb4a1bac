with

versions as (
    select * from {{ source('raw', 'disputes') }}
    where {{ in_any_day('partition_date') }}
)

select
    id as dispute_id,
    order_id,
    kind,
    amount,
    opened_at,
    outcome,
    decided_at,
    updated_at
from versions
qualify row_number() over (partition by id order by valid_from desc, version desc) = 1
