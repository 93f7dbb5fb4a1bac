-- An event is written once. An entry is in the lists from the version of its addition until before that of its removal,
-- which its addition names, too.
with

events as (
    select * from {{ source('raw', 'user_list_events') }}
    where {{ in_any_day('partition_date') }}
)

select
    event_id,
    entry as entry_id,
    event,
    lists_version,
    event_at,
    user_id,
    list as list_name,
    source as entry_source,
    reason,
    expires_at,
    lead(lists_version) over (partition by entry order by event_id) as removed_version,
    lead(event_at) over (partition by entry order by event_id) as removed_at
from events
