{{ config(cluster_by=['user_id']) }}

with

orders as (
    select * from {{ ref('order_outcomes') }}
),

users as (
    select * from {{ ref('users_and_blacklist') }}
),

newest as (
    select max(partition_date) as newest_day from orders
),

-- The last one holds all time.
time_windows as (
    select cast(30 as {{ column_types().int64 }}) as window_days
    union all
    select 90
    union all
    select 365
    union all
    select null
),

windowed as (
    select
        time_windows.window_days,
        orders.user_id,
        orders.payment_method,
        orders.partition_date,
        orders.amount,
        orders.refund_amount,
        orders.is_fraud,
        orders.is_cancelled,
        {{ is_sale() }} as is_sale,
        (orders.is_fraud and not orders.is_cleared) or orders.label = 'fraud' as is_attempted_fraud,
        orders.disputes_lost
    from orders
    cross join newest
    cross join time_windows
    where
        time_windows.window_days is null
        or {{ calendar_difference('day', 'orders.partition_date', 'newest.newest_day') }} < time_windows.window_days
),

methods as (
    select
        window_days,
        user_id,
        payment_method,
        count(*) as uses
    from windowed
    where is_sale
    group by window_days, user_id, payment_method
),

favourites as (
    select
        window_days,
        user_id,
        payment_method as favourite_payment_method,
        uses
    from methods
    qualify row_number() over (partition by window_days, user_id order by uses desc, payment_method asc) = 1
),

per_user as (
    select
        window_days,
        user_id,
        count(*) as total_orders,
        count(case when is_sale then 1 end) as sales,
        {{ revenue() }} as revenue,
        count(distinct case when is_sale then partition_date end) as active_days,
        min(case when is_sale then partition_date end) as first_sale_on,
        max(case when is_sale then partition_date end) as last_sale_on,
        count(case when is_attempted_fraud then 1 end) as fraud_attempts,
        sum(disputes_lost) as disputes_lost
    from windowed
    group by window_days, user_id
),

-- Every user has a row for each window, with or without orders in it.
filled as (
    select
        users.user_id,
        coalesce(time_windows.window_days, 0) as window_days,
        users.username,
        users.masked_email,
        users.status as fraud_status,
        coalesce(per_user.total_orders, 0) as total_orders,
        coalesce(per_user.sales, 0) as sales,
        {{ money('coalesce(per_user.revenue, 0)') }} as revenue,
        coalesce(per_user.active_days, 0) as active_days,
        per_user.first_sale_on,
        per_user.last_sale_on,
        {{ calendar_difference('day', 'per_user.last_sale_on', 'newest.newest_day') }} as days_since_last_sale,
        favourites.favourite_payment_method,
        coalesce(favourites.uses, 0) as favourite_uses,
        coalesce(per_user.fraud_attempts, 0) as fraud_attempts,
        cast(coalesce(per_user.disputes_lost, 0) as {{ column_types().int64 }}) as disputes_lost
    from users
    cross join time_windows
    cross join newest
    left join per_user
        on
            users.user_id = per_user.user_id
            and coalesce(time_windows.window_days, 0) = coalesce(per_user.window_days, 0)
    left join favourites
        on
            users.user_id = favourites.user_id
            and coalesce(time_windows.window_days, 0) = coalesce(favourites.window_days, 0)
),

-- Fifths of the users with sales in the window, 5 being the best; equal users go by their id.
scored as (
    select
        *,
        ntile(5) over (
            partition by window_days, sales > 0 order by days_since_last_sale desc, user_id asc
        ) as recency_score,
        ntile(5) over (partition by window_days, sales > 0 order by sales, user_id) as frequency_score,
        ntile(5) over (partition by window_days, sales > 0 order by revenue, user_id) as monetary_score
    from filled
)

select
    user_id,
    window_days,
    username,
    masked_email,
    fraud_status,
    total_orders,
    sales,
    revenue,
    active_days,
    first_sale_on,
    last_sale_on,
    days_since_last_sale,
    favourite_payment_method,
    {{ percentage('favourite_uses', 'sales') }} as favourite_payment_percentage,
    fraud_attempts,
    disputes_lost,
    case when sales > 0 then recency_score end as recency_score,
    case when sales > 0 then frequency_score end as frequency_score,
    case when sales > 0 then monetary_score end as monetary_score,
    {{ rfm_segment('sales', 'recency_score', 'frequency_score', 'monetary_score') }} as rfm_segment
from scored
