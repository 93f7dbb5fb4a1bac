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
    updated_at,
    valid_from,
    version,
    partition_date as written_on
from versions
