-- What every column of analytics means. A column that is named as one of customer_360, and of which
-- nothing else is said, means the same.

comment on view analytics.customer_360 is
    'One row per customer of the published day: tier, score, and the facts that people ask of a '
    'customer.';
comment on column analytics.customer_360.customer_id is
    'The customer''s pseudonym.';
comment on column analytics.customer_360.tier is
    'The customer''s tier.';
comment on column analytics.customer_360.tier_rank is
    '1 for the highest tier.';
comment on column analytics.customer_360.expected_spend is
    'Expected net spend in the horizon_days after as_of_date, in the reporting currency.';
comment on column analytics.customer_360.expected_spend_low is
    'Lower end of the interval that is to hold the spend of nine customers in ten: 0 for whoever '
    'may not buy at all. Null where the model had too few customers to learn it from.';
comment on column analytics.customer_360.expected_spend_high is
    'Upper end of the same interval. Sums of ends are no interval of a sum.';
comment on column analytics.customer_360.purchase_probability is
    'Probability of at least one order in the horizon_days after as_of_date.';
comment on column analytics.customer_360.churn_probability is
    'Probability of no order in the horizon_days after as_of_date.';
comment on column analytics.customer_360.high_value_probability is
    'Probability of being in the top decile of spend in the horizon_days after as_of_date; null '
    'where the method does not say.';
comment on column analytics.customer_360.next_order_date is
    'The day by which the customer is likelier than not to have ordered; null where that is more '
    'than a year away.';
comment on column analytics.customer_360.horizon_days is
    'How many days from as_of_date the score looks ahead.';
comment on column analytics.customer_360.drawn_tier is
    'The tier that the measure alone gives on the day; hysteresis, an override or a cap may keep '
    'the customer in another.';
comment on column analytics.customer_360.decided_by is
    'What decided the tier: measure, hysteresis, override, tenure or cap.';
comment on column analytics.customer_360.previous_tier is
    'Tier in the version before; null for who is new.';
comment on column analytics.customer_360.tier_since is
    'First day of the unbroken stay in this tier.';
comment on column analytics.customer_360.days_in_tier is
    'Days from tier_since to as_of_date.';
comment on column analytics.customer_360.movement is
    'new, stayed, up from a tier or down from a tier, since the version before.';
comment on column analytics.customer_360.segment is
    'Label of the customer''s cluster, the same from day to day.';
comment on column analytics.customer_360.rfm_segment is
    'Named group by recency and frequency of orders, from champions to hibernating.';
comment on column analytics.customer_360.top_category is
    'The category bought most; null where products have none.';
comment on column analytics.customer_360.recency_days is
    'Days from the last order to as_of_date.';
comment on column analytics.customer_360.last_order_date is
    'Day of the last order before as_of_date.';
comment on column analytics.customer_360.first_order_date is
    'Day of the first order.';
comment on column analytics.customer_360.orders is
    'Orders before as_of_date.';
comment on column analytics.customer_360.orders_365d is
    'Orders in the 365 days before as_of_date.';
comment on column analytics.customer_360.spend is
    'Spend before as_of_date, net of returns, in the reporting currency.';
comment on column analytics.customer_360.spend_365d is
    'Spend in the 365 days before as_of_date, net of returns.';
comment on column analytics.customer_360.average_order_value is
    'Mean order total.';
comment on column analytics.customer_360.order_value_last is
    'Total of the last order.';
comment on column analytics.customer_360.discount_share is
    'Discount in the price before discount, 0 to 1.';
comment on column analytics.customer_360.return_share is
    'Returned in what was bought, 0 to 1.';
comment on column analytics.customer_360.country is
    'Country, where the shop tells it.';
comment on column analytics.customer_360.region is
    'Region, where the shop tells it.';
comment on column analytics.customer_360.acquisition_channel is
    'How the customer was won, where the shop tells it.';
comment on column analytics.customer_360.channel is
    'Sales channel of the first order.';
comment on column analytics.customer_360.reasons_en is
    'What moves the expected spend of this customer most, strongest first: an arrow up raises it, '
    'an arrow down lowers it.';
