-- A book is written once, so there are no versions to choose from.
with

books as (
    select * from {{ source('raw', 'rule_books') }}
    where {{ in_any_day('partition_date') }}
)

select
    version as rules_version,
    text as book_text,
    first_position as first_topic_position,
    first_used_at
from books
