{{ config(cluster_by=['signup_month']) }}

with

orders as (
    select * from {{ ref('order_outcomes') }}
),

users as (
    select * from {{ ref('dim_users') }}
),

statuses as (
    select * from {{ ref('users_and_blacklist') }}
),

members as (
    select
        users.user_id,
        {{ start_of_month('users.signed_up_on') }} as signup_month,
        statuses.status as fraud_status
    from users
    inner join statuses on users.user_id = statuses.user_id
),

cohorts as (
    select
        signup_month,
        fraud_status,
        count(*) as cohort_users
    from members
    group by signup_month, fraud_status
),

newest as (
    select max(partition_date) as newest_day from orders
),

-- Every cohort has a row for each month until that of the newest order, so that months without orders show.
observed as (
    select
        cohorts.signup_month,
        cohorts.fraud_status,
        cohorts.cohort_users,
        coalesce(newest.newest_day, cohorts.signup_month) as partition_date
    from cohorts
    cross join newest
),

cohort_months as (
    select
        signup_month,
        fraud_status,
        cohort_users,
        months_since_signup
    from observed
    {{ cross_join_unnest(numbers_to(months_since('signup_month')), 'months_since_signup') }}
),

orders_of_members as (
    select
        members.signup_month,
        members.fraud_status,
        {{ months_since('members.signup_month') }} as months_since_signup,
        orders.user_id,
        orders.is_fraud,
        orders.is_cancelled,
        orders.amount,
        orders.refund_amount
    from orders
    inner join members on orders.user_id = members.user_id
),

activity as (
    select
        signup_month,
        fraud_status,
        months_since_signup,
        {{ active_customers() }} as active_users,
        count(*) as total_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ revenue() }} as revenue
    from orders_of_members
    group by signup_month, fraud_status, months_since_signup
),

filled as (
    select
        cohort_months.signup_month,
        cohort_months.fraud_status,
        cohort_months.months_since_signup,
        cohort_months.cohort_users,
        coalesce(activity.active_users, 0) as active_users,
        coalesce(activity.total_orders, 0) as total_orders,
        coalesce(activity.fraud_orders, 0) as fraud_orders,
        {{ money('coalesce(activity.revenue, 0)') }} as revenue
    from cohort_months
    left join activity
        on
            cohort_months.signup_month = activity.signup_month
            and cohort_months.fraud_status = activity.fraud_status
            and cohort_months.months_since_signup = activity.months_since_signup
)

select
    signup_month,
    fraud_status,
    months_since_signup,
    cohort_users,
    active_users,
    {{ percentage('active_users', 'cohort_users') }} as retention_percentage,
    total_orders,
    fraud_orders,
    revenue
from filled
