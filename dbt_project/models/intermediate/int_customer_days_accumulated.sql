{{ config(meta={'replaces': {
    'customers': 'customer_id',
    'tables': ['order_lines'],
}}) }}

with

customer_days as (

    select
        customer_id,
        order_date,
        known_on,
        orders,
        net_spend,
        purchased_amount,
        returned_amount,
        returned_lines,
        gross_amount,
        discount_amount,
        units,
        lines,
        discounted_orders,
        morning_orders,
        afternoon_orders,
        evening_orders,
        order_value_max,
        order_value_first,
        order_value_last,
        first_order_hour,
        first_order_channel
    from {{ ref('int_customer_days') }}
    where {{ touched_customers('customer_id', ['order_lines']) }}

),

-- The first day of a product with a customer is where it is new.
product_days as (

    select
        customer_id,
        order_date,
        known_on,
        case
            when
                row_number() over (
                    partition by customer_id, product_id
                    order by known_on, order_date
                ) = 1
                then 1
            else 0
        end as new_products
    from {{ ref('int_customer_product_days') }}
    where {{ touched_customers('customer_id', ['order_lines']) }}

),

products as (

    select
        customer_id,
        order_date,
        known_on,
        count(*) as products,
        sum(new_products) as new_products
    from product_days
    group by customer_id, order_date, known_on

),

-- The newest order day before the row, as it was known then. A day that comes
-- late and is older makes no gap of its own.
ordered as (

    select
        customer_days.customer_id,
        customer_days.order_date,
        customer_days.known_on,
        customer_days.orders,
        customer_days.net_spend,
        customer_days.purchased_amount,
        customer_days.returned_amount,
        customer_days.returned_lines,
        customer_days.gross_amount,
        customer_days.discount_amount,
        customer_days.units,
        customer_days.lines,
        customer_days.discounted_orders,
        customer_days.morning_orders,
        customer_days.afternoon_orders,
        customer_days.evening_orders,
        customer_days.order_value_max,
        customer_days.order_value_first,
        customer_days.order_value_last,
        customer_days.first_order_hour,
        customer_days.first_order_channel,
        coalesce(products.products, 0) as products,
        coalesce(products.new_products, 0) as new_products,
        case
            when customer_days.orders > 0 then customer_days.order_date
        end as purchase_date,
        max(
            case when customer_days.orders > 0 then customer_days.order_date end
        ) over (
            partition by customer_days.customer_id
            order by customer_days.known_on, customer_days.order_date
            rows between unbounded preceding and 1 preceding
        ) as previous_order_date
    from customer_days
    left join products
        on
            customer_days.customer_id = products.customer_id
            and customer_days.order_date = products.order_date
            and customer_days.known_on = products.known_on

),

gapped as (

    select
        customer_id,
        order_date,
        known_on,
        orders,
        net_spend,
        purchased_amount,
        returned_amount,
        returned_lines,
        gross_amount,
        discount_amount,
        units,
        lines,
        discounted_orders,
        morning_orders,
        afternoon_orders,
        evening_orders,
        order_value_max,
        order_value_first,
        order_value_last,
        first_order_hour,
        first_order_channel,
        products,
        new_products,
        purchase_date,
        purchase_date is not null and previous_order_date is null
            as is_first_order_day,
        purchase_date is not null
        and coalesce(purchase_date > previous_order_date, true)
            as is_newest_order_day,
        case
            when purchase_date > previous_order_date
                then {{ days_between('previous_order_date', 'purchase_date') }}
        end as order_gap_days
    from ordered

),

