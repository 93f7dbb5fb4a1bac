{{ config(cluster_by=['user_id']) }}
{%- set columns = ['username', 'masked_email', 'email_hash', 'default_payment', 'signed_up_at'] %}

-- As in dim_users, personal data stops here.
with

versions as (
    select * from {{ ref('stg_user_versions') }}
),

valid_versions as (
    select * from versions
    {{ last_version_of_each_instant('user_id') }}
),

masked as (
    select
        user_id,
        {{ mask_username('username') }} as username,
        {{ mask_email('email') }} as masked_email,
        email_hash,
        default_payment,
        signed_up_at,
        valid_from
    from valid_versions
),

changes as (
    select * from masked
    {{ only_changes('user_id', columns) }}
)

select
    user_id,
    {{ columns | join(',\n    ') }},
    valid_from,
    {{ valid_to('user_id') }} as valid_to
from changes