comment on column analytics.customer_360.reasons_zh is
    'The same in Chinese.';
comment on column analytics.customer_360.as_of_date is
    'The published day: only what came before it is known.';
comment on column analytics.customer_360.model_name is
    'The model, or the rule where there is too little for a model.';
comment on column analytics.customer_360.model_version is
    'Version of the model in MLflow.';
comment on column analytics.customer_360.policy_version is
    'The tier policy, with a hash of its text.';
comment on column analytics.customer_360.feature_version is
    'By which definitions the features behind the score were built.';
comment on column analytics.customer_360.version_id is
    'The version: a hash of what went into it.';
comment on column analytics.customer_360.published_at is
    'When analysts began to read this version.';

comment on view analytics.customer_tiers is
    'One row per customer of the published day: tier, expected spend, why, and the model behind '
    'it.';

comment on view analytics.customer_outlook is
    'One row per customer and horizon of a week to a year: expected spend, and the probabilities '
    'of an order and of none. Neither spend nor purchase probability falls as the horizon grows.';
comment on column analytics.customer_outlook.horizon_days is
    'How many days from as_of_date the row looks ahead.';
comment on column analytics.customer_outlook.is_judged is
    'The horizon of the tiers, whose model stands on the scoreboard. The others are the same kind '
    'of model, bounded by it; `tierhouse backtest --horizon` judges them.';

comment on view analytics.customer_reasons is
    'One row per customer of the published day and reason, at most three.';
comment on column analytics.customer_reasons.reason_rank is
    '1 is the strongest.';
comment on column analytics.customer_reasons.reason is
    'What it is about.';
comment on column analytics.customer_reasons.effect is
    'Factor on expected spend, to first order, against the average customer that the model '
    'learned from: 1.25 is a quarter more.';
comment on column analytics.customer_reasons.text_en is
    'The reason as a sentence, in English.';
comment on column analytics.customer_reasons.text_zh is
    'The reason as a sentence, in Chinese.';
comment on column analytics.customer_reasons.horizon_days is
    'The horizon of the score that it explains.';

comment on view analytics.customer_tier_history is
    'One row per customer and unbroken stay in a tier, up to the published day.';
comment on column analytics.customer_tier_history.tier is
    'The tier of the stay.';
comment on column analytics.customer_tier_history.valid_from is
    'First day of the stay.';
comment on column analytics.customer_tier_history.valid_to is
    'Day on which the customer had the next tier; null for the tier that the customer has now.';
comment on column analytics.customer_tier_history.previous_tier is
    'Tier before; null for who was new.';
comment on column analytics.customer_tier_history.movement is
    'How the stay began: new, up from a tier, down from a tier.';
comment on column analytics.customer_tier_history.expected_spend is
    'Expected net spend as of valid_from, in the reporting currency.';
comment on column analytics.customer_tier_history.decided_by is
    'What brought the customer here: the measure, hysteresis that ended, an override, minimum '
    'tenure or a cap.';
comment on column analytics.customer_tier_history.policy_version is
    'The tier policy of that day.';

comment on view analytics.tier_summary is
    'One row per tier of the published day. evaluated_* columns: the newest window that is '
    'closed, scored by a model that had not seen it.';
comment on column analytics.tier_summary.customers is
    'Customers in the tier.';
comment on column analytics.tier_summary.expected_spend is
    'What they are expected to spend together in horizon_days, in the reporting currency.';
comment on column analytics.tier_summary.expected_share is
    'Their share of all expected spend.';
comment on column analytics.tier_summary.purchase_probability_mean is
    'Mean probability of at least one order in horizon_days.';
comment on column analytics.tier_summary.evaluated_as_of_date is
    'The day on which the same tiers were drawn for the held-out window.';
comment on column analytics.tier_summary.evaluated_expected_share is
    'Share of all expected spend in the held-out window that this tier was to spend.';
comment on column analytics.tier_summary.evaluated_realised_share is
    'Share of all that was really spent in the held-out window that this tier spent.';
comment on column analytics.tier_summary.customers_up is
    'Customers who came from a lower tier since the version before.';
