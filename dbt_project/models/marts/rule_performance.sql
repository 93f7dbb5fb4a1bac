-- With a window, exactly its days are replaced: those whose orders or labels changed, and the day that matures.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('business_day'),
        cluster_by=['rule_name'],
    )
}}
select * from {{ ref('rule_performance_staged') }}
