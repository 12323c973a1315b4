-- The features of one day, as one would write them by hand for DuckDB and for that day alone.
--
-- It reads the shop's files as they are. Every row is of before the day and was known the day
-- after it, so nothing asks when. Amounts are whole millionths in doubles, whose sums are exact.
-- What the columns mean is said in dbt_project/models/features/customer_features.yml.
create temporary macro cents(amount) as cast(round(amount / 10000) / 100 as decimal(14, 2));
create temporary macro change(now, before) as (now - before) / nullif(abs(now) + abs(before), 0);
create temporary macro counted(is_there, number) as
    case when is_there then cast(coalesce(number, 0) as integer) end;

create table customer_features as
with

-- Every line, but for what was bought and returned on one day: that is netted.
returned as (

    select distinct
        customer_id,
        cast(ordered_at as date) as order_date,
        coalesce(product_id, '') as product_key,
        unit_price
    from order_lines
    where quantity < 0

),

lines as materialized (

    select
        order_id,
        line_number,
        customer_id,
        ordered_at,
        cast(ordered_at as date) as order_date,
        product_id,
        channel,
        quantity < 0 as is_return,
        quantity as units,
        round(unit_price * 1000000) as price,
        round(coalesce(discount_amount, 0) * 1000000) as discount,
        (customer_id, cast(ordered_at as date), coalesce(product_id, ''), unit_price)
        in (select (customer_id, order_date, product_key, unit_price) from returned) as is_met
    from order_lines

),

queued as (

    select
        *,
        sum(greatest(units, 0)) over met as units_purchased,
        sum(greatest(-units, 0)) over met as units_returned,
        row_number() over queue as place,
        sum(abs(units)) over queue - abs(units) as units_before
    from lines
    where is_met and units <> 0
    window
        met as (partition by customer_id, order_date, product_id, price),
        queue as (
            partition by customer_id, order_date, product_id, price, is_return
            order by ordered_at, order_id, line_number
            rows between unbounded preceding and current row
        )

),

matched as (

    select
        *,
        greatest(0, least(abs(units), least(units_purchased, units_returned) - units_before))
            as units_netted,
        case when is_return then 0 else round(discount * units_netted / units) end
            as discount_netted
    from queued

),

netted as (

    select order_id, customer_id, ordered_at, order_date, product_id, channel, is_return, units,
        price, discount
    from lines
    where not is_met or units = 0
    union all by name
    select order_id, customer_id, ordered_at, order_date, product_id, channel, is_return, price,
        units - sign(units) * units_netted as units,
        case
            when not is_return then discount - discount_netted
            when place = 1 then discount + sum(discount_netted) over (
                partition by customer_id, order_date, product_id, price
            )
            else discount
        end as discount
    from matched

),

left_over as materialized (

    select
        * replace (is_return and units <> 0 as is_return),
        units * price as gross,
        cast(getvariable('as_of_date') - order_date as integer) as days_ago
    from netted
    where units <> 0 or discount <> 0

),

-- What is left of an order on a day, and what came back of it on that day.
orders as (

    select
        customer_id,
        order_id,
        days_ago,
        min(ordered_at) filter (not is_return) as ordered_at,
        min(channel) filter (not is_return) as channel,
        coalesce(sum(gross - discount) filter (not is_return), 0) as purchased,
        coalesce(sum(discount - gross) filter (is_return), 0) as returned,
        coalesce(sum(gross) filter (not is_return), 0) as gross,
        coalesce(sum(discount) filter (not is_return), 0) as discount,
        coalesce(sum(units) filter (not is_return), 0) as units,
        count(*) filter (not is_return and units <> 0) as lines,
        bool_or(is_return) as has_return,
        purchased > 0 and coalesce(sum(units) filter (not is_return), 0) > 0 as is_order
    from left_over
    group by customer_id, order_id, days_ago

),

