-- What Tierhouse itself writes. dbt owns staging, intermediate and features; run at every start, changes nothing twice.

-- The SQL of a killed task ends with it, on a server of one's own too.
do $$
begin
    execute format(
        'alter database %I set client_connection_check_interval = %L', current_database(), '5s'
    );
end
$$;

create schema if not exists raw;
create schema if not exists quarantine;
create schema if not exists pii;
create schema if not exists ops;
create schema if not exists staging;
create schema if not exists intermediate;
create schema if not exists features;
create schema if not exists scores;
create schema if not exists analytics;

-- The tables of raw are made from warehouse/contract.py. Older contents of rows that a newer
-- delivery corrected: key is a JSON array.
create table if not exists raw.superseded (
    table_name text not null,
    key text not null,
    content_hash bigint not null,
    delivered_at timestamp not null,
    file_id integer not null,
    source_row integer not null,
    row jsonb not null,
    primary key (table_name, key, content_hash)
);

create table if not exists pii.customers (
    customer_id text primary key,
    email text,
    phone text,
    full_name text,
    delivered_at timestamp not null
);

-- Whose pseudonym is whose: the shop's own identifier of every customer that came.
create table if not exists pii.customer_ids (
    customer_id text primary key,
    source_customer_id text not null
);

-- Which key made the pseudonyms, so that no other key is mixed in.
create table if not exists pii.key_fingerprint (
    only_row boolean primary key default true check (only_row),
    fingerprint text not null
);

-- One row per file and delivery. delivered_at: the delivery's day (is_daily), or the time of the load.
create table if not exists ops.files (
    file_id integer generated always as identity primary key,
    source text not null,
    file_hash text not null,
    file_name text not null,
    path text not null,
    delivered_at timestamp not null,
    run_id text not null,
    loaded_at timestamptz not null default now(),
    unique (source, file_hash, delivered_at)
);

alter table ops.files add column if not exists
is_daily boolean not null default false;

-- Where every row of a file went, by table. Of the accepted, rows_corrected met their key with
-- other content; one of the two is in raw.superseded. rows_duplicate: repeats, and rows that the
-- mapping merged or left out.
create table if not exists ops.load_ledger (
    file_id integer not null references ops.files,
    table_name text not null,
    rows_read bigint not null,
    rows_accepted bigint not null,
    rows_corrected bigint not null,
    rows_duplicate bigint not null,
    rows_anonymous bigint not null,
    rows_quarantined bigint not null,
    primary key (file_id, table_name),
    constraint every_row_is_accounted_for check (
        rows_read = rows_accepted + rows_duplicate + rows_anonymous + rows_quarantined
        and least(rows_accepted, rows_duplicate, rows_anonymous, rows_quarantined) >= 0
    )
);

-- Every refused row. raw_row is what the file says, without personal columns and with customers
-- by pseudonym. file_id is null when the whole load was refused.
create table if not exists quarantine.rows (
    quarantined_at timestamptz not null default now(),
    run_id text not null,
    source text not null,
    file_id integer references ops.files,
    file_name text not null,
    file_hash text not null,
    table_name text not null,
    source_row integer not null,
    reason text not null,
    column_name text,
    raw_row jsonb
);

create index if not exists rows_by_file on quarantine.rows (file_hash, table_name);

-- What was changed in raw, by whom ever, until every engine has built from it. Of dated tables
-- entity_id is the customer and day a day of theirs; of products, the product whose category
-- changed, or null for other changes. is_whole: anything of the table may have changed.
create table if not exists ops.changes (
    change_id bigint generated always as identity primary key,
    table_name text not null,
    entity_id text,
    day date,
    is_whole boolean not null
);

-- Up to which change an engine has built, and by which definitions.
create table if not exists ops.consumed (
    target text primary key,
    change_id bigint not null,
    fingerprint text not null
);

-- Of whom the next build builds anew, by table of raw; filled by each build.
create table if not exists ops.touched_customers (
    table_name text not null,
    customer_id text not null
);

-- Note what a statement on a table of raw changed. Arguments: the columns in which rows are
-- compared, and a query that makes (entity_id, day, is_whole) of the rows that differ.
create or replace function ops.note_changes() returns trigger language plpgsql as $$
declare
    compared constant text := tg_argv[0];
    noted constant text := tg_argv[1];
    most constant integer := 200000;
    differing text;
