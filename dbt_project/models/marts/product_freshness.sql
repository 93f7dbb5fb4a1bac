{{ config(cluster_by=['category']) }}

with

orders as (
    select * from {{ ref('order_outcomes') }}
),

products as (
    select * from {{ ref('dim_products') }}
),

newest as (
    select max(partition_date) as newest_day from orders
),

-- Every product has a row for each week until that of the newest order, so that weeks without orders show.
observed as (
    select
        products.category,
        products.listed_on,
        coalesce(newest.newest_day, products.listed_on) as partition_date
    from products
    cross join newest
),

product_weeks as (
    select
        category,
        weeks_since_launch
    from observed
    {{ cross_join_unnest(numbers_to(weeks_since('listed_on')), 'weeks_since_launch') }}
),

category_weeks as (
    select
        category,
        weeks_since_launch,
        count(*) as products
    from product_weeks
    group by category, weeks_since_launch
),

orders_of_products as (
    select
        products.category,
        {{ weeks_since('products.listed_on') }} as weeks_since_launch,
        orders.product_id,
        orders.is_fraud,
        orders.is_cancelled,
        orders.shipment_status,
        orders.amount,
        orders.refund_amount
    from orders
    inner join products on orders.product_id = products.product_id
),

activity as (
    select
        category,
        weeks_since_launch,
        count(distinct product_id) as ordered_products,
        count(*) as total_orders,
        {{ genuine_orders() }} as genuine_orders,
        {{ fraud_orders() }} as fraud_orders,
        {{ returned_orders() }} as returned_orders,
        {{ revenue() }} as revenue,
        {{ fraud_amount() }} as fraud_amount
    from orders_of_products
    group by category, weeks_since_launch
),

filled as (
    select
        category_weeks.category,
        category_weeks.weeks_since_launch,
        category_weeks.products,
        coalesce(activity.ordered_products, 0) as ordered_products,
        coalesce(activity.total_orders, 0) as total_orders,
        coalesce(activity.genuine_orders, 0) as genuine_orders,
        coalesce(activity.fraud_orders, 0) as fraud_orders,
        coalesce(activity.returned_orders, 0) as returned_orders,
        {{ money('coalesce(activity.revenue, 0)') }} as revenue,
        {{ money('coalesce(activity.fraud_amount, 0)') }} as fraud_amount
    from category_weeks
    left join activity
        on
            category_weeks.category = activity.category
            and category_weeks.weeks_since_launch = activity.weeks_since_launch
)

select
    category,
    weeks_since_launch,
    products,
    ordered_products,
    total_orders,
    genuine_orders,
    fraud_orders,
    {{ percentage('fraud_orders', 'total_orders') }} as fraud_percentage,
    returned_orders,
    revenue,
    fraud_amount
from filled
