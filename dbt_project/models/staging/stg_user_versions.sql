with

versions as (
    select * from {{ source('raw', 'users') }}
    where {{ in_any_day('partition_date') }}
)

select
    id as user_id,
    username,
    email,
    email_hash,
    first_name,
    last_name,
    default_payment,
    created_date as signed_up_at,
    updated_at,
    version,
    valid_from,
    recorded_at
from versions