begin
    if tg_op = 'TRUNCATE' then
        insert into ops.changes (table_name, is_whole) values (tg_table_name, true);
        return null;
    end if;
    differing := case tg_op
        when 'INSERT' then 'select %1$s from appeared'
        when 'DELETE' then 'select %1$s from vanished'
        else
            '(select %1$s from vanished except all select %1$s from appeared) union all '
            '(select %1$s from appeared except all select %1$s from vanished)'
    end;
    execute format(
        'with changed as materialized ('
        'select * from (' || differing || ') as differing limit %3$s + 1), '
        'size as (select count(*) > %3$s as is_too_much from changed) '
        'insert into ops.changes (table_name, entity_id, day, is_whole) '
        'select %4$L, null, null, true from size where is_too_much union all '
        'select %4$L, noted.* from (%2$s) as noted '
        'where not (select is_too_much from size)',
        compared, noted, most, tg_table_name
    );
    return null;
end
$$;

create table if not exists ops.gate_results (
    checked_at timestamptz not null default now(),
    stage text not null,
    as_of_date date,
    version_id text,
    table_name text not null,
    expectation text not null,
    column_name text,
    severity text not null,
    success boolean not null,
    observed jsonb
);

-- A version is one scoring of one day. Its id follows from what went in, so scoring the same
-- day from the same inputs again is the same version.
create table if not exists ops.versions (
    version_id text primary key,
    as_of_date date not null,
    horizon_days integer not null,
    model_name text not null,
    model_version text not null,
    policy_version text not null,
    input_hash text not null,
    customers bigint not null,
    scored_at timestamptz not null default clock_timestamp(),
    gated_at timestamptz
);

create table if not exists scores.customer_scores (
    version_id text not null references ops.versions,
    as_of_date date not null,
    customer_id text not null,
    horizon_days integer not null,
    expected_spend numeric(14, 2) not null,
    purchase_probability double precision not null,
    model_name text not null,
    model_version text not null,
    primary key (version_id, customer_id, horizon_days)
);

-- Why, strongest first: [{"reason": family, "effect": factor, "en": text, "zh": text}, …]. Null
-- where the row is from before reasons were kept.
alter table scores.customer_scores add column if not exists reasons jsonb;

-- The ends of the interval that is to hold the spend of nine customers in ten; null where the model
-- had too few customers to learn it from.
alter table scores.customer_scores
add column if not exists expected_spend_low numeric(14, 2),
add column if not exists expected_spend_high numeric(14, 2);

-- Of the horizon that was asked for: the chance to be in the top decile of spend, and the day by
-- which the customer is likelier than not to have ordered; null where the method does not say, the
-- day also where it is more than a year away.
alter table scores.customer_scores
add column if not exists high_value_probability double precision,
add column if not exists next_order_date date,
add column if not exists churn_probability double precision
generated always as (1 - purchase_probability) stored;

-- By which definitions the features were built: as ops.consumed has it, shortened.
alter table ops.versions add column if not exists feature_version text;

-- After which version's tiers these were drawn: hysteresis reads them. Null for the first.
alter table ops.versions add column if not exists previous_version_id text;

-- What every tier policy said that tiers were drawn or judged by.
create table if not exists ops.policies (
    policy_version text primary key,
    policy jsonb not null,
    first_used_at timestamptz not null default clock_timestamp()
);

create table if not exists scores.customer_tiers (
    version_id text not null references ops.versions,
    as_of_date date not null,
    customer_id text not null,
    tier text not null,
    tier_rank integer not null,
    expected_spend numeric(14, 2) not null,
    policy_version text not null,
    primary key (version_id, customer_id)
);

-- tier is what the customer has, drawn_tier what the measure alone says that day; decided_by what made
-- the difference, if any: measure, hysteresis, tenure, override or cap. previous_*: in
-- ops.versions.previous_version_id, null where the customer is new. tier_since: first day of the
-- unbroken stay in tier. past_border_since: since which day the measure has pointed the same way to
-- another tier than this, null when it does not. measure: null where tiers are RFM groups. All but tier
-- are null in rows from before they were kept.
alter table scores.customer_tiers
add column if not exists drawn_tier text,
add column if not exists drawn_tier_rank integer,
add column if not exists decided_by text check (
    decided_by in ('measure', 'hysteresis', 'tenure', 'override', 'cap')
),
add column if not exists previous_tier text,
add column if not exists previous_tier_rank integer,
add column if not exists tier_since date,
add column if not exists past_border_since date,
add column if not exists measure double precision;

-- What the sequence model sees of a day's customers: who is alike points the same way. Only vectors
-- of one model version, that of tierhouse embed, can be compared.
create table if not exists scores.customer_embeddings (
    as_of_date date not null,
    customer_id text not null,
    embedding real[] not null,
    model_version text not null,
    primary key (as_of_date, customer_id)
);

