-- With a window (vars first_day and end_day), exactly its days are replaced. Without one, or if the table does not
-- exist yet, all days are built. The tests of fact_orders_staged come before either.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('partition_date'),
        cluster_by=['user_id', 'product_id'],
    )
}}
select * from {{ ref('fact_orders_staged') }}