days as (

    select
        customer_id,
        days_ago,
        count(*) filter (is_order) as orders,
        sum(purchased - returned) as spend,
        sum(purchased) as purchased,
        sum(returned) as returned,
        sum(gross) as gross,
        sum(discount) as discount,
        sum(units) as units,
        sum(lines) as lines,
        bool_or(has_return) as has_return,
        count(*) filter (is_order and discount > 0) as discounted,
        count(*) filter (is_order and hour(ordered_at) between 6 and 11) as morning,
        count(*) filter (is_order and hour(ordered_at) between 12 and 17) as afternoon,
        count(*) filter (is_order and hour(ordered_at) >= 18) as evening,
        max(purchased) filter (is_order) as largest,
        arg_min(
            {value: purchased, hour: hour(ordered_at), channel: channel}, (ordered_at, order_id)
        ) filter (is_order) as first_order,
        arg_max(purchased, (ordered_at, order_id)) filter (is_order) as last_value
    from orders
    group by customer_id, days_ago

),

buyers as materialized (

    select
        customer_id,
        cast(sum(orders) as integer) as orders,
        sum(spend) as spend,
        sum(purchased) as purchased,
        sum(returned) as returned,
        sum(gross) as gross,
        sum(discount) as discount,
        sum(units) as units,
        sum(lines) as lines,
        sum(discounted) as discounted,
        sum(morning) as morning,
        sum(afternoon) as afternoon,
        sum(evening) as evening,
        coalesce(sum(orders) filter (isodow(getvariable('as_of_date') - days_ago) >= 6), 0)
            as weekend,
        max(largest) as largest,
        min(days_ago) filter (orders > 0) as recency_days,
        max(days_ago) filter (orders > 0) as tenure_days,
        min(days_ago) filter (has_return) as days_since_last_return,
        list(days_ago order by days_ago) filter (orders > 0) as order_days,  -- newest first
        list_transform(order_days[2:], lambda d, i: d - order_days[i]) as gaps,
        list_avg(gaps) as gap_mean,
        list_stddev_samp(gaps) as gap_stddev,
        gaps[1] as gap_last,
        arg_min(last_value, days_ago) filter (orders > 0) as last_value,
        arg_max(
            {
                lines: lines, units: units, gross: gross, discount: discount,
                first_order: first_order
            },
            days_ago
        ) filter (orders > 0) as first_day,
        coalesce(sum(orders) filter (days_ago <= 7), 0) as orders_7d,
        coalesce(sum(orders) filter (days_ago <= 14), 0) as orders_14d,
        coalesce(sum(orders) filter (days_ago <= 30), 0) as orders_30d,
        coalesce(sum(orders) filter (days_ago <= 60), 0) as orders_60d,
        coalesce(sum(orders) filter (days_ago <= 90), 0) as orders_90d,
        coalesce(sum(orders) filter (days_ago <= 180), 0) as orders_180d,
        coalesce(sum(orders) filter (days_ago <= 365), 0) as orders_365d,
        coalesce(sum(spend) filter (days_ago <= 7), 0) as spend_7d,
        coalesce(sum(spend) filter (days_ago <= 14), 0) as spend_14d,
        coalesce(sum(spend) filter (days_ago <= 30), 0) as spend_30d,
        coalesce(sum(spend) filter (days_ago <= 60), 0) as spend_60d,
        coalesce(sum(spend) filter (days_ago <= 90), 0) as spend_90d,
        coalesce(sum(spend) filter (days_ago <= 180), 0) as spend_180d,
        coalesce(sum(spend) filter (days_ago <= 365), 0) as spend_365d,
        coalesce(sum(units) filter (days_ago <= 7), 0) as units_7d,
        coalesce(sum(units) filter (days_ago <= 14), 0) as units_14d,
        coalesce(sum(units) filter (days_ago <= 30), 0) as units_30d,
        coalesce(sum(units) filter (days_ago <= 60), 0) as units_60d,
        coalesce(sum(units) filter (days_ago <= 90), 0) as units_90d,
        coalesce(sum(units) filter (days_ago <= 180), 0) as units_180d,
        coalesce(sum(units) filter (days_ago <= 365), 0) as units_365d,
        coalesce(sum(returned) filter (days_ago <= 365), 0) as returned_365d,
        coalesce(sum(orders) filter (days_ago between 31 and 60), 0) as orders_before_30d,
        coalesce(sum(spend) filter (days_ago between 31 and 60), 0) as spend_before_30d,
        coalesce(sum(orders) filter (days_ago between 91 and 180), 0) as orders_before_90d,
        coalesce(sum(spend) filter (days_ago between 91 and 180), 0) as spend_before_90d,
        coalesce(sum(orders) filter (days_ago between 336 and 365), 0) as orders_to_come_30d,
        coalesce(sum(spend) filter (days_ago between 336 and 365), 0) as spend_to_come_30d,
        coalesce(sum(orders) filter (days_ago between 276 and 365), 0) as orders_to_come_90d,
        coalesce(sum(spend) filter (days_ago between 276 and 365), 0) as spend_to_come_90d,
        coalesce(sum(orders) filter (days_ago between 186 and 365), 0) as orders_to_come_180d,
        coalesce(sum(spend) filter (days_ago between 186 and 365), 0) as spend_to_come_180d,
        coalesce(sum(spend) filter (days_ago between 366 and 455), 0) as spend_year_before
    from days
    group by customer_id
    having sum(orders) > 0

),

