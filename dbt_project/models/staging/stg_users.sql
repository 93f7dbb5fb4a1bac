with

versions as (
    select * from {{ ref('stg_user_versions') }}
)

select
    user_id,
    username,
    email,
    email_hash,
    first_name,
    last_name,
    default_payment,
    signed_up_at,
    updated_at
from versions
qualify row_number() over (partition by user_id order by valid_from desc, version desc) = 1
