{{ config(materialized='view') }}

with

disputes as (
    select * from {{ ref('stg_disputes') }}
)

select
    dispute_id,
    order_id,
    kind,
    amount,
    outcome,
    opened_at,
    {{ local_date('opened_at') }} as opened_on,
    decided_at,
    {{ local_date('decided_at') }} as decided_on
from disputes