shop as (

    select
        (select max(tenure_days) from buyers) as history_days,
        exists (select 1 from events) as has_events,
        exists (select 1 from reviews) as has_reviews,
        exists (select 1 from campaign_contacts) as has_campaigns

),

-- A product that a customer bought on a day.
pairs as materialized (

    select
        customer_id,
        product_id,
        days_ago,
        sum(units) as units,
        sum(gross) as gross
    from left_over
    where units > 0 and product_id is not null
    group by customer_id, product_id, days_ago

),

customer_products as (

    select
        customer_id,
        product_id,
        count(*) as days,
        count(*) filter (days_ago <= 90) as days_90d,
        max(days_ago) as first_days_ago,
        sum(units) as units,
        sum(gross) as gross
    from pairs
    group by customer_id, product_id

),

customer_categories as materialized (

    select
        customer_id,
        category,
        count(*) as products,
        sum(days) as days,
        sum(days_90d) as days_90d,
        count(*) filter (first_days_ago <= 90) as new_90d,
        sum(units) as units,
        sum(gross) as gross
    from customer_products
    left join products using (product_id)
    group by customer_id, category

),

categories as (

    select
        category,
        sum(gross) / sum(units) as price,
        -- Of equals, the greater code.
        cast('0x' || left(md5(category), 7) as integer) as code
    from customer_categories
    where category is not null
    group by category

),

mixes as (

    select
        customer_id,
        cast(sum(products) as integer) as distinct_products,
        cast(sum(days_90d) as integer) as product_days_90d,
        sum(new_90d) / nullif(sum(days_90d), 0) as new_product_share_90d,
        cast(count(category) as integer) as distinct_categories,
        sum(days) filter (category is not null) as days,
        sum(days * ln(days)) filter (category is not null) as log_sum,
        max(days) filter (category is not null) as top_days,
        arg_max(category, (days, code)) filter (category is not null) as top_category,
        sum(gross) filter (category is not null) / nullif(sum(units * price), 0) as price_position
    from customer_categories
    left join categories using (category)
    group by customer_id

),

first_products as (

    select
        customer_id,
        cast(count(*) as integer) as products
    from pairs
    inner join buyers using (customer_id)
    where days_ago = tenure_days
    group by customer_id

),

sessions as (

    select
        customer_id,
        cast(getvariable('as_of_date') - cast(occurred_at as date) as integer) as days_ago,
        count(*) filter (event_type = 'view') as views,
        count(*) filter (event_type = 'search') as searches,
        count(*) filter (event_type = 'wishlist') as wishlists,
        count(*) filter (event_type = 'cart_add') as cart_adds,
        count(*) filter (event_type = 'cart_remove') as cart_removes,
        count(*) filter (event_type = 'checkout') as checkouts,
        count(*) filter (event_type = 'login') as logins,
        count(*) filter (event_type = 'support') as support_contacts
    from events
    where occurred_at >= getvariable('as_of_date') - 365
    group by customer_id, session_id, days_ago

),

