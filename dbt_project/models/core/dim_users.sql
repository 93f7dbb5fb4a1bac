{{ config(cluster_by=['user_id']) }}

-- Personal data ends here: names stay in bronze, addresses go on masked.
with

users as (
    select * from {{ ref('stg_users') }}
)

select
    user_id,
    -- Some people sign in with their address.
    case when strpos(username, '@') > 0 then {{ mask_email('username') }} else username end as username,
    {{ mask_email('email') }} as masked_email,
    default_payment,
    signed_up_at,
    {{ local_date('signed_up_at') }} as signed_up_on,
    updated_at
from users
