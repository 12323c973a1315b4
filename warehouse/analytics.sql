-- The views that people read. All follow the pointer in ops.published, so a query sees one whole
-- version. Joined to the left on whole keys: what nobody asks for is not read.

-- How a customer came to a tier, in words.
create or replace function ops.movement(
    tier text, tier_rank integer, previous_tier text, previous_tier_rank integer
) returns text language sql immutable parallel safe as $$
    select case
        when previous_tier is null then 'new'
        when previous_tier_rank > tier_rank then 'up from ' || previous_tier
        when previous_tier_rank < tier_rank then 'down from ' || previous_tier
        else 'stayed'
    end
$$;

-- The published version and those that it was drawn after, one after the other.
create or replace view ops.published_chain as
with recursive chain as (
    select
        versions.version_id,
        versions.previous_version_id,
        versions.as_of_date,
        versions.policy_version
    from ops.published as published
    inner join ops.versions as versions using (version_id)
    union all
    select
        versions.version_id,
        versions.previous_version_id,
        versions.as_of_date,
        versions.policy_version
    from chain
    inner join ops.versions as versions on versions.version_id = chain.previous_version_id
)

select * from chain;

create or replace view analytics.customer_360 as
select
    tiers.customer_id,
    tiers.tier,
    tiers.tier_rank,
    tiers.expected_spend,
    tiers.expected_spend_low,
    tiers.expected_spend_high,
    tiers.purchase_probability,
    1 - tiers.purchase_probability as churn_probability,
    tiers.high_value_probability,
    tiers.next_order_date,
    tiers.horizon_days,
    tiers.drawn_tier,
    tiers.decided_by,
    tiers.previous_tier,
    tiers.tier_since,
    tiers.as_of_date - tiers.tier_since as days_in_tier,
    ops.movement(tiers.tier, tiers.tier_rank, tiers.previous_tier, tiers.previous_tier_rank)
        as movement,
    segments.segment,
    tiers.rfm_segment,
    tiers.top_category,
    tiers.recency_days,
    tiers.as_of_date - tiers.recency_days as last_order_date,
    tiers.as_of_date - tiers.tenure_days as first_order_date,
    tiers.frequency_orders as orders,
    tiers.orders_365d,
    tiers.monetary_total as spend,
    tiers.spend_365d,
    tiers.average_order_value,
    tiers.order_value_last,
    tiers.discount_share,
    tiers.return_share,
    tiers.country,
    tiers.region,
    tiers.acquisition_channel,
    tiers.first_order_channel as channel,
    (
        select
            string_agg(
                case when (said ->> 'effect')::float8 > 1 then U&'\2191 ' else U&'\2193 ' end
                || (said ->> 'en'), U&' \00B7 ' order by place
            )
        from jsonb_array_elements(scores.reasons) with ordinality as _ (said, place)
    ) as reasons_en,
    (
        select
            string_agg(
                case when (said ->> 'effect')::float8 > 1 then U&'\2191 ' else U&'\2193 ' end
                || (said ->> 'zh'), U&' \00B7 ' order by place
            )
        from jsonb_array_elements(scores.reasons) with ordinality as _ (said, place)
    ) as reasons_zh,
    tiers.as_of_date,
    versions.model_name,
    versions.model_version,
    tiers.policy_version,
    versions.feature_version,
    tiers.version_id,
    published.published_at
from scores.customer_tiers as tiers
left join ops.versions as versions on versions.version_id = tiers.version_id
left join ops.published as published on published.version_id = tiers.version_id
left join scores.customer_segments as segments
    on segments.version_id = tiers.version_id
    and segments.customer_id = tiers.customer_id
left join scores.customer_scores as scores
    on scores.version_id = tiers.version_id
    and scores.customer_id = tiers.customer_id
    and scores.horizon_days = tiers.horizon_days
where tiers.version_id = (select version_id from ops.published);