comment on column analytics.tier_summary.customers_down is
    'Customers who came from a higher tier since the version before.';
comment on column analytics.tier_summary.customers_new is
    'Customers who were in no tier before.';
comment on column analytics.tier_summary.customers_change is
    'Customers now, less customers in the version before; null without one.';
comment on column analytics.tier_summary.previous_as_of_date is
    'The day of the version before, with which customers are compared; null without one.';

comment on view analytics.tier_migrations is
    'One row per published day and pair of tiers, before and then: how many went from one to the '
    'other, those who stayed too.';
comment on column analytics.tier_migrations.as_of_date is
    'The day of the later of the two versions.';
comment on column analytics.tier_migrations.previous_tier is
    'Tier in the version before; null for customers who were new.';
comment on column analytics.tier_migrations.previous_tier_rank is
    'Rank of previous_tier.';
comment on column analytics.tier_migrations.tier is
    'Tier on the day.';
comment on column analytics.tier_migrations.customers is
    'Customers who were in the one and are in the other.';
comment on column analytics.tier_migrations.share_of_previous is
    'Their share of all who were in previous_tier.';
comment on column analytics.tier_migrations.expected_spend is
    'What they are expected to spend as of the day, in the reporting currency.';

comment on view analytics.cohort_retention is
    'One row per month of first orders and number of months since: who of them ordered again. '
    'Only months that were over on the published day.';
comment on column analytics.cohort_retention.cohort_month is
    'First day of the month of the first order.';
comment on column analytics.cohort_retention.months_since is
    'Months after cohort_month; 0 is that month.';
comment on column analytics.cohort_retention.customers is
    'Customers whose first order was in cohort_month.';
comment on column analytics.cohort_retention.active_customers is
    'Those of them with an order in the month.';
comment on column analytics.cohort_retention.retention is
    'active_customers by customers.';
comment on column analytics.cohort_retention.spend is
    'What they spent in the month, net of returns, in the reporting currency.';

comment on view analytics.segment_summary is
    'One row per segment of the published day.';
comment on column analytics.segment_summary.customers is
    'Customers in the segment.';
comment on column analytics.segment_summary.share is
    'Their share of all customers.';
comment on column analytics.segment_summary.expected_spend is
    'What they are expected to spend together, in the reporting currency.';
comment on column analytics.segment_summary.expected_share is
    'Their share of all expected spend.';
comment on column analytics.segment_summary.description_en is
    'What is typical of them, in English.';
comment on column analytics.segment_summary.description_zh is
    'What is typical of them, in Chinese.';

comment on view analytics.tier_evaluation is
    'One row per held-out window and tier: how the tiers of the published model and policy did.';
comment on column analytics.tier_evaluation.as_of_date is
    'The day on which the tiers were drawn, by a model that had seen nothing later.';
comment on column analytics.tier_evaluation.customers is
    'Customers in the tier on that day.';
comment on column analytics.tier_evaluation.expected_spend is
    'What they were expected to spend in the window.';
comment on column analytics.tier_evaluation.realised_spend is
    'What they spent in the window.';
comment on column analytics.tier_evaluation.share is
    'Share of all realised spend that this tier spent.';
comment on column analytics.tier_evaluation.lift is
    'share, by the tier''s share of the customers: 5 is five times an average customer.';
comment on column analytics.tier_evaluation.expected_buyers is
    'How many of them were expected to order in the window: the sum of their chances.';
comment on column analytics.tier_evaluation.buyers is
    'How many of them did.';
comment on column analytics.tier_evaluation.precision is
    'Of the top tier: share of its customers who were among as many that spent most. Null for the '
    'others.';
comment on column analytics.tier_evaluation.recall is
    'Of the top tier: share of those who spent most that are in it. Null for the others.';
comment on column analytics.tier_evaluation.f1 is
    'Harmonic mean of precision and recall.';

comment on view analytics.model_scoreboard is
    'How the model behind the published tiers did on held-out windows, beside the baselines.';
comment on column analytics.model_scoreboard.candidate is
    'The model, or a baseline.';
