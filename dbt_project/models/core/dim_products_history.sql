{{ config(cluster_by=['product_id']) }}
{%- set columns = ['product_name', 'category', 'list_price', 'listed_at'] %}

with

versions as (
    select * from {{ ref('stg_product_versions') }}
),

valid_versions as (
    select * from versions
    {{ last_version_of_each_instant('product_id') }}
),

changes as (
    select * from valid_versions
    {{ only_changes('product_id', columns) }}
)

select
    product_id,
    {{ columns | join(',\n    ') }},
    valid_from,
    {{ valid_to('product_id') }} as valid_to
from changes
