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

-- previous_version_id: the version that this one was drawn after, null for the first. fencing_token:
-- taken when the scoring begins; an older one never overwrites a newer one. row_counts and checksum:
-- of the rows as they were scored. pruned_at: since when its rows are gone.
alter table ops.versions
add column if not exists feature_version text,  -- as ops.consumed has it, shortened
add column if not exists previous_version_id text references ops.versions,
add column if not exists fencing_token bigint,
add column if not exists run_id text,
add column if not exists row_counts jsonb,
add column if not exists checksum text,
add column if not exists pruned_at timestamptz;

create sequence if not exists ops.fencing_tokens;

-- The tables with a row per customer and version have a partition per version: it is filled out of
-- sight, and dropped when its version is pruned. Tables from before partitions are moved below.
do $$
declare
    old record;
begin
    for old in
        select relname from pg_class
        where relnamespace = 'scores'::regnamespace and relkind = 'r'
            and relname in ('customer_scores', 'customer_tiers')
    loop
        execute format('alter table scores.%1$I rename to %1$s_before', old.relname);
        execute format(
            'alter table scores.%1$s_before rename constraint %1$s_pkey to %1$s_before_pkey',
            old.relname
        );
    end loop;
end
$$;

-- reasons: why, strongest first, as [{"reason": family, "effect": factor, "en": text, "zh": text}, …].
-- They, the ends of the interval that is to hold the spend of nine customers in ten, the chance to
-- be in the top decile of spend, and the day by which the customer is likelier than not to have
-- ordered are of the horizon that was asked for; null where the method does not say, the day also
-- where it is more than a year away.
create table if not exists scores.customer_scores (
    version_id text not null,
    as_of_date date not null,
    customer_id text not null,
    horizon_days integer not null,
    expected_spend numeric(14, 2) not null,
    purchase_probability double precision not null,
    model_name text not null,
    model_version text not null,
    reasons jsonb,
    expected_spend_low numeric(14, 2),
    expected_spend_high numeric(14, 2),
    high_value_probability double precision,
    next_order_date date,
    churn_probability double precision
    generated always as (1 - purchase_probability) stored,
    primary key (version_id, customer_id, horizon_days)
) partition by list (version_id);

-- What every tier policy said that tiers were drawn or judged by.
create table if not exists ops.policies (
    policy_version text primary key,
    policy jsonb not null,
    first_used_at timestamptz not null default clock_timestamp()
);

-- One wide row per version and customer, so that analysts' questions join nothing. tier is what the
-- customer has, drawn_tier what the measure alone says that day; decided_by what made the difference,
-- if any. previous_*: in ops.versions.previous_version_id, null where the customer is new. tier_since:
-- first day of the unbroken stay in tier. past_border_since: since which day the measure has pointed
-- the same way to another tier than this, null when it does not. measure: what the tiers were drawn
-- by, null where they are RFM groups.
create table if not exists scores.customer_tiers (
    version_id text not null,
    as_of_date date not null,
    customer_id text not null,
    tier text not null,
    tier_rank integer not null,
    expected_spend numeric(14, 2) not null,
    policy_version text not null,
    primary key (version_id, customer_id)
) partition by list (version_id);

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

-- Of the score of the judged horizon, and of the features of the day: facts that people ask of a
-- customer, named as in features.customer_features.
alter table scores.customer_tiers
add column if not exists horizon_days integer,
add column if not exists purchase_probability double precision,
add column if not exists expected_spend_low numeric(14, 2),
add column if not exists expected_spend_high numeric(14, 2),
add column if not exists high_value_probability double precision,
add column if not exists next_order_date date,
add column if not exists recency_days integer,
add column if not exists tenure_days integer,
add column if not exists frequency_orders integer,
add column if not exists monetary_total numeric(14, 2),
add column if not exists average_order_value numeric(14, 2),
add column if not exists order_value_last numeric(14, 2),
add column if not exists orders_365d integer,
add column if not exists spend_365d numeric(14, 2),
add column if not exists discount_share double precision,
add column if not exists return_share double precision,
add column if not exists rfm_segment text,
add column if not exists top_category text,
add column if not exists country text,
add column if not exists region text,
add column if not exists acquisition_channel text,
add column if not exists first_order_channel text;