create or replace view analytics.customer_tiers as
select
    customer_id,
    tier,
    tier_rank,
    expected_spend,
    purchase_probability,
    horizon_days,
    as_of_date,
    model_name,
    model_version,
    policy_version,
    published_at,
    reasons_en,
    reasons_zh,
    expected_spend_low,
    expected_spend_high,
    churn_probability,
    high_value_probability,
    next_order_date,
    feature_version,
    drawn_tier,
    decided_by,
    previous_tier,
    tier_since,
    days_in_tier,
    movement,
    segment,
    rfm_segment,
    top_category,
    version_id
from analytics.customer_360;

create or replace view analytics.customer_outlook as
select
    scores.customer_id,
    scores.horizon_days,
    scores.expected_spend,
    scores.purchase_probability,
    scores.churn_probability,
    scores.as_of_date,
    scores.horizon_days = versions.horizon_days as is_judged
from scores.customer_scores as scores
left join ops.versions as versions on versions.version_id = scores.version_id
where scores.version_id = (select version_id from ops.published);

create or replace view analytics.customer_reasons as
select
    scores.customer_id,
    reasons.place::integer as reason_rank,
    reasons.said ->> 'reason' as reason,
    (reasons.said ->> 'effect')::float8 as effect,
    reasons.said ->> 'en' as text_en,
    reasons.said ->> 'zh' as text_zh,
    scores.as_of_date,
    scores.horizon_days
from scores.customer_scores as scores
cross join lateral
    jsonb_array_elements(scores.reasons) with ordinality as reasons (said, place)
where scores.version_id = (select version_id from ops.published)
    and scores.horizon_days = (
        select versions.horizon_days
        from ops.published as published
        inner join ops.versions as versions using (version_id)
    );

create or replace view analytics.customer_tier_history as
select
    changes.customer_id,
    changes.tier,
    changes.tier_rank,
    changes.as_of_date as valid_from,
    lead(changes.as_of_date) over (
        partition by changes.customer_id order by changes.as_of_date
    ) as valid_to,
    changes.previous_tier,
    ops.movement(
        changes.tier, changes.tier_rank, changes.previous_tier, changes.previous_tier_rank
    ) as movement,
    changes.expected_spend,
    changes.decided_by,
    chain.policy_version
from scores.tier_changes as changes
inner join ops.published_chain as chain using (version_id);

create or replace view analytics.tier_summary as
select
    totals.tier,
    totals.tier_rank,
    totals.customers,
    totals.expected_spend::numeric as expected_spend,
    round(totals.expected_spend / nullif(sum(totals.expected_spend) over (), 0), 4)
        as expected_share,
    totals.purchase_probability_mean,
    versions.as_of_date,
    versions.horizon_days,
    evaluation.as_of_date as evaluated_as_of_date,
    round(
        evaluation.expected_spend / nullif(sum(evaluation.expected_spend) over (), 0), 4
    ) as evaluated_expected_share,
    round(
        evaluation.realised_spend / nullif(sum(evaluation.realised_spend) over (), 0), 4
    ) as evaluated_realised_share,
    moves.customers_up,
    moves.customers_down,
    moves.customers_new,
    totals.customers - before.customers as customers_change,
    previous.as_of_date as previous_as_of_date
from ops.published as published
inner join ops.versions as versions using (version_id)
left join ops.versions as previous on previous.version_id = versions.previous_version_id
inner join scores.tier_totals as totals on totals.version_id = versions.version_id
left join scores.tier_totals as before
    on before.version_id = versions.previous_version_id
    and before.tier = totals.tier
left join (
    select
        *,
        max(as_of_date) over (partition by model_name, model_version, policy_version)
            as newest
    from scores.tier_evaluation
) as evaluation
    on evaluation.as_of_date = evaluation.newest
    and evaluation.model_name = versions.model_name
    and evaluation.model_version = versions.model_version
    and evaluation.policy_version = versions.policy_version
    and evaluation.tier = totals.tier