visits as (

    select
        customer_id,
        min(days_ago) as days_since_last_visit,
        sum(views) filter (days_ago <= 30) as views_30d,
        sum(views) filter (days_ago <= 90) as views_90d,
        sum(views) as views_365d,
        sum(searches) filter (days_ago <= 90) as searches_90d,
        sum(wishlists) filter (days_ago <= 90) as wishlists_90d,
        sum(cart_adds) filter (days_ago <= 90) as cart_adds_90d,
        sum(cart_removes) filter (days_ago <= 90) as cart_removes_90d,
        sum(checkouts) filter (days_ago <= 90) as checkouts_90d,
        sum(logins) filter (days_ago <= 90) as logins_90d,
        sum(support_contacts) as support_contacts_365d,
        count(*) filter (days_ago <= 30) as sessions_30d,
        count(*) filter (days_ago <= 90) as sessions_90d,
        count(*) as sessions_365d,
        count(*) filter (days_ago <= 90 and cart_adds > 0) as carts_90d,
        count(*) filter (days_ago <= 30 and cart_adds > 0 and checkouts = 0)
            as abandoned_carts_30d,
        count(*) filter (days_ago <= 90 and cart_adds > 0 and checkouts = 0)
            as abandoned_carts_90d
    from sessions
    group by customer_id

),

opinions as (

    select
        customer_id,
        count(*) as reviews_total,
        count(*) filter (reviewed_at >= getvariable('as_of_date') - 365) as reviews_365d,
        avg(rating) as rating_mean,
        cast(arg_max(rating, (reviewed_at, review_id)) filter (rating is not null) as double)
            as rating_last,
        count(*) filter (rating <= 2) / nullif(count(rating), 0) as negative_review_share,
        cast(getvariable('as_of_date') - cast(max(reviewed_at) as date) as integer)
            as days_since_last_review
    from reviews
    group by customer_id

),

contacted as (

    select
        customer_id,
        count(*) filter (contacted_at >= getvariable('as_of_date') - 30) as contacts_30d,
        count(*) filter (contacted_at >= getvariable('as_of_date') - 90) as contacts_90d,
        count(*) filter (contacted_at >= getvariable('as_of_date') - 365) as contacts_365d,
        count(*) filter (opened_at >= getvariable('as_of_date') - 90) as opens_90d,
        count(*) filter (opened_at >= getvariable('as_of_date') - 365) as opens_365d,
        count(*) filter (clicked_at >= getvariable('as_of_date') - 90) as clicks_90d,
        count(*) filter (clicked_at >= getvariable('as_of_date') - 365) as clicks_365d,
        count(*) filter (redeemed_at >= getvariable('as_of_date') - 365) as redemptions_365d,
        cast(getvariable('as_of_date') - cast(max(contacted_at) as date) as integer)
            as days_since_last_contact,
        cast(
            getvariable('as_of_date')
            - cast(greatest(max(clicked_at), max(redeemed_at)) as date) as integer
        ) as days_since_last_response
    from campaign_contacts
    group by customer_id

),

profiles as (

    select
        customer_id,
        true as has_profile,
        country,
        region,
        gender,
        income_band,
        household,
        acquisition_channel,
        cast(year(getvariable('as_of_date')) - birth_year as integer) as age_years,
        cast(getvariable('as_of_date') - cast(signed_up_at as date) as integer)
            as signed_up_days
    from customers

),

quintiles as (

    select
        *,
        1 + 5 * (rank() over (order by recency_days desc) - 1) // count(*) over () as recency,
        1 + 5 * (rank() over (order by orders) - 1) // count(*) over () as frequency,
        1 + 5 * (rank() over (order by round(spend / 10000)) - 1) // count(*) over () as monetary
    from buyers

)