do $$
declare
    version record;
begin
    if to_regclass('scores.customer_scores_before') is not null then
        for version in select distinct version_id from scores.customer_scores_before loop
            execute format(
                'create table scores.%I partition of scores.customer_scores for values in (%L)',
                'customer_scores_' || version.version_id, version.version_id
            );
        end loop;
        insert into scores.customer_scores (
            version_id, as_of_date, customer_id, horizon_days, expected_spend,
            purchase_probability, model_name, model_version, reasons, expected_spend_low,
            expected_spend_high, high_value_probability, next_order_date
        )
        select
            version_id, as_of_date, customer_id, horizon_days, expected_spend,
            purchase_probability, model_name, model_version,
            to_jsonb(old) -> 'reasons',
            (to_jsonb(old) ->> 'expected_spend_low')::numeric,
            (to_jsonb(old) ->> 'expected_spend_high')::numeric,
            (to_jsonb(old) ->> 'high_value_probability')::double precision,
            (to_jsonb(old) ->> 'next_order_date')::date
        from scores.customer_scores_before as old;
    end if;
    if to_regclass('scores.customer_tiers_before') is not null then
        for version in select distinct version_id from scores.customer_tiers_before loop
            execute format(
                'create table scores.%I partition of scores.customer_tiers for values in (%L)',
                'customer_tiers_' || version.version_id, version.version_id
            );
        end loop;
        insert into scores.customer_tiers (
            version_id, as_of_date, customer_id, tier, tier_rank, expected_spend, policy_version,
            horizon_days, purchase_probability, expected_spend_low, expected_spend_high,
            high_value_probability, next_order_date
        )
        select
            old.version_id, old.as_of_date, old.customer_id, old.tier, old.tier_rank,
            old.expected_spend, old.policy_version,
            scores.horizon_days, scores.purchase_probability, scores.expected_spend_low,
            scores.expected_spend_high, scores.high_value_probability, scores.next_order_date
        from scores.customer_tiers_before as old
        inner join ops.versions as versions using (version_id)
        left join scores.customer_scores as scores
            on scores.version_id = old.version_id
            and scores.customer_id = old.customer_id
            and scores.horizon_days = versions.horizon_days;
    end if;
end
$$;

-- The customers with the highest expected spend, without sorting all of them.
create index if not exists customer_tiers_by_spend
on scores.customer_tiers (expected_spend desc, customer_id);

-- rfm_segment: the named group of recency and frequency, as in features.customer_features; segment:
-- the stable label of the customer's cluster.
create table if not exists scores.customer_segments (
    version_id text not null,
    as_of_date date not null,
    customer_id text not null,
    rfm_segment text,
    segment text not null,
    primary key (version_id, customer_id)
) partition by list (version_id);

-- centre: {trait: value} in the trait's own unit. scale: {trait: [mean, spread]}, how a value is
-- standardised before distances are taken (see ml/segments.py), the same of all segments. They are
-- what the next version reads, so they stay when its customers are long gone.
create table if not exists scores.segment_profiles (
    version_id text not null references ops.versions on delete cascade,
    segment text not null,
    customers bigint not null,
    expected_spend numeric(16, 2) not null,
    centre jsonb not null,
    scale jsonb not null,
    description_en text not null,
    description_zh text not null,
    primary key (version_id, segment)
);

