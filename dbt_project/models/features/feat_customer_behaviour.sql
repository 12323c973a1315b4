with

as_of_days as (

    {{ as_of_days() }}

),

past_days as (

    select
        days.*,
        as_of_days.as_of_date,
        {{ days_between('days.order_date', 'as_of_days.as_of_date') }}
            as days_ago,
        days.is_newest_order_day
        and coalesce(days.newest_until > as_of_days.as_of_date, true)
            as is_last_order_day
    from {{ ref('int_customer_days_ordered') }} as days
    inner join as_of_days on days.known_on <= as_of_days.as_of_date

),

-- A window of n days holds days_ago 1 to n. The n days that begin a year
-- before the as-of day hold days_ago 365 down to 366 - n.
known as (

    select
        customer_id,
        as_of_date,
        {% for days in feature_windows() %}
            sum(case when days_ago <= {{ days }} then orders else 0 end)
                as orders_{{ days }}d,
            sum(case when days_ago <= {{ days }} then net_spend else 0 end)
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
        sum(case when days_ago between 31 and 60 then net_spend else 0 end)
            as spend_before_30d,
        sum(case when days_ago between 91 and 180 then orders else 0 end)
            as orders_before_90d,
        sum(case when days_ago between 91 and 180 then net_spend else 0 end)
            as spend_before_90d,
        {% for days in last_year_windows() %}
            sum(
                case
                    when days_ago between 366 - {{ days }} and 365
                        then orders
                    else 0
                end
            ) as orders_{{ days }}d_last_year,
            sum(
                case
                    when days_ago between 366 - {{ days }} and 365
                        then net_spend
                    else 0
                end
            ) as spend_{{ days }}d_last_year,
        {% endfor %}
        sum(case when days_ago between 366 and 455 then net_spend else 0 end)
            as spend_year_before_90d,
        min(case when orders > 0 then days_ago end) as recency_days,
        min(case when returned_lines > 0 then days_ago end)
            as days_since_last_return,
        count(order_gap_days) as order_gaps,
        sum(order_gap_days) as gap_sum,
        sum(order_gap_days * order_gap_days) as gap_squares,
        max(case when is_last_order_day then order_gap_days end)
            as order_gap_last_days,
        max(case when is_last_order_day then order_value_last end)
            as order_value_last,
        max(order_value_max) as order_value_max,
        sum(orders) as orders,
        sum(purchased_amount) as purchased_amount,
        sum(returned_amount) as returned_amount,
        sum(gross_amount) as gross_amount,
        sum(discount_amount) as discount_amount,
        sum(units) as units,
        sum(lines) as lines,
        sum(new_products) as distinct_products,
        sum(discounted_orders) as discounted_orders,
        sum(morning_orders) as morning_orders,
        sum(afternoon_orders) as afternoon_orders,
        sum(evening_orders) as evening_orders,
        sum(
            case
                when {{ iso_weekday('order_date') }} > 5 then orders else 0
            end
        ) as weekend_orders
    from past_days
    group by customer_id, as_of_date
    having sum(orders) > 0

),

