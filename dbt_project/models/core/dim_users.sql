{{ config(cluster_by=['user_id']) }}

-- Personal data stops here: names stay in bronze, and addresses are masked.
with

users as (
    select * from {{ ref('stg_users') }}
)

select
    user_id,
    {{ mask_username('username') }} as username,
    {{ mask_email('email') }} as masked_email,
    email_hash,
    default_payment,
    signed_up_at,
    {{ local_date('signed_up_at') }} as signed_up_on,
    updated_at
from users
