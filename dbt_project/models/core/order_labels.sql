-- With a window (vars first_day and end_day), exactly its days are replaced. The tests of order_labels_staged come before.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('partition_date'),
        cluster_by=['order_id'],
    )
}}
select * from {{ ref('order_labels_staged') }}