-- How the policy's tiers did on closed windows, on customers scored by a model that had not seen
-- them; as_of_date is the window's first day. Belongs to the model version. expected_buyers: the sum of
-- purchase probabilities. truly_top: customers of the tier who were among those that spent most, as
-- many as the first tier holds. The last three are null in rows from before they were kept.
create table if not exists scores.tier_evaluation (
    model_name text not null,
    model_version text not null,
    policy_version text not null,
    as_of_date date not null,
    tier text not null,
    tier_rank integer not null,
    customers bigint not null,
    expected_spend numeric(16, 2) not null,
    realised_spend numeric(16, 2) not null
);

alter table scores.tier_evaluation
drop constraint if exists tier_evaluation_pkey,
add column if not exists expected_buyers double precision,
add column if not exists buyers bigint,
add column if not exists truly_top bigint;

create unique index if not exists tier_evaluation_by_window
on scores.tier_evaluation (model_name, model_version, policy_version, as_of_date, tier);

-- The scoreboard of a model version: it and the baselines on the same customers. as_of_date is the
-- origin, null for the mean over the origins (for sum_ratio: all predicted over all actual).
create table if not exists scores.model_metrics (
    model_name text not null,
    model_version text not null,
    horizon_days integer not null,
    candidate text not null,
    as_of_date date,
    metric text not null,
    value double precision not null,
    unique nulls not distinct (model_name, model_version, candidate, as_of_date, metric)
);

-- What became of every trained version, and every move of the champion by hand. as_of_date: what the
-- version knows. numbers: what the gate looked at. Promoted and rolled back is who was champion.
create table if not exists ops.promotions (
    promotion_id bigint generated always as identity primary key,
    as_of_date date not null,
    model_name text not null,
    model_version text not null,
    champion_before text,
    verdict text not null check (verdict in ('promoted', 'refused', 'rolled back')),
    reasons text not null,
    numbers jsonb not null,
    decided_at timestamptz not null default clock_timestamp()
);

create table if not exists ops.published (
    only_row boolean primary key default true check (only_row),
    version_id text not null references ops.versions,
    published_at timestamptz not null default now()
);

create table if not exists ops.publish_log (
    published_at timestamptz not null default now(),
    version_id text not null references ops.versions,
    previous_version_id text,
    customers bigint not null
);

create or replace view analytics.customer_tiers as
select
    customer_tiers.customer_id,
    customer_tiers.tier,
    customer_tiers.tier_rank,
    customer_tiers.expected_spend,
    customer_scores.purchase_probability,
    versions.horizon_days,
    customer_tiers.as_of_date,
    versions.model_name,
    versions.model_version,
    customer_tiers.policy_version,
    published.published_at,
    (
        select
            string_agg(
                case when (said ->> 'effect')::float8 > 1 then U&'\2191 ' else U&'\2193 ' end
                || (said ->> 'en'), U&' \00B7 ' order by place
            )
        from jsonb_array_elements(customer_scores.reasons) with ordinality as _ (said, place)
    ) as reasons_en,
    (
        select
            string_agg(
                case when (said ->> 'effect')::float8 > 1 then U&'\2191 ' else U&'\2193 ' end
                || (said ->> 'zh'), U&' \00B7 ' order by place
            )
        from jsonb_array_elements(customer_scores.reasons) with ordinality as _ (said, place)
    ) as reasons_zh,
    customer_scores.expected_spend_low,
    customer_scores.expected_spend_high,
    customer_scores.churn_probability,
    customer_scores.high_value_probability,
    customer_scores.next_order_date,
    versions.feature_version
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.customer_tiers as customer_tiers using (version_id)
inner join scores.customer_scores as customer_scores
    on customer_scores.version_id = customer_tiers.version_id
    and customer_scores.customer_id = customer_tiers.customer_id
    and customer_scores.horizon_days = versions.horizon_days;

create or replace view analytics.customer_outlook as
select
    customer_scores.customer_id,
    customer_scores.horizon_days,
    customer_scores.expected_spend,
    customer_scores.purchase_probability,
    customer_scores.churn_probability,
    customer_scores.as_of_date,
    customer_scores.horizon_days = versions.horizon_days as is_judged
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.customer_scores as customer_scores using (version_id);

create or replace view analytics.customer_reasons as
select
    customer_scores.customer_id,
    reasons.place::integer as reason_rank,
    reasons.said ->> 'reason' as reason,
    (reasons.said ->> 'effect')::float8 as effect,
    reasons.said ->> 'en' as text_en,
    reasons.said ->> 'zh' as text_zh,
    customer_scores.as_of_date,
    customer_scores.horizon_days
