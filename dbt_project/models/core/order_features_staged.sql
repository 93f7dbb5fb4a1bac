{%- set days = feature_days(this) %}
{%- set in_order = 'partition by user_id order by placed_us, topic_position desc' %}
{%- set in_block = 'partition by user_id, stretch, level, block order by placed_us' %}
{%- set so_far = 'range between unbounded preceding and current row' %}
{%- set int64 = column_types().int64 -%}

-- In the order of time, window functions see an order's predecessors. For an order whose predecessors in time are those in
-- the topic, that is the answer. Elsewhere it counts orders at later positions, too, which `corrections` takes back.
with

orders as (
    select * from {{ ref('fact_orders') }}
    where partition_date >= {{ days.first }} and partition_date < {{ days.end }}
),

-- With the day before, where windows begin.
user_orders as (
    select
        order_id,
        user_id,
        amount,
        country,
        topic_position,
        partition_date,
        {{ microseconds('ordered_at') }} as placed_us
    from {{ ref('fact_orders') }}
    where
        partition_date >= {{ days.reads_from }} and partition_date < {{ days.end }}
        and user_id in (select orders.user_id from orders)
),

-- Of orders of one instant, the last in the topic comes first: so each of them counts as out of order.
in_time as (
    select
        *,
        count(*) over (partition by user_id order by placed_us {{ minutes_before(10) }}) as orders_10m,
        count(*) over (partition by user_id order by placed_us {{ minutes_before(24 * 60) }}) as orders_24h,
        sum(amount) over (partition by user_id order by placed_us {{ minutes_before(24 * 60) }}) as amount_24h,
        lag(placed_us) over ({{ in_order }}) as placed_before,
        lag(topic_position) over ({{ in_order }}) as position_before
    from user_orders
),

-- Countries. A country is present for 24 hours from each order, and seen by orders at positions from the lowest one among
-- the orders that make it present. That one changes only as orders come and leave, whatever the number of orders.
travellers as (
    select user_id from user_orders
    group by user_id
    having min(country) <> max(country)
),

arrivals as (
    select
        user_orders.user_id,
        user_orders.country,
        user_orders.placed_us,
        user_orders.topic_position
    from user_orders
    inner join travellers on user_orders.user_id = travellers.user_id
),

arrivals_and_departures as (
    select * from arrivals
    union all
    select
        user_id,
        country,
        placed_us + {{ 24 * 60 * 60 * 1000000 }} as placed_us,
        cast(null as {{ int64 }}) as topic_position
    from arrivals
),

lowest_positions as (
    select
        user_id,
        country,
        placed_us,
        min(topic_position) over (
            partition by user_id, country order by placed_us {{ minutes_before(24 * 60) }}
        ) as topic_position
    from arrivals_and_departures
),

presences as (
    select
        user_id,
        country,
        placed_us,
        topic_position
    from lowest_positions
    qualify topic_position is distinct from lag(topic_position) over (partition by user_id, country order by placed_us)
),

presence_ends as (
    select
        user_id,
        topic_position,
        placed_us,
        lead(placed_us) over (partition by user_id, country order by placed_us) as ended_us
    from presences
),

country_changes as (
    select
        user_id,
        topic_position,
        placed_us,
        1 as countries
    from presence_ends
    where topic_position is not null
    union all
    select
        user_id,
        topic_position,
        ended_us as placed_us,
        -1 as countries
    from presence_ends
    where topic_position is not null
),

orders_and_country_changes as (
    select
        arrivals.user_id,
        arrivals.topic_position,
        arrivals.placed_us,
        0 as countries,
        true as is_order
    from arrivals
    union all
    select
        *,
        false as is_order
    from country_changes
),

running_countries as (
    select
        user_id,
        topic_position,
        is_order,
        sum(countries) over (partition by user_id order by placed_us {{ so_far }}) as countries_24h
    from orders_and_country_changes
),

-- Stretches of orders that the topic has in another order: all orders before a stretch have lower positions than those
-- in it, and all after it higher ones.
shuffled_users as (
    select distinct user_id from in_time
    where position_before > topic_position
),

shuffled as (
    select
        in_time.*,
        max(in_time.topic_position) over (
            partition by in_time.user_id order by in_time.placed_us asc, in_time.topic_position desc
            rows between unbounded preceding and 1 preceding
        ) as highest_before,
        min(in_time.topic_position) over (
            partition by in_time.user_id order by in_time.placed_us desc, in_time.topic_position asc
            rows between unbounded preceding and 1 preceding
        ) as lowest_after
    from in_time
    inner join shuffled_users on in_time.user_id = shuffled_users.user_id
),

stretches as (
    select
        *,
        count(case when coalesce(highest_before < topic_position and highest_before < lowest_after, true) then 1 end) over (
            {{ in_order }} rows between unbounded preceding and current row
        ) as stretch
    from shuffled
    where highest_before > topic_position or lowest_after < topic_position
),

