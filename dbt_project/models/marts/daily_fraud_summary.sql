-- With a window, exactly its days are replaced: those whose orders, labels or disputes changed.
{{
    config(
        materialized='incremental',
        incremental_strategy=replace_days_strategy(),
        on_schema_change='append_new_columns',
        partition_by=partition_by_day('business_day'),
    )
}}
select * from {{ ref('daily_fraud_summary_staged') }}
