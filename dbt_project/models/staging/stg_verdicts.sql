-- A verdict is written once, so there are no versions to choose from.
with

verdicts as (
    select * from {{ source('raw', 'verdicts') }}
    where {{ in_any_day('partition_date') }}
)

select
    id as verdict_id,
    order_id,
    verdict,
    reviewer,
    note,
    decided_at,
    recorded_at
from verdicts