ranked as (
    select
        *,
        row_number() over (partition by user_id, stretch order by topic_position) - 1 as position_rank,
        count(*) over (partition by user_id, stretch) as stretch_orders,
        first_value(placed_before) over (
            partition by user_id, stretch order by placed_us asc, topic_position desc
        ) as placed_before_stretch
    from stretches
),

-- For each pair of orders of a stretch there is one level at which they share a block, the one with the lower position in
-- its first half and the other in its second half. So the pairs of n orders are counted in n log n rows.
points as (
    select
        user_id,
        stretch,
        stretch_orders,
        position_rank,
        placed_us,
        order_id,
        amount,
        0 as countries
    from ranked
    union all
    select
        ranked.user_id,
        ranked.stretch,
        ranked.stretch_orders,
        ranked.position_rank,
        country_changes.placed_us,
        null as order_id,
        null as amount,
        country_changes.countries
    from country_changes
    inner join ranked
        on country_changes.user_id = ranked.user_id and country_changes.topic_position = ranked.topic_position
),

-- The logarithm is rounded up, at times to one level too many, which pairs nothing.
points_by_level as (
    select
        user_id,
        stretch,
        position_rank,
        placed_us,
        order_id,
        amount,
        countries,
        level
    from points
    {{ cross_join_unnest(numbers_to('cast(floor(ln(stretch_orders) / ln(2) + 0.01) as ' ~ int64 ~ ')'), 'level') }}
),

halves as (
    select
        *,
        position_rank >> (level + 1) as block,
        (position_rank >> level) & 1 = 1 as is_second
    from points_by_level
),

pairs as (
    select
        order_id,
        is_second,
        count(case when is_second then order_id end) over ({{ in_block }} {{ minutes_before(10) }}) as orders_10m,
        count(case when is_second then order_id end) over ({{ in_block }} {{ minutes_before(24 * 60) }}) as orders_24h,
        sum(case when is_second then amount end) over ({{ in_block }} {{ minutes_before(24 * 60) }}) as amount_24h,
        sum(case when is_second then countries end) over ({{ in_block }} {{ so_far }}) as countries_24h,
        max(case when order_id is not null and not is_second then placed_us end) over (
            {{ in_block }} {{ so_far }}
        ) as placed_before
    from halves
),

corrections as (
    select
        order_id,
        sum(case when not is_second then orders_10m end) as later_10m,
        sum(case when not is_second then orders_24h end) as later_24h,
        sum(case when not is_second then amount_24h end) as later_amount_24h,
        sum(case when not is_second then countries_24h end) as later_countries_24h,
        max(case when is_second then placed_before end) as placed_before
    from pairs
    where order_id is not null
    group by order_id
),

looked_back as (
    select
        in_time.order_id,
        in_time.user_id,
        in_time.topic_position,
        in_time.placed_us,
        in_time.orders_10m - coalesce(corrections.later_10m, 0) as user_orders_10m,
        in_time.orders_24h - coalesce(corrections.later_24h, 0) as user_orders_24h,
        in_time.amount_24h - coalesce(corrections.later_amount_24h, 0) as user_amount_24h,
        coalesce(running_countries.countries_24h, 1) - coalesce(corrections.later_countries_24h, 0) as user_countries_24h,
        case
            when ranked.order_id is null then in_time.placed_before
            else coalesce(corrections.placed_before, ranked.placed_before_stretch)
        end as placed_before
    from in_time
    left join ranked on in_time.order_id = ranked.order_id
    left join corrections on in_time.order_id = corrections.order_id
    left join running_countries
        on
            in_time.user_id = running_countries.user_id
            and in_time.topic_position = running_countries.topic_position
            and running_countries.is_order
    where in_time.partition_date >= {{ days.first }}
),

-- An order without a predecessor since the day before has one long ago, or none. Of the orders of long ago, those that
-- came later than one of these are kept one by one, and of the others the last.
without_predecessor as (
    select
        user_id,
        min(topic_position) as first_position,
        max(topic_position) as last_position
    from looked_back
    where placed_before is null
    group by user_id
),

long_ago as (
    select
        past.user_id,
        greatest(past.topic_position, without_predecessor.first_position - 1) as topic_position,
        {{ microseconds('past.ordered_at') }} as placed_us
    from {{ ref('fact_orders') }} as past
    inner join without_predecessor
        on past.user_id = without_predecessor.user_id and past.topic_position < without_predecessor.last_position
    where past.partition_date < {{ days.reads_from }}
),

long_ago_by_position as (
    select
        user_id,
        topic_position,
        max(placed_us) as placed_us
    from long_ago
    group by user_id, topic_position
),

