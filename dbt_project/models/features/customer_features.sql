with

rfm as (

    select
        customer_id,
        as_of_date,
        recency_days,
        frequency_orders,
        monetary_total,
        tenure_days,
        average_order_value,
        recency_quintile,
        frequency_quintile,
        monetary_quintile,
        rfm_score
    from {{ ref('feat_customer_rfm') }}
    where as_of_date in ({{ as_of_date_literals() }})

),

behaviour as (

    select
        customer_id,
        as_of_date,
        order_gap_mean_days,
        order_gap_stddev_days,
        order_gap_last_days,
        overdue_ratio,
        orders_30d,
        orders_90d,
        orders_180d,
        orders_365d,
        spend_30d,
        spend_90d,
        spend_180d,
        spend_365d,
        returned_365d,
        order_value_max,
        order_value_last,
        lines_per_order,
        units_per_order,
        distinct_products,
        distinct_categories,
        discount_share,
        return_share,
        spend_same_window_last_year_90d,
        orders_same_window_last_year_90d,
        history_days
    from {{ ref('feat_customer_behaviour') }}
    where as_of_date in ({{ as_of_date_literals() }})

),

customer_features as (

    select
        rfm.customer_id,
        rfm.as_of_date,
        rfm.recency_days,
        rfm.frequency_orders,
        rfm.monetary_total,
        rfm.tenure_days,
        rfm.average_order_value,
        rfm.recency_quintile,
        rfm.frequency_quintile,
        rfm.monetary_quintile,
        rfm.rfm_score,
        behaviour.order_gap_mean_days,
        behaviour.order_gap_stddev_days,
        behaviour.order_gap_last_days,
        behaviour.overdue_ratio,
        behaviour.orders_30d,
        behaviour.orders_90d,
        behaviour.orders_180d,
        behaviour.orders_365d,
        behaviour.spend_30d,
        behaviour.spend_90d,
        behaviour.spend_180d,
        behaviour.spend_365d,
        behaviour.returned_365d,
        behaviour.order_value_max,
        behaviour.order_value_last,
        behaviour.lines_per_order,
        behaviour.units_per_order,
        behaviour.distinct_products,
        behaviour.distinct_categories,
        behaviour.discount_share,
        behaviour.return_share,
        behaviour.spend_same_window_last_year_90d,
        behaviour.orders_same_window_last_year_90d,
        behaviour.history_days
    from rfm
    inner join behaviour
        on
            rfm.customer_id = behaviour.customer_id
            and rfm.as_of_date = behaviour.as_of_date

)

select * from customer_features
