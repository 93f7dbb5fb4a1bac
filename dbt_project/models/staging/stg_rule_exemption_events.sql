-- An event is written once. An exemption counts from the version of its addition until before that of its removal, which
-- its addition names, too.
with

events as (
    select * from {{ source('raw', 'rule_exemption_events') }}
    where {{ in_any_day('partition_date') }}
)

select
    event_id,
    exemption as exemption_id,
    event,
    lists_version,
    event_at,
    rule as rule_name,
    user_id,
    reason,
    author,
    expires_at,
    lead(lists_version) over (partition by exemption order by event_id) as removed_version
from events