comment on column analytics.model_scoreboard.metric is
    'Name of the metric; docs/decisions and the README say what they mean.';
comment on column analytics.model_scoreboard.value is
    'Value of the metric.';
comment on column analytics.model_scoreboard.origin is
    'The day predicted from; null for the mean over the origins (of sum_ratio: all predicted over '
    'all actual).';
comment on column analytics.model_scoreboard.horizon_days is
    'Days predicted.';

comment on view analytics.model_curves is
    'Points of the curves that show how the model behind the published tiers did on the newest '
    'held-out window, beside the baselines.';
comment on column analytics.model_curves.candidate is
    'The model, or a baseline.';
comment on column analytics.model_curves.kind is
    'gain or calibration.';
comment on column analytics.model_curves.position is
    'Order of the points of a curve.';
comment on column analytics.model_curves.x is
    'gain: share of the customers, ranked first; calibration: mean expected spend of a tenth of '
    'them.';
comment on column analytics.model_curves.y is
    'gain: their share of all spend; calibration: mean spend of the tenth.';

comment on view analytics.data_quality is
    'One row per expectation of a gate, as it was seen when the gate looked last at the day.';
comment on column analytics.data_quality.stage is
    'raw, features or tiers.';
comment on column analytics.data_quality.table_name is
    'The table that was looked at.';
comment on column analytics.data_quality.expectation is
    'What must hold.';
comment on column analytics.data_quality.column_name is
    'The column, where it is about one.';
comment on column analytics.data_quality.severity is
    'critical stops the day, warning does not.';
comment on column analytics.data_quality.success is
    'Whether it held.';
comment on column analytics.data_quality.observed is
    'What was seen, as JSON.';
comment on column analytics.data_quality.checked_at is
    'When the gate looked.';
comment on column analytics.data_quality.as_of_date is
    'The day that was looked at; null for all that is loaded.';

comment on view analytics.quarantine_summary is
    'One row per table and reason for which rows were refused.';
comment on column analytics.quarantine_summary.table_name is
    'The table they were to land in.';
comment on column analytics.quarantine_summary.reason is
    'Why they were refused.';
comment on column analytics.quarantine_summary.rows is
    'How many.';

comment on view analytics.freshness is
    'One row per table that people rely on: how old it is, and whether that is too old.';
comment on column analytics.freshness.table_name is
    'The table.';
comment on column analytics.freshness.as_of_date is
    'The day that it is true of.';
comment on column analytics.freshness.updated_at is
    'When its rows were made.';
comment on column analytics.freshness.age_hours is
    'Hours since then.';
comment on column analytics.freshness.deadline_hours is
    'More hours than these are too many: ops.deadlines.';
comment on column analytics.freshness.is_stale is
    'Whether it is older than that.';

comment on view analytics.publish_log is
    'One row per move of the pointer: a version published, or rolled back to.';
comment on column analytics.publish_log.published_at is
    'When the pointer moved.';
comment on column analytics.publish_log.version_id is
    'The version that analysts read from then on.';
comment on column analytics.publish_log.previous_version_id is
    'The version that they read before.';
comment on column analytics.publish_log.as_of_date is
    'The day of the version.';
comment on column analytics.publish_log.customers is
    'Customers in it.';
comment on column analytics.publish_log.action is
    'publish or rollback.';
comment on column analytics.publish_log.run_id is
    'The DAG run or the command that moved it.';

do $$
declare
    said record;
begin
    for said in
        select
            columns.attrelid::regclass as view_name,
            columns.attname as column_name,
            col_description(described.attrelid, described.attnum) as meaning
        from pg_attribute as columns
        inner join pg_class as views on views.oid = columns.attrelid
        inner join pg_attribute as described
            on described.attrelid = 'analytics.customer_360'::regclass
            and described.attname = columns.attname
        where views.relnamespace = 'analytics'::regnamespace
            and columns.attnum > 0
            and col_description(columns.attrelid, columns.attnum) is null
    loop
        execute format(
            'comment on column %s.%I is %L', said.view_name, said.column_name, said.meaning
        );
    end loop;
end
$$;