from ops.published as published
inner join ops.versions as versions using (version_id)
inner join scores.customer_scores as customer_scores using (version_id, horizon_days)
cross join lateral
    jsonb_array_elements(customer_scores.reasons) with ordinality as reasons (said, place);

create or replace view analytics.tier_summary as
select
    tiers.tier,
    tiers.tier_rank,
    tiers.customers,
    tiers.expected_spend,
    round(tiers.expected_spend / nullif(sum(tiers.expected_spend) over (), 0), 4)
        as expected_share,
    tiers.purchase_probability_mean,
    tiers.as_of_date,
    tiers.horizon_days,
    evaluation.as_of_date as evaluated_as_of_date,
    round(
        evaluation.expected_spend / nullif(sum(evaluation.expected_spend) over (), 0), 4
    ) as evaluated_expected_share,
    round(
        evaluation.realised_spend / nullif(sum(evaluation.realised_spend) over (), 0), 4
    ) as evaluated_realised_share
from (
    select
        tier,
        tier_rank,
        as_of_date,
        horizon_days,
        model_name,
        model_version,
        policy_version,
        count(*) as customers,
        sum(expected_spend) as expected_spend,
        avg(purchase_probability) as purchase_probability_mean
    from analytics.customer_tiers
    group by
        tier, tier_rank, as_of_date, horizon_days, model_name, model_version, policy_version
) as tiers
left join (
    select
        *,
        max(as_of_date) over (partition by model_name, model_version, policy_version)
            as newest
    from scores.tier_evaluation
) as evaluation
    on evaluation.as_of_date = evaluation.newest
    and evaluation.model_name = tiers.model_name
    and evaluation.model_version = tiers.model_version
    and evaluation.policy_version = tiers.policy_version
    and evaluation.tier = tiers.tier;

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

comment on view analytics.model_scoreboard is
    'How the model behind the published tiers did on held-out windows, beside the baselines. '
    'origin is null for the mean over the origins.';
comment on view analytics.customer_tiers is
    'One row per customer of the published day: tier, expected spend, and the model behind it.';
comment on column analytics.customer_tiers.expected_spend is
    'Expected net spend in the horizon_days after as_of_date, in the reporting currency.';
comment on column analytics.customer_tiers.purchase_probability is
    'Probability of at least one order in the horizon_days after as_of_date.';
comment on column analytics.customer_tiers.churn_probability is
    'Probability of no order in the horizon_days after as_of_date.';
comment on column analytics.customer_tiers.high_value_probability is
    'Probability of being in the top decile of spend in the horizon_days after as_of_date; null '
    'where the method does not say.';
comment on column analytics.customer_tiers.next_order_date is
    'The day by which the customer is likelier than not to have ordered; null where that is more '
    'than a year away.';
comment on column analytics.customer_tiers.feature_version is
    'By which definitions the features behind the score were built.';
comment on view analytics.customer_outlook is
    'One row per customer and horizon of a week to a year: expected spend, and the probabilities of '
    'an order and of none. Neither spend nor purchase probability falls as the horizon grows.';
comment on column analytics.customer_outlook.is_judged is
    'The horizon of the tiers, whose model stands on the scoreboard. The others are the same kind '
    'of model, bounded by it; `tierhouse backtest --horizon` judges them.';
comment on column analytics.customer_tiers.expected_spend_low is
    'Lower end of the interval that is to hold the spend of nine customers in ten: 0 for whoever may '
    'not buy at all. Null where the model had too few customers to learn it from.';
comment on column analytics.customer_tiers.expected_spend_high is
    'Upper end of the same interval. Sums of ends are no interval of a sum.';
comment on column analytics.customer_tiers.reasons_en is
    'What moves the expected spend of this customer most, strongest first: an arrow up raises it, '
    'an arrow down lowers it. reasons_zh says the same in Chinese.';
comment on view analytics.customer_reasons is
    'One row per customer of the published day and reason, at most three; reason_rank 1 is the '
    'strongest.';
comment on column analytics.customer_reasons.effect is
    'Factor on expected spend, to first order, against the average customer that the model '
    'learned from: 1.25 is a quarter more.';
comment on view analytics.tier_summary is
    'One row per tier of the published day. evaluated_* columns: the newest window that is '
    'closed, scored by a model that had not seen it.';
comment on column analytics.tier_summary.evaluated_realised_share is
    'Share of all that was really spent in the held-out window that this tier spent.';