cross join lateral (
    select
        coalesce(sum(customers) filter (where previous_tier_rank > tier_rank), 0)::bigint
            as customers_up,
        coalesce(sum(customers) filter (where previous_tier_rank < tier_rank), 0)::bigint
            as customers_down,
        coalesce(sum(customers) filter (where previous_tier is null), 0)::bigint
            as customers_new
    from scores.tier_migrations as migrations
    where migrations.version_id = totals.version_id and migrations.tier = totals.tier
) as moves;

create or replace view analytics.tier_migrations as
select
    chain.as_of_date,
    migrations.previous_tier,
    migrations.previous_tier_rank,
    migrations.tier,
    migrations.tier_rank,
    migrations.customers,
    round(
        migrations.customers / sum(migrations.customers) over (
            partition by migrations.version_id, migrations.previous_tier
        ),
        4
    ) as share_of_previous,
    migrations.expected_spend
from ops.published_chain as chain
inner join scores.tier_migrations as migrations using (version_id);

create or replace view analytics.cohort_retention as
select
    retention.cohort_month,
    retention.months_since,
    retention.customers,
    retention.active_customers,
    round(retention.active_customers::numeric / retention.customers, 4) as retention,
    retention.spend
from scores.cohort_retention as retention
where retention.version_id = (select version_id from ops.published);

create or replace view analytics.segment_summary as
select
    profiles.segment,
    profiles.customers,
    round(profiles.customers / sum(profiles.customers) over (), 4) as share,
    profiles.expected_spend,
    round(profiles.expected_spend / nullif(sum(profiles.expected_spend) over (), 0), 4)
        as expected_share,
    profiles.description_en,
    profiles.description_zh,
    versions.as_of_date
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.segment_profiles as profiles using (version_id);

create or replace view analytics.tier_evaluation as
select
    evaluation.model_version,
    evaluation.policy_version,
    evaluation.as_of_date,
    evaluation.tier,
    evaluation.tier_rank,
    evaluation.customers,
    evaluation.expected_spend,
    evaluation.realised_spend,
    round(evaluation.realised_spend / nullif(sum(evaluation.realised_spend) over origin, 0), 4)
        as share,
    round(
        evaluation.realised_spend / nullif(sum(evaluation.realised_spend) over origin, 0)
        / nullif(evaluation.customers / nullif(sum(evaluation.customers) over origin, 0), 0),
        2
    ) as lift,
    evaluation.expected_buyers,
    evaluation.buyers,
    case
        when evaluation.tier_rank = 1
            then evaluation.truly_top / nullif(evaluation.customers::float8, 0)
    end as precision,
    case
        when evaluation.tier_rank = 1
            then
                evaluation.truly_top
                / nullif((sum(evaluation.truly_top) over origin)::float8, 0)
    end as recall,
    case
        when evaluation.tier_rank = 1
            then
                2 * evaluation.truly_top / nullif(
                    (evaluation.customers + sum(evaluation.truly_top) over origin)::float8, 0
                )
    end as f1
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.tier_evaluation as evaluation
    using (model_name, model_version, policy_version)
window origin as (partition by evaluation.as_of_date);

create or replace view analytics.model_scoreboard as
select
    metrics.candidate,
    metrics.metric,
    metrics.value,
    metrics.as_of_date as origin,
    metrics.horizon_days,
    metrics.model_name,
    metrics.model_version
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.model_metrics as metrics using (model_name, model_version);

create or replace view analytics.model_curves as
select
    curves.candidate,
    curves.kind,
    curves.position,
    curves.x,
    curves.y
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.model_curves as curves using (model_name, model_version);

-- What each gate found when it looked last at each day.
create or replace view analytics.data_quality as
select
    results.stage,
    results.table_name,
    results.expectation,
    results.column_name,
    results.severity,
    results.success,
    results.observed,
    results.checked_at,
    results.as_of_date