select
    customer_id,
    getvariable('as_of_date') as as_of_date,
    recency_days,
    orders as frequency_orders,
    cents(spend) as monetary_total,
    tenure_days,
    cents(purchased / orders) as average_order_value,
    cast(recency as integer) as recency_quintile,
    cast(frequency as integer) as frequency_quintile,
    cast(monetary as integer) as monetary_quintile,
    cast(recency + frequency + monetary as integer) as rfm_score,
    case
        when recency = 5 and frequency >= 4 then 'champions'
        when recency >= 3 and frequency >= 4 then 'loyal_customers'
        when recency >= 4 and frequency >= 2 then 'potential_loyalists'
        when recency = 5 then 'new_customers'
        when recency = 4 then 'promising'
        when recency = 3 and frequency = 3 then 'need_attention'
        when recency = 3 then 'about_to_sleep'
        when frequency = 5 then 'cannot_lose'
        when frequency >= 3 then 'at_risk'
        else 'hibernating'
    end as rfm_segment,
    gap_mean as order_gap_mean_days,
    gap_stddev as order_gap_stddev_days,
    gap_stddev / gap_mean as order_gap_variation,
    gap_last as order_gap_last_days,
    recency_days / gap_mean as overdue_ratio,
    gap_mean - recency_days as days_to_expected_order,
    cast(orders_7d as integer) as orders_7d,
    cast(orders_14d as integer) as orders_14d,
    cast(orders_30d as integer) as orders_30d,
    cast(orders_60d as integer) as orders_60d,
    cast(orders_90d as integer) as orders_90d,
    cast(orders_180d as integer) as orders_180d,
    cast(orders_365d as integer) as orders_365d,
    cents(spend_7d) as spend_7d,
    cents(spend_14d) as spend_14d,
    cents(spend_30d) as spend_30d,
    cents(spend_60d) as spend_60d,
    cents(spend_90d) as spend_90d,
    cents(spend_180d) as spend_180d,
    cents(spend_365d) as spend_365d,
    units_7d,
    units_14d,
    units_30d,
    units_60d,
    units_90d,
    units_180d,
    units_365d,
    cents(returned_365d) as returned_365d,
    change(orders_30d, orders_before_30d) as orders_trend_30d,
    change(orders_90d, orders_before_90d) as orders_trend_90d,
    change(spend_30d, spend_before_30d) as spend_trend_30d,
    change(spend_90d, spend_before_90d) as spend_trend_90d,
    case when history_days >= 455 then change(spend_90d, spend_year_before) end
        as spend_change_year_90d,
    case when history_days >= 365 then cents(spend_to_come_30d) end
        as spend_same_window_last_year_30d,
    case when history_days >= 365 then cast(orders_to_come_30d as integer) end
        as orders_same_window_last_year_30d,
    case when history_days >= 365 then cents(spend_to_come_90d) end
        as spend_same_window_last_year_90d,
    case when history_days >= 365 then cast(orders_to_come_90d as integer) end
        as orders_same_window_last_year_90d,
    case when history_days >= 365 then cents(spend_to_come_180d) end
        as spend_same_window_last_year_180d,
    case when history_days >= 365 then cast(orders_to_come_180d as integer) end
        as orders_same_window_last_year_180d,
    cents(largest) as order_value_max,
    cents(last_value) as order_value_last,
    lines / orders as lines_per_order,
    units / orders as units_per_order,
    gross / 1000000 / nullif(units, 0) as unit_price_mean,
    coalesce(distinct_products, 0) as distinct_products,
    coalesce(product_days_90d, 0) as product_days_90d,
    new_product_share_90d,
    case when exists (select 1 from categories) then coalesce(distinct_categories, 0) end
        as distinct_categories,
    case when distinct_categories = 1 then 0 else ln(days) - log_sum / days end
        as category_entropy,
    top_days / days as top_category_share,
    top_category,
    price_position,
    discount / nullif(gross, 0) as discount_share,
    discounted / orders as discounted_order_share,
    returned / nullif(purchased, 0) as return_share,
    days_since_last_return,
    weekend / orders as weekend_order_share,
    morning / orders as morning_order_share,
    afternoon / orders as afternoon_order_share,
    evening / orders as evening_order_share,
    least(730, history_days) as history_days,
    has_events,
    counted(has_events, views_30d) as views_30d,
    counted(has_events, views_90d) as views_90d,
    counted(has_events, views_365d) as views_365d,
    counted(has_events, searches_90d) as searches_90d,
    counted(has_events, wishlists_90d) as wishlists_90d,
    counted(has_events, cart_adds_90d) as cart_adds_90d,
    counted(has_events, cart_removes_90d) as cart_removes_90d,
    counted(has_events, checkouts_90d) as checkouts_90d,
    counted(has_events, logins_90d) as logins_90d,
    counted(has_events, support_contacts_365d) as support_contacts_365d,
    counted(has_events, sessions_30d) as sessions_30d,
    counted(has_events, sessions_90d) as sessions_90d,
    counted(has_events, sessions_365d) as sessions_365d,
    counted(has_events, abandoned_carts_30d) as abandoned_carts_30d,
    counted(has_events, abandoned_carts_90d) as abandoned_carts_90d,
    days_since_last_visit,
    cart_adds_90d / nullif(views_90d, 0) as cart_rate_90d,
    checkouts_90d / nullif(cart_adds_90d, 0) as checkout_rate_90d,
    orders_90d / nullif(sessions_90d, 0) as conversion_rate_90d,
    abandoned_carts_90d / nullif(carts_90d, 0) as abandoned_cart_share_90d,
    has_reviews,
    counted(has_reviews, reviews_total) as reviews_total,
    counted(has_reviews, reviews_365d) as reviews_365d,
    rating_mean,
    rating_last,
    rating_last - rating_mean as rating_trend,
    negative_review_share,
    days_since_last_review,
    has_campaigns,
    counted(has_campaigns, contacts_30d) as contacts_30d,
    counted(has_campaigns, contacts_90d) as contacts_90d,
    counted(has_campaigns, contacts_365d) as contacts_365d,
    counted(has_campaigns, opens_90d) as opens_90d,
    counted(has_campaigns, opens_365d) as opens_365d,
    counted(has_campaigns, clicks_90d) as clicks_90d,
    counted(has_campaigns, clicks_365d) as clicks_365d,
    counted(has_campaigns, redemptions_365d) as redemptions_365d,
    opens_365d / nullif(contacts_365d, 0) as open_rate_365d,
    clicks_365d / nullif(contacts_365d, 0) as click_rate_365d,
    redemptions_365d / nullif(contacts_365d, 0) as response_rate_365d,
    case when has_campaigns then coalesce(redemptions_365d, 0) / nullif(orders_365d, 0) end
        as coupon_order_share_365d,
    case when days_since_last_contact <= 365 then days_since_last_contact end
        as days_since_last_contact,
    case when days_since_last_response <= 365 then days_since_last_response end
        as days_since_last_response,
    has_profile is not null as has_profile,
    country,
    region,
    gender,
    income_band,
    household,
    acquisition_channel,
    age_years,
    case
        when age_years < 25 then 'under 25'
        when age_years < 35 then '25-34'
        when age_years < 45 then '35-44'
        when age_years < 55 then '45-54'
        when age_years < 65 then '55-64'
        when age_years >= 65 then '65 and over'
    end as age_band,
    signed_up_days,
    signed_up_days - tenure_days as signup_to_order_days,
    cast(date_trunc('month', getvariable('as_of_date') - tenure_days) as date) as cohort_month,
    cents(first_day.first_order.value) as first_order_value,
    cast(first_day.lines as integer) as first_order_lines,
    first_day.units as first_order_units,
    coalesce(first_products.products, 0) as first_order_products,
    first_day.discount / nullif(first_day.gross, 0) as first_order_discount_share,
    cast(first_day.first_order.hour as integer) as first_order_hour,
    cast(isodow(getvariable('as_of_date') - tenure_days) as integer) as first_order_weekday,
    first_day.first_order.channel as first_order_channel
from quintiles
cross join shop
left join mixes using (customer_id)
left join first_products using (customer_id)
left join visits using (customer_id)
left join opinions using (customer_id)
left join contacted using (customer_id)
left join profiles using (customer_id)
