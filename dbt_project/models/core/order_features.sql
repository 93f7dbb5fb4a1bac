-- With a window (vars first_day and end_day), its days are replaced, and later ones whose features its orders change. The
-- tests of order_features_staged come before.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('partition_date'),
        cluster_by=['user_id'],
    )
}}
select * from {{ ref('order_features_staged') }}
