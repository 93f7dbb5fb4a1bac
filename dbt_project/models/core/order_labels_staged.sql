with

orders as (
    select * from {{ ref('fact_orders') }}
    where {{ in_staged_days('partition_date', this) }}
),

known_verdicts as (
    select * from {{ ref('stg_verdicts') }}
    where {{ local_date('recorded_at') }} <= {{ labels_day() }}
),

verdicts as (
    select * from known_verdicts
    qualify row_number() over (partition by order_id order by decided_at desc, verdict_id desc) = 1
),

known_disputes as (
    select * from {{ ref('stg_dispute_versions') }}
    where written_on <= {{ labels_day() }}
    qualify row_number() over (partition by dispute_id order by valid_from desc, version desc) = 1
),

-- An order may be disputed again: the newest dispute about fraud counts.
disputes as (
    select * from known_disputes
    where kind = 'fraud'
    qualify row_number() over (partition by order_id order by opened_at desc, dispute_id desc) = 1
),

dispute_counts as (
    select
        order_id,
        count(*) as disputes_opened,
        count(case when outcome = 'lost' then 1 end) as disputes_lost,
        sum(case when outcome = 'lost' then amount end) as dispute_loss
    from known_disputes
    group by order_id
),

joined as (
    select
        orders.order_id,
        orders.ordered_at,
        orders.partition_date,
        verdicts.verdict,
        verdicts.decided_at as verdict_at,
        disputes.outcome,
        disputes.opened_at,
        disputes.decided_at as dispute_decided_at,
        coalesce(dispute_counts.disputes_opened, 0) as disputes_opened,
        coalesce(dispute_counts.disputes_lost, 0) as disputes_lost,
        {{ money('coalesce(dispute_counts.dispute_loss, 0)') }} as dispute_loss,
        {{ calendar_difference('day', 'orders.partition_date', labels_day()) }} >= {{ var('label_maturity_days') }} as is_mature
    from orders
    left join verdicts on orders.order_id = verdicts.order_id
    left join disputes on orders.order_id = disputes.order_id
    left join dispute_counts on orders.order_id = dispute_counts.order_id
),

labelled as (
    select
        order_id,
        ordered_at,
        partition_date,
        is_mature,
        disputes_opened,
        disputes_lost,
        dispute_loss,
        case
            when verdict is not null then verdict
            when outcome in ('lost', 'open') then 'fraud'
            when outcome = 'won' or is_mature then 'genuine'
            else 'unknown'
        end as label,
        case
            when verdict is not null then 'verdict'
            when outcome is not null then 'dispute'
            when is_mature then 'matured'
        end as label_source,
        case
            when verdict is not null then verdict_at
            when outcome in ('lost', 'open') then opened_at
            when outcome = 'won' then dispute_decided_at
            when is_mature then {{ add_days('ordered_at', var('label_maturity_days')) }}
        end as labelled_at
    from joined
)

select
    order_id,
    label,
    label_source,
    labelled_at,
    {{ calendar_difference('day', 'partition_date', local_date('labelled_at')) }} as label_delay_days,
    is_mature,
    disputes_opened,
    disputes_lost,
    dispute_loss,
    partition_date
from labelled