-- Why so many segments. silhouette, gap and stability (mean adjusted Rand index over bootstraps) on
-- a sample; a version that keeps the segments of the one before has its chosen row alone.
-- agreement: adjusted Rand index of the chosen segments with those of the version before, on the
-- customers of both; null in the first.
create table if not exists scores.segment_evidence (
    version_id text not null references ops.versions on delete cascade,
    method text not null,
    segments integer not null,
    silhouette double precision,
    gap double precision,
    stability double precision,
    agreement double precision,
    chosen boolean not null,
    primary key (version_id, method, segments)
);

-- What stays for ever, as it is small: who changed tier from the version before (previous_tier null:
-- is new), and what the tiers add up to. The history is the changes of the published version, of
-- the one before it, and so on.
create table if not exists scores.tier_changes (
    version_id text not null references ops.versions on delete cascade,
    as_of_date date not null,
    customer_id text not null,
    tier text not null,
    tier_rank integer not null,
    previous_tier text,
    previous_tier_rank integer,
    expected_spend numeric(14, 2) not null,
    decided_by text,
    primary key (customer_id, version_id)
);

create index if not exists tier_changes_by_version on scores.tier_changes (version_id);

create table if not exists scores.tier_totals (
    version_id text not null references ops.versions on delete cascade,
    tier text not null,
    tier_rank integer not null,
    customers bigint not null,
    expected_spend numeric(16, 2) not null,
    purchase_probability_mean double precision,
    primary key (version_id, tier)
);

create table if not exists scores.tier_migrations (
    version_id text not null references ops.versions on delete cascade,
    previous_tier text,
    previous_tier_rank integer,
    tier text not null,
    tier_rank integer not null,
    customers bigint not null,
    expected_spend numeric(16, 2) not null,
    unique nulls not distinct (version_id, previous_tier, tier)
);

-- Of those whose first order was in a month, how many ordered again so many months later; only
-- months that were over on the day.
create table if not exists scores.cohort_retention (
    version_id text not null references ops.versions on delete cascade,
    cohort_month date not null,
    months_since integer not null,
    customers bigint not null,
    active_customers bigint not null,
    spend numeric(16, 2) not null,
    primary key (version_id, cohort_month, months_since)
);

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

-- Points of the curves that a figure draws, on the newest origin of the scoreboard. gain: share of
-- the customers, ranked first, against their share of the spend; calibration: expected spend of a
-- tenth against its spend.
create table if not exists scores.model_curves (
    model_name text not null,
    model_version text not null,
    candidate text not null,
    kind text not null check (kind in ('gain', 'calibration')),
    position integer not null,
    x double precision not null,
    y double precision not null,
    primary key (model_name, model_version, candidate, kind, position)
);

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

-- The token of the scoring that is shown, or of the rollback: what was scored before it is stale.
alter table ops.published
add column if not exists fencing_token bigint not null default 0;

-- So that a view need not look here for what nobody asked of it.
create unique index if not exists published_version on ops.published (version_id);

create table if not exists ops.publish_log (
    published_at timestamptz not null default now(),
    version_id text not null references ops.versions,
    previous_version_id text,
    customers bigint not null
);

-- previous_version_id above: what analysts read before. The rest is the version as it was then.
alter table ops.publish_log
add column if not exists action text not null default 'publish'
check (action in ('publish', 'rollback')),
add column if not exists run_id text,
add column if not exists as_of_date date,
add column if not exists model_name text,
add column if not exists model_version text,
add column if not exists policy_version text,
add column if not exists input_hash text,
add column if not exists fencing_token bigint,
add column if not exists row_counts jsonb,
add column if not exists checksum text;

-- When each day's features were built last.
create table if not exists ops.builds (
    as_of_date date primary key,
    built_at timestamptz not null
);

-- After how many hours without news a table is stale. Yours to change.
create table if not exists ops.deadlines (
    table_name text primary key,
    deadline_hours double precision not null
);

insert into ops.deadlines (table_name, deadline_hours)
values
('order_lines', 26), ('customer_features', 26), ('customer_tiers', 26), ('customer_segments', 26),
('model_scoreboard', 192)
on conflict do nothing;