from (
    select
        *,
        max(checked_at) over (partition by stage, as_of_date) as last_checked_at
    from ops.gate_results
) as results
where results.checked_at = results.last_checked_at;

create or replace view analytics.quarantine_summary as
select
    table_name,
    reason,
    count(*) as rows
from quarantine.rows
group by table_name, reason;

-- The clock here is the server's: whoever asks learns the age, also when nothing else runs.
create or replace view analytics.freshness as
select
    tables.table_name,
    tables.as_of_date,
    tables.updated_at,
    round((extract(epoch from now() - tables.updated_at) / 3600)::numeric, 1) as age_hours,
    deadlines.deadline_hours,
    coalesce(
        extract(epoch from now() - tables.updated_at) / 3600 > deadlines.deadline_hours, false
    ) as is_stale
from (
    select
        'order_lines' as table_name,
        max(delivered_at)::date as as_of_date,
        max(loaded_at) as updated_at
    from ops.files
    union all
    (
        select
            'customer_features',
            as_of_date,
            built_at
        from ops.builds
        order by built_at desc
        limit 1
    )
    union all
    select
        'customer_tiers',
        versions.as_of_date,
        versions.scored_at
    from ops.published as published
    inner join ops.versions as versions using (version_id)
    union all
    (
        select
            'customer_segments',
            versions.as_of_date,
            versions.scored_at
        from ops.published_chain as chain
        inner join ops.versions as versions using (version_id)
        where exists (
            select from scores.segment_profiles as profiles
            where profiles.version_id = versions.version_id
        )
        order by versions.as_of_date desc
        limit 1
    )
    union all
    (
        select
            'model_scoreboard',
            promotions.as_of_date,
            promotions.decided_at
        from ops.published as published
        inner join ops.versions as versions using (version_id)
        inner join ops.promotions as promotions using (model_name, model_version)
        order by promotions.promotion_id desc
        limit 1
    )
) as tables
left join ops.deadlines as deadlines using (table_name)
where tables.updated_at is not null;

create or replace view analytics.publish_log as
select
    log.published_at,
    log.version_id,
    log.previous_version_id,
    coalesce(log.as_of_date, versions.as_of_date) as as_of_date,
    log.customers,
    log.action,
    log.run_id
from ops.publish_log as log
inner join ops.versions as versions using (version_id);

-- What a customer did, day by day, as far as it was known on the published day. A function and no
-- view, as dbt may make its table anew; by its owner's rights, as analysts see no other schema.
create or replace function analytics.customer_timeline(customer text)
returns table (event_date date, kind text, events bigint, amount numeric)
language plpgsql stable security definer set search_path = '' as $$
begin
    if to_regclass('features.customer_events') is null then
        return;
    end if;
    return query
    select
        stream.event_date,
        (array[
            'purchase', 'return', 'view', 'search', 'wishlist', 'cart_add', 'cart_remove',
            'checkout', 'login', 'support', 'review', 'negative_review', 'contact', 'open',
            'click', 'redemption'
        ])[stream.kind] as kind,
        count(*) as events,
        round(
            sum(sign(stream.log_amount) * (exp(abs(stream.log_amount)) - 1))::numeric, 2
        ) as amount
    from features.customer_events as stream
    where stream.customer_id = customer
        and stream.known_on <= (
            select versions.as_of_date
            from ops.published as published
            inner join ops.versions as versions using (version_id)
        )
    group by 1, 2
    order by 1, 2;
end
$$;

comment on function analytics.customer_timeline(text) is
    'What a customer did by day and kind (purchase, return, view, …), and the money that moved, as '
    'far as it was known on the published day: select * from analytics.customer_timeline(…).';

-- Tables from before partitions; no view reads them any more.
drop table if exists scores.customer_scores_before, scores.customer_tiers_before;