running as (

    select
        customer_id,
        order_date,
        known_on,
        orders,
        net_spend,
        units,
        returned_amount,
        products,
        new_products,
        order_gap_days,
        case when is_newest_order_day then order_value_last end
            as order_value_last,
        lead(known_on) over row_by_row as known_until,
        min(purchase_date) over so_far as first_order_date,
        max(purchase_date) over so_far as last_order_date,
        max(case when returned_lines > 0 then order_date end) over so_far
            as last_return_date,
        sum(case when is_newest_order_day then 1 else 0 end) over so_far
            as newest_order_days,
        sum(orders) over so_far as total_orders,
        sum(net_spend) over so_far as total_net_spend,
        sum(purchased_amount) over so_far as total_purchased_amount,
        sum(returned_amount) over so_far as total_returned_amount,
        sum(gross_amount) over so_far as total_gross_amount,
        sum(discount_amount) over so_far as total_discount_amount,
        sum(units) over so_far as total_units,
        sum(lines) over so_far as total_lines,
        sum(discounted_orders) over so_far as discounted_orders,
        sum(morning_orders) over so_far as morning_orders,
        sum(afternoon_orders) over so_far as afternoon_orders,
        sum(evening_orders) over so_far as evening_orders,
        sum(
            case
                when {{ iso_weekday('order_date') }} >= 6 then orders else 0
            end
        ) over so_far as weekend_orders,
        sum(new_products) over so_far as distinct_products,
        max(order_value_max) over so_far as order_value_max,
        count(order_gap_days) over so_far as order_gaps,
        sum(order_gap_days) over so_far as order_gap_days_sum,
        sum(cast(order_gap_days as bigint) * order_gap_days) over so_far
            as order_gap_squares_sum,
        max(case when is_first_order_day then order_date end) over so_far
            as first_known_order_date,
        max(case when is_first_order_day then order_value_first end)
            over so_far as first_order_value,
        max(case when is_first_order_day then first_order_hour end)
            over so_far as first_order_hour,
        max(case when is_first_order_day then first_order_channel end)
            over so_far as first_order_channel,
        max(case when is_first_order_day then lines end) over so_far
            as first_order_lines,
        max(case when is_first_order_day then units end) over so_far
            as first_order_units,
        max(case when is_first_order_day then products end) over so_far
            as first_order_products,
        max(case when is_first_order_day then gross_amount end) over so_far
            as first_order_gross_amount,
        max(case when is_first_order_day then discount_amount end) over so_far
            as first_order_discount_amount
    from gapped
    window
        row_by_row as (partition by customer_id order by known_on, order_date),
        so_far as (
            partition by customer_id
            order by known_on, order_date
            rows between unbounded preceding and current row
        )

),

-- Rows without an order keep the last one known before them: between two
-- newest order days the count of these stands still.
accumulated as (

    select
        customer_id,
        order_date,
        known_on as known_from,
        known_until,
        first_order_date,
        last_order_date,
        last_return_date,
        cast(total_orders as integer) as orders,
        cast(total_net_spend as numeric(38, 12)) as net_spend,
        cast(total_purchased_amount as numeric(38, 12)) as purchased_amount,
        cast(total_returned_amount as numeric(38, 12)) as returned_amount,
        cast(total_gross_amount as numeric(38, 12)) as gross_amount,
        cast(total_discount_amount as numeric(38, 12)) as discount_amount,
        cast(total_units as numeric(18, 6)) as units,
        cast(total_lines as integer) as lines,
        cast(discounted_orders as integer) as discounted_orders,
        cast(weekend_orders as integer) as weekend_orders,
        cast(morning_orders as integer) as morning_orders,
        cast(afternoon_orders as integer) as afternoon_orders,
        cast(evening_orders as integer) as evening_orders,
        cast(distinct_products as integer) as distinct_products,
        cast(order_value_max as numeric(38, 12)) as order_value_max,
        cast(
            max(order_value_last) over since_newest as numeric(38, 12)
        ) as order_value_last,
        cast(max(order_gap_days) over since_newest as integer)
            as order_gap_last_days,
        cast(order_gaps as integer) as order_gaps,
        cast(order_gap_days_sum as bigint) as order_gap_days_sum,
        cast(order_gap_squares_sum as bigint) as order_gap_squares_sum,
        first_known_order_date,
        cast(first_order_value as numeric(38, 12)) as first_order_value,
        first_order_hour,
        first_order_channel,
        cast(first_order_lines as integer) as first_order_lines,
        cast(first_order_units as numeric(18, 6)) as first_order_units,
        cast(first_order_products as integer) as first_order_products,
        cast(first_order_gross_amount as numeric(38, 12))
            as first_order_gross_amount,
        cast(first_order_discount_amount as numeric(38, 12))
            as first_order_discount_amount,
        orders as day_orders,
        net_spend as day_net_spend,
        units as day_units,
        returned_amount as day_returned_amount,
        cast(products as integer) as day_products,
        cast(new_products as integer) as day_new_products
    from running
    window since_newest as (partition by customer_id, newest_order_days)

)

select * from accumulated