predecessors as (
    select
        *,
        false as is_order
    from long_ago_by_position
    union all
    select
        user_id,
        topic_position,
        null as placed_us,
        true as is_order
    from looked_back
    where placed_before is null
),

last_long_ago as (
    select
        user_id,
        topic_position,
        is_order,
        max(placed_us) over (
            partition by user_id order by topic_position rows between unbounded preceding and current row
        ) as placed_before
    from predecessors
),

-- What the order does not look back on: price, user and lists, each as it was known when the order was decided. The first
-- version of a product or user always was, because an order needs both.
product_versions as (
    select
        product_id,
        list_price,
        version,
        valid_from,
        coalesce(
            lead(valid_from) over (partition by product_id order by valid_from, version), {{ last_instant() }}
        ) as valid_to,
        {{ known_from('product_id') }} as known_from
    from {{ ref('stg_product_versions') }}
),

prices as (
    select * from product_versions
    where {{ local_date('valid_from') }} < {{ days.end }} and {{ local_date('valid_to') }} >= {{ days.first }}
),

-- Of these orders the price was written later: the newest price of those that were known counts.
decided_before as (
    select
        orders.order_id,
        orders.product_id,
        orders.ordered_at,
        orders.flagged_at
    from orders
    inner join prices on orders.product_id = prices.product_id and orders.flagged_at < prices.known_from
    where orders.ordered_at >= prices.valid_from and orders.ordered_at < prices.valid_to
),

prices_known_before as (
    select
        decided_before.order_id,
        product_versions.list_price
    from decided_before
    inner join product_versions on decided_before.product_id = product_versions.product_id
    where
        product_versions.valid_from <= decided_before.ordered_at
        and product_versions.known_from <= decided_before.flagged_at
    qualify row_number() over (
        partition by decided_before.order_id order by product_versions.valid_from desc, product_versions.version desc
    ) = 1
),

user_versions as (
    select
        user_id,
        signed_up_at,
        version,
        {{ known_from('user_id') }} as known_from
    from {{ ref('stg_user_versions') }}
),

sign_ups as (
    select
        user_id,
        signed_up_at,
        known_from,
        coalesce(
            min(known_from) over (
                partition by user_id order by version rows between 1 following and unbounded following
            ),
            {{ last_instant() }}
        ) as known_to
    from user_versions
),

list_entries as (
    select * from {{ ref('stg_user_list_events') }}
    where event = 'added'
),

-- Where the order's version is not known, the time of the decision says which entries there were.
listed as (
    select
        orders.order_id,
        count(case when list_entries.list_name = 'block' then 1 end) > 0
        and count(case when list_entries.list_name = 'allow' then 1 end) = 0 as is_blacklisted
    from orders
    inner join list_entries on orders.user_id = list_entries.user_id
    where
        case
            when orders.lists_version is not null
                then
                    orders.lists_version >= list_entries.lists_version
                    and coalesce(orders.lists_version < list_entries.removed_version, true)
            else
                orders.flagged_at >= list_entries.event_at
                and coalesce(orders.flagged_at < list_entries.removed_at, true)
        end
        and coalesce(orders.ordered_at < list_entries.expires_at, true)
    group by orders.order_id
)

select
    orders.order_id,
    orders.user_id,
    orders.ordered_at,
    orders.topic_position,
    orders.local_hour,
    case when orders.flagged_at < prices.known_from then prices_known_before.list_price else prices.list_price end as list_price,
    {{ days_between('sign_ups.signed_up_at', 'orders.ordered_at') }} as user_age_days,
    cast(looked_back.user_orders_10m as {{ int64 }}) as user_orders_10m,
    cast(looked_back.user_orders_24h as {{ int64 }}) as user_orders_24h,
    {{ money('looked_back.user_amount_24h') }} as user_amount_24h,
    cast(
        floor((looked_back.placed_us - coalesce(looked_back.placed_before, last_long_ago.placed_before)) / 1000000) as {{ int64 }}
    ) as seconds_since_last_order,
    cast(looked_back.user_countries_24h as {{ int64 }}) as user_countries_24h,
    coalesce(listed.is_blacklisted, false) as is_blacklisted,
    orders.partition_date
from orders
left join looked_back on orders.order_id = looked_back.order_id
left join last_long_ago
    on
        orders.user_id = last_long_ago.user_id
        and orders.topic_position = last_long_ago.topic_position
        and last_long_ago.is_order
left join prices
    on
        orders.product_id = prices.product_id
        and orders.ordered_at >= prices.valid_from
        and orders.ordered_at < prices.valid_to
left join prices_known_before on orders.order_id = prices_known_before.order_id
left join sign_ups
    on
        orders.user_id = sign_ups.user_id
        and orders.flagged_at >= sign_ups.known_from
        and orders.flagged_at < sign_ups.known_to
left join listed on orders.order_id = listed.order_id
