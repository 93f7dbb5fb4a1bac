with

versions as (
    select * from {{ ref('stg_dispute_versions') }}
)

select
    dispute_id,
    order_id,
    kind,
    amount,
    opened_at,
    outcome,
    decided_at,
    updated_at
from versions
qualify row_number() over (partition by dispute_id order by valid_from desc, version desc) = 1