paced as (

    select
        *,
        cast(gap_sum as double precision) / nullif(order_gaps, 0)
            as order_gap_mean_days,
        case
            when order_gaps > 1
                then
                    sqrt(
                        cast(
                            order_gaps * gap_squares - gap_sum * gap_sum
                            as double precision
                        )
                        / order_gaps
                        / (order_gaps - 1)
                    )
        end as order_gap_stddev_days
    from known

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
        -- As decimals, because the sum of doubles depends on their order.
        cast(
            cast(categories.units as double precision) * category_prices.price
            as numeric(38, 15)
        ) as gross_amount_at_average,
        cast(
            categories.product_days
            * ln(cast(categories.product_days as double precision))
            as numeric(28, 15)
        ) as log_term,
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
        cast(sum(log_term) as double precision) as log_sum,
        max(product_days) as top_product_days,
        max(rank_key) % 268435456 as top_category_code,
        {{ ratio('sum(gross_amount)', 'sum(gross_amount_at_average)') }}
            as price_position
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
        paced.customer_id,
        paced.as_of_date,
        paced.order_gap_mean_days,
        paced.order_gap_stddev_days,
        paced.order_gap_stddev_days / paced.order_gap_mean_days
            as order_gap_variation,
        paced.order_gap_last_days,
        paced.recency_days / paced.order_gap_mean_days as overdue_ratio,
        paced.order_gap_mean_days - paced.recency_days
            as days_to_expected_order,
        {% for days in feature_windows() %}
            cast(paced.orders_{{ days }}d as integer)
                as orders_{{ days }}d,
        {% endfor %}
        {% for days in feature_windows() %}
            cast(paced.spend_{{ days }}d as numeric(14, 2))
                as spend_{{ days }}d,
        {% endfor %}
        {% for days in feature_windows() %}
            cast(paced.units_{{ days }}d as double precision)
                as units_{{ days }}d,
        {% endfor %}
        cast(paced.returned_365d as numeric(14, 2))
            as returned_365d,
        {{ change('paced.orders_30d', 'paced.orders_before_30d') }}
            as orders_trend_30d,
        {{ change('paced.orders_90d', 'paced.orders_before_90d') }}
            as orders_trend_90d,
        {{ change('paced.spend_30d', 'paced.spend_before_30d') }}
            as spend_trend_30d,
        {{ change('paced.spend_90d', 'paced.spend_before_90d') }}
            as spend_trend_90d,
        case
            when shop.history_days >= 455
                then {{ change(
                    'paced.spend_90d', 'paced.spend_year_before_90d'
                ) }}
        end as spend_change_year_90d,
        {% for days in last_year_windows() %}
            cast(
                case
                    when shop.history_days >= 365
                        then paced.spend_{{ days }}d_last_year
                end as numeric(14, 2)
            ) as spend_same_window_last_year_{{ days }}d,
            cast(
                case
                    when shop.history_days >= 365
                        then paced.orders_{{ days }}d_last_year
                end as integer
            ) as orders_same_window_last_year_{{ days }}d,
        {% endfor %}
        cast(paced.order_value_max as numeric(14, 2)) as order_value_max,
        cast(paced.order_value_last as numeric(14, 2)) as order_value_last,
        {{ ratio('paced.lines', 'paced.orders') }} as lines_per_order,
        {{ ratio('paced.units', 'paced.orders') }} as units_per_order,
        {{ ratio('paced.gross_amount', 'paced.units') }} as unit_price_mean,
        cast(paced.distinct_products as integer) as distinct_products,
        cast(paced.product_days_90d as integer) as product_days_90d,
        {{ ratio('paced.new_products_90d', 'paced.product_days_90d') }}
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
        {{ ratio('paced.discount_amount', 'paced.gross_amount') }}
            as discount_share,
        {{ ratio('paced.discounted_orders', 'paced.orders') }}
            as discounted_order_share,
        {{ ratio('paced.returned_amount', 'paced.purchased_amount') }}
            as return_share,
        paced.days_since_last_return,
        {{ ratio('paced.weekend_orders', 'paced.orders') }}
            as weekend_order_share,
        {{ ratio('paced.morning_orders', 'paced.orders') }}
            as morning_order_share,
        {{ ratio('paced.afternoon_orders', 'paced.orders') }}
            as afternoon_order_share,
        {{ ratio('paced.evening_orders', 'paced.orders') }}
            as evening_order_share,
        least(730, shop.history_days) as history_days
    from paced
    inner join shop on paced.as_of_date = shop.as_of_date
    left join mixes
        on
            paced.customer_id = mixes.customer_id
            and paced.as_of_date = mixes.as_of_date
    left join categories
        on mixes.top_category_code = categories.category_code
    left join shop_categories
        on paced.as_of_date = shop_categories.as_of_date

)

select * from feat_customer_behaviour
