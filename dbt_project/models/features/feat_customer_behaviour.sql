with

as_of_days as (

    {{ as_of_days() }}

),

accumulated as (

    select
        customer_id,
        known_from,
        known_until,
        last_order_date,
        last_return_date,
        orders,
        purchased_amount,
        returned_amount,
        gross_amount,
        discount_amount,
        units,
        lines,
        discounted_orders,
        weekend_orders,
        morning_orders,
        afternoon_orders,
        evening_orders,
        distinct_products,
        order_value_max,
        order_value_last,
        order_gap_last_days,
        order_gaps,
        cast(order_gap_days_sum as double precision) as gap_sum,
        cast(
            order_gaps * order_gap_squares_sum
            - order_gap_days_sum * order_gap_days_sum as double precision
        ) as gap_spread
    from {{ ref('int_customer_days_accumulated') }}
    where orders > 0

),

-- What was known of a customer at the start of the day.
known as (

    select
        accumulated.customer_id,
        as_of_days.as_of_date,
        accumulated.orders,
        accumulated.purchased_amount,
        accumulated.returned_amount,
        accumulated.gross_amount,
        accumulated.discount_amount,
        accumulated.units,
        accumulated.lines,
        accumulated.discounted_orders,
        accumulated.weekend_orders,
        accumulated.morning_orders,
        accumulated.afternoon_orders,
        accumulated.evening_orders,
        accumulated.distinct_products,
        accumulated.order_value_max,
        accumulated.order_value_last,
        accumulated.order_gap_last_days,
        accumulated.gap_sum / nullif(accumulated.order_gaps, 0)
            as order_gap_mean_days,
        case
            when accumulated.order_gaps > 1
                then
                    sqrt(
                        accumulated.gap_spread
                        / accumulated.order_gaps
                        / (accumulated.order_gaps - 1)
                    )
        end as order_gap_stddev_days,
        {{ days_between(
            'accumulated.last_order_date', 'as_of_days.as_of_date'
        ) }} as recency_days,
        {{ days_between(
            'accumulated.last_return_date', 'as_of_days.as_of_date'
        ) }} as days_since_last_return
    from accumulated
    inner join as_of_days
        on
            accumulated.known_from <= as_of_days.as_of_date
            and (
                accumulated.known_until > as_of_days.as_of_date
                or accumulated.known_until is null
            )

),

past_days as (

    select
        days.customer_id,
        as_of_days.as_of_date,
        {{ days_between('days.order_date', 'as_of_days.as_of_date') }}
            as days_ago,
        days.day_orders as orders,
        days.day_net_spend as spend,
        days.day_units as units,
        days.day_returned_amount as returned_amount,
        days.day_products as products,
        days.day_new_products as new_products
    from {{ ref('int_customer_days_accumulated') }} as days
    inner join as_of_days
        on
            days.known_from <= as_of_days.as_of_date
            and {{ days_between('days.order_date', 'as_of_days.as_of_date') }}
            <= 455

),

-- A window of n days holds days_ago 1 to n. The 90 days that begin a year
-- before the as-of day hold days_ago 365 down to 276.
windows as (

    select
        customer_id,
        as_of_date,
        {% for days in feature_windows() %}
            sum(case when days_ago <= {{ days }} then orders else 0 end)
                as orders_{{ days }}d,
            sum(case when days_ago <= {{ days }} then spend else 0 end)
                as spend_{{ days }}d,
            sum(case when days_ago <= {{ days }} then units else 0 end)
                as units_{{ days }}d,
        {% endfor %}
        sum(case when days_ago <= 365 then returned_amount else 0 end)
            as returned_365d,
        sum(case when days_ago <= 90 then products else 0 end)
            as product_days_90d,
        sum(case when days_ago <= 90 then new_products else 0 end)
            as new_products_90d,
        sum(case when days_ago between 31 and 60 then orders else 0 end)
            as orders_before_30d,
        sum(case when days_ago between 31 and 60 then spend else 0 end)
            as spend_before_30d,
        sum(case when days_ago between 91 and 180 then orders else 0 end)
            as orders_before_90d,
        sum(case when days_ago between 91 and 180 then spend else 0 end)
            as spend_before_90d,
        sum(case when days_ago between 276 and 365 then orders else 0 end)
            as orders_to_come_last_year,
        sum(case when days_ago between 276 and 365 then spend else 0 end)
            as spend_to_come_last_year,
        sum(case when days_ago between 366 and 455 then spend else 0 end)
            as spend_year_before_90d
    from past_days
    group by customer_id, as_of_date

),

first_days as (

    select
        known_on,
        min(order_date) as first_order_date
    from {{ ref('int_customer_days') }}
    where orders > 0
    group by known_on

),

shop as (

    select
        as_of_days.as_of_date,
        {{ days_between(
            'min(first_days.first_order_date)', 'as_of_days.as_of_date'
        ) }} as history_days
    from first_days
    inner join as_of_days on first_days.known_on <= as_of_days.as_of_date
    group by as_of_days.as_of_date

),

-- What the shop took for a unit of each category.
category_prices as (

    select
        days.category_code,
        as_of_days.as_of_date,
        {{ ratio('sum(days.gross_amount)', 'sum(days.units)') }} as price
    from {{ ref('int_category_days') }} as days
    inner join as_of_days on days.known_on <= as_of_days.as_of_date
    group by days.category_code, as_of_days.as_of_date

),

categories as (

    select
        category_code,
        min(category) as category
    from {{ ref('int_category_days') }}
    group by category_code

),

customer_categories as (

    select
        categories.customer_id,
        as_of_days.as_of_date,
        categories.category_code,
        categories.product_days,
        categories.gross_amount,
        cast(categories.units as double precision) * category_prices.price
            as gross_amount_at_average,
        -- The most bought, as one number that carries its category.
        cast(categories.product_days as bigint) * 268435456
        + categories.category_code as rank_key
    from {{ ref('int_customer_categories') }} as categories
    inner join as_of_days
        on
            categories.known_from <= as_of_days.as_of_date
            and (
                categories.known_until > as_of_days.as_of_date
                or categories.known_until is null
            )
    inner join category_prices
        on
            categories.category_code = category_prices.category_code
            and as_of_days.as_of_date = category_prices.as_of_date

),

mixes as (

    select
        customer_id,
        as_of_date,
        count(*) as distinct_categories,
        cast(sum(product_days) as double precision) as product_days,
        sum(product_days * ln(cast(product_days as double precision)))
            as log_sum,
        max(product_days) as top_product_days,
        max(rank_key) % 268435456 as top_category_code,
        cast(sum(gross_amount) as double precision)
        / nullif(sum(gross_amount_at_average), 0) as price_position
    from customer_categories
    group by customer_id, as_of_date

),

shop_categories as (

    select
        as_of_date,
        count(*) as categories
    from category_prices
    group by as_of_date

),

feat_customer_behaviour as (

    select
        known.customer_id,
        known.as_of_date,
        known.order_gap_mean_days,
        known.order_gap_stddev_days,
        known.order_gap_stddev_days / known.order_gap_mean_days
            as order_gap_variation,
        known.order_gap_last_days,
        known.recency_days / known.order_gap_mean_days as overdue_ratio,
        known.order_gap_mean_days - known.recency_days
            as days_to_expected_order,
        {% for days in feature_windows() %}
            cast(coalesce(windows.orders_{{ days }}d, 0) as integer)
                as orders_{{ days }}d,
        {% endfor %}
        {% for days in feature_windows() %}
            cast(coalesce(windows.spend_{{ days }}d, 0) as numeric(14, 2))
                as spend_{{ days }}d,
        {% endfor %}
        {% for days in feature_windows() %}
            cast(coalesce(windows.units_{{ days }}d, 0) as double precision)
                as units_{{ days }}d,
        {% endfor %}
        cast(coalesce(windows.returned_365d, 0) as numeric(14, 2))
            as returned_365d,
        {{ change('windows.orders_30d', 'windows.orders_before_30d') }}
            as orders_trend_30d,
        {{ change('windows.orders_90d', 'windows.orders_before_90d') }}
            as orders_trend_90d,
        {{ change('windows.spend_30d', 'windows.spend_before_30d') }}
            as spend_trend_30d,
        {{ change('windows.spend_90d', 'windows.spend_before_90d') }}
            as spend_trend_90d,
        case
            when shop.history_days >= 455
                then {{ change(
                    'windows.spend_90d', 'windows.spend_year_before_90d'
                ) }}
        end as spend_change_year_90d,
        cast(
            case
                when shop.history_days >= 365
                    then coalesce(windows.spend_to_come_last_year, 0)
            end as numeric(14, 2)
        ) as spend_same_window_last_year_90d,
        cast(
            case
                when shop.history_days >= 365
                    then coalesce(windows.orders_to_come_last_year, 0)
            end as integer
        ) as orders_same_window_last_year_90d,
        cast(known.order_value_max as numeric(14, 2)) as order_value_max,
        cast(known.order_value_last as numeric(14, 2)) as order_value_last,
        {{ ratio('known.lines', 'known.orders') }} as lines_per_order,
        {{ ratio('known.units', 'known.orders') }} as units_per_order,
        {{ ratio('known.gross_amount', 'known.units') }} as unit_price_mean,
        known.distinct_products,
        cast(coalesce(windows.product_days_90d, 0) as integer)
            as product_days_90d,
        {{ ratio('windows.new_products_90d', 'windows.product_days_90d') }}
            as new_product_share_90d,
        case
            when shop_categories.categories > 0
                then cast(coalesce(mixes.distinct_categories, 0) as integer)
        end as distinct_categories,
        -- The last digit of a logarithm may take one category below none.
        case
            when mixes.distinct_categories = 1 then 0
            else ln(mixes.product_days) - mixes.log_sum / mixes.product_days
        end as category_entropy,
        mixes.top_product_days / mixes.product_days as top_category_share,
        categories.category as top_category,
        mixes.price_position,
        {{ ratio('known.discount_amount', 'known.gross_amount') }}
            as discount_share,
        {{ ratio('known.discounted_orders', 'known.orders') }}
            as discounted_order_share,
        {{ ratio('known.returned_amount', 'known.purchased_amount') }}
            as return_share,
        known.days_since_last_return,
        {{ ratio('known.weekend_orders', 'known.orders') }}
            as weekend_order_share,
        {{ ratio('known.morning_orders', 'known.orders') }}
            as morning_order_share,
        {{ ratio('known.afternoon_orders', 'known.orders') }}
            as afternoon_order_share,
        {{ ratio('known.evening_orders', 'known.orders') }}
            as evening_order_share,
        least(730, shop.history_days) as history_days
    from known
    inner join shop on known.as_of_date = shop.as_of_date
    left join windows
        on
            known.customer_id = windows.customer_id
            and known.as_of_date = windows.as_of_date
    left join mixes
        on
            known.customer_id = mixes.customer_id
            and known.as_of_date = mixes.as_of_date
    left join categories
        on mixes.top_category_code = categories.category_code
    left join shop_categories
        on known.as_of_date = shop_categories.as_of_date

)

select * from feat_customer_behaviour
