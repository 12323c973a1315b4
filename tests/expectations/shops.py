"""Two healthy shops of different kinds, from landed lines to tiers."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import psycopg

EARLIER, PUBLISHED, DAY = date(2025, 10, 1), date(2025, 12, 22), date(2026, 1, 5)
OPENING = datetime.fromisoformat("2025-01-01T10:00")
VERSION = "0123456789abcdef"
SCHEMAS = ("raw", "features", "scores")
WINDOWS = (7, 14, 30, 60, 90, 180, 365)


def within(days: int) -> str:
    return f"(where ordered_at >= day - {days})"


def of_raw(
    table: str, time: str, value: str = "count(*)", days: int = 365, also: str = "true"
) -> str:
    """Of the customer's rows in the window; null where the shop has no such rows at all."""
    return (
        f"case when exists (select from raw.{table}) then (select {value} from raw.{table} as seen "
        f"where seen.customer_id = lines.customer_id and {time} < day "
        f"and {time} >= day - {days} and {also}) end"
    )


# Column: (type, what it is of a customer's lines before the day). What no gate looks at closely
# is as simple as can be.
FEATURES = {
    "recency_days": ("integer", "day - cast(max(ordered_at) as date)"),
    "frequency_orders": ("integer", "count(distinct order_id)"),
    "monetary_total": ("numeric(14, 2)", "sum(amount)"),
    "tenure_days": ("integer", "day - cast(min(ordered_at) as date)"),
    "average_order_value": (
        "numeric(14, 2)",
        "sum(amount) filter (where amount > 0) / count(distinct order_id)",
    ),
    "recency_quintile": ("integer", "ntile(5) over (partition by day order by max(ordered_at))"),
    "frequency_quintile": ("integer", "ntile(5) over (partition by day order by count(*))"),
    "monetary_quintile": ("integer", "ntile(5) over (partition by day order by sum(amount))"),
    "rfm_score": ("integer", "9"),
    "rfm_segment": ("text", "cast(ntile(3) over (partition by day order by count(*)) as text)"),
    "order_gap_mean_days": (
        "double precision",
        "case when count(distinct order_id) > 1 then 1 + "
        "(cast(max(ordered_at) as date) - cast(min(ordered_at) as date))"
        " / (count(distinct order_id) - 1) end",
    ),
    "order_gap_last_days": ("integer", "case when count(distinct order_id) > 1 then 7 end"),
    **{
        f"orders_{days}d": ("integer", f"count(distinct order_id) filter {within(days)}")
        for days in WINDOWS
    },
    **{
        f"spend_{days}d": ("numeric(14, 2)", f"coalesce(sum(amount) filter {within(days)}, 0)")
        for days in WINDOWS
    },
    **{
        f"units_{days}d": ("double precision", f"count(*) filter {within(days)}")
        for days in WINDOWS
    },
    "spend_trend_30d": ("double precision", "-1"),
    "spend_trend_90d": ("double precision", "1"),
    "orders_trend_30d": ("double precision", "0"),
    "orders_trend_90d": ("double precision", "null"),
    "spend_change_year_90d": ("double precision", "null"),
    "lines_per_order": (
        "double precision",
        "cast(count(*) filter (where quantity > 0) as double precision) / count(distinct order_id)",
    ),
    "new_product_share_90d": ("double precision", "1"),
    "category_entropy": ("double precision", "null"),
    "top_category_share": ("double precision", "null"),
    "top_category": ("text", "null"),
    "discounted_order_share": ("double precision", "0"),
    "days_since_last_return": (
        "integer", "min(day - cast(ordered_at as date)) filter (where quantity < 0)"
    ),
    "weekend_order_share": ("double precision", "0.3"),
    "morning_order_share": ("double precision", "1"),
    "afternoon_order_share": ("double precision", "0"),
    "evening_order_share": ("double precision", "0"),
    "history_days": ("integer", f"day - date '{OPENING.date()}'"),
    "has_events": ("boolean", "exists (select from raw.events)"),
    **{
        f"views_{days}d": (
            "integer", of_raw("events", "occurred_at", days=days, also="event_type = 'view'")
        )
        for days in (30, 90, 365)
    },
    **{
        f"sessions_{days}d": (
            "integer", of_raw("events", "occurred_at", "count(distinct session_id)", days)
        )
        for days in (30, 90, 365)
    },
    "abandoned_carts_30d": ("integer", "0"),
    "abandoned_carts_90d": ("integer", "0"),
    "days_since_last_visit": (
        "integer", of_raw("events", "occurred_at", "min(day - cast(occurred_at as date))")
    ),
    "abandoned_cart_share_90d": ("double precision", "null"),
    "has_reviews": ("boolean", "exists (select from raw.reviews)"),
    "reviews_365d": ("integer", of_raw("reviews", "reviewed_at")),
    "reviews_total": ("integer", of_raw("reviews", "reviewed_at", days=9999)),
    "negative_review_share": ("double precision", "0"),
    "days_since_last_review": (
        "integer", of_raw("reviews", "reviewed_at", "min(day - cast(reviewed_at as date))")
    ),
    "has_campaigns": ("boolean", "exists (select from raw.campaign_contacts)"),
    **{
        f"contacts_{days}d": ("integer", of_raw("campaign_contacts", "contacted_at", days=days))
        for days in (30, 90, 365)
    },
    **{
        f"opens_{days}d": ("integer", of_raw("campaign_contacts", "opened_at", days=days))
        for days in (90, 365)
    },
    "clicks_90d": ("integer", "0"),
    "clicks_365d": ("integer", "0"),
    "days_since_last_contact": (
        "integer",
        of_raw("campaign_contacts", "contacted_at", "min(day - cast(contacted_at as date))"),
    ),
    "days_since_last_response": ("integer", "null"),
    "has_profile": ("boolean", "true"),
    "age_years": ("integer", "20 + length(lines.customer_id)"),
    "first_order_hour": ("integer", "10"),
    "first_order_weekday": ("integer", "7"),
}  # fmt: skip

TABLES = f"""
create table raw.order_lines (
    order_id text, line_number bigint, customer_id text, ordered_at timestamp, product_id text,
    quantity numeric(14, 3), unit_price numeric(18, 6),
    discount_amount numeric(18, 6), source_row integer, known_at timestamp
);
create table raw.events (
    event_id text, customer_id text, session_id text, occurred_at timestamp, event_type text,
    product_id text, known_at timestamp
);
create table raw.reviews (
    review_id text, customer_id text, product_id text, reviewed_at timestamp, known_at timestamp
);
create table raw.campaign_contacts (
    contact_id text, customer_id text, contacted_at timestamp, opened_at timestamp,
    clicked_at timestamp, redeemed_at timestamp, known_at timestamp
);
create table features.customer_features (
    customer_id text, as_of_date date,
    {", ".join(f"{name} {kind}" for name, (kind, _) in FEATURES.items())},
    unique (as_of_date, customer_id)
);
create table features.customer_labels (
    customer_id text, as_of_date date, horizon_days integer, spend numeric(14, 2),
    is_purchased boolean, is_high_value boolean
);
create table features.customer_events (
    customer_id text, event_date date, known_on date, position integer, occurred_at timestamp,
    kind integer, category_code integer, product_bucket integer, log_amount double precision,
    seconds_since_last bigint, hour integer, weekday integer
);
create table scores.customer_scores (
    version_id text, as_of_date date, customer_id text, horizon_days integer,
    expected_spend numeric(14, 2), purchase_probability double precision
);
create table scores.customer_tiers (
    version_id text, as_of_date date, customer_id text, tier text, tier_rank integer,
    expected_spend numeric(14, 2), policy_version text,
    drawn_tier_rank integer, decided_by text, measure double precision
);
create table scores.customer_segments (
    version_id text, as_of_date date, customer_id text, segment text
);
create table scores.segment_profiles (version_id text, segment text, customers bigint);
create table scores.segment_evidence (
    version_id text, agreement double precision, chosen boolean
);
"""

# Of an online shop: who bought looked first, some gave their opinion, some had been written to.
ENGAGEMENT = """
insert into raw.events
select
    3 * source_row + step, customer_id, order_id, ordered_at - interval '1 hour' / step,
    (array['view', 'view', 'cart_add'])[step], product_id, null
from raw.order_lines
cross join generate_series(1, 3) as step;

insert into raw.reviews
select source_row, customer_id, product_id, ordered_at + interval '3 days', null
from raw.order_lines
where source_row % 20 = 0;

insert into raw.campaign_contacts
select
    source_row, customer_id, ordered_at - interval '1 day',
    case when source_row % 20 > 0 then ordered_at - interval '2 hours' end, null, null, null
from raw.order_lines
where source_row % 10 = 0;
"""

DERIVED = f"""
insert into features.customer_features
select
    customer_id, day, {", ".join(value for _, value in FEATURES.values())}
from (
    select *, quantity * unit_price - coalesce(discount_amount, 0) as amount
    from raw.order_lines
) as lines
cross join unnest(array[date '{EARLIER}', date '{PUBLISHED}', date '{DAY}']) as day
where ordered_at < day
group by customer_id, day;

create table features.feat_customer_rfm as
select
    customer_id, as_of_date, recency_days, frequency_orders, monetary_total, tenure_days,
    average_order_value
from features.customer_features;

insert into features.customer_labels
select
    *,
    is_purchased and spend > 0
        and rank() over (partition by horizon_days order by spend desc) - 1
            < 0.1 * count(*) over (partition by horizon_days)
from (
    select
        customer_features.customer_id, as_of_date, horizon_days,
        coalesce(sum(quantity * unit_price - coalesce(discount_amount, 0)), 0) as spend,
        count(order_id) > 0 as is_purchased
    from features.customer_features
    cross join unnest(array[7, 14, 30, 90, 180, 365]) as horizon_days
    left join raw.order_lines
        on order_lines.customer_id = customer_features.customer_id
        and ordered_at >= as_of_date and ordered_at < as_of_date + horizon_days
    where as_of_date = '{EARLIER}'
        and as_of_date + horizon_days <= (select cast(max(ordered_at) as date) from raw.order_lines)
    group by 1, 2, 3
) as outcomes;

insert into features.customer_events
select
    customer_id, cast(occurred_at as date), cast(occurred_at as date) + 1,
    row_number() over (
        partition by customer_id, cast(occurred_at as date) order by occurred_at, kind, key
    ),
    occurred_at, kind,
    case when product_id is null then 0 else 1 + length(product_id) end,
    case when product_id is null then 0 else 1 + length(product_id) end,
    sign(amount) * ln(1 + abs(amount)),
    extract(epoch from occurred_at - lag(occurred_at) over (
        partition by customer_id order by occurred_at, kind, key
    )),
    extract(hour from occurred_at), extract(isodow from occurred_at)
from (
    select
        customer_id, ordered_at as occurred_at, case when quantity < 0 then 2 else 1 end as kind,
        source_row as key, product_id,
        cast(quantity * unit_price - coalesce(discount_amount, 0) as double precision) as amount
    from raw.order_lines
    union all
    select
        customer_id, occurred_at, case event_type when 'view' then 3 else 6 end,
        cast(event_id as integer), product_id, 0
    from raw.events
    union all
    select customer_id, reviewed_at, 11, cast(review_id as integer), product_id, 0
    from raw.reviews
    union all
    select customer_id, step_at, kind, cast(contact_id as integer), null, 0
    from raw.campaign_contacts
    cross join lateral (values (13, contacted_at), (14, opened_at)) as steps (kind, step_at)
    where step_at is not null
) as happened;

truncate ops.policies, ops.versions cascade;
insert into ops.versions (
    version_id, as_of_date, horizon_days, model_name, model_version, policy_version, input_hash,
    customers
)
values ('{VERSION}', '{PUBLISHED}', 90, 'model', '1', 'policy', '', 0);
insert into ops.published (version_id) values ('{VERSION}');

insert into scores.customer_scores
select
    '{VERSION}', as_of_date, customer_id, 90, 0.7 * coalesce(spend_90d, 0) + frequency_orders,
    1 / (1 + exp(recency_days / 30.0 - 1))
from features.customer_features where as_of_date = '{DAY}';

insert into scores.customer_tiers
select
    version_id, as_of_date, customer_id, (array['gold', 'silver', 'bronze'])[tier_rank], tier_rank,
    expected_spend, 'policy', tier_rank, 'measure', expected_spend
from (
    select *, case when place <= 0.1 then 1 when place <= 0.4 then 2 else 3 end as tier_rank
    from (
        select *, cume_dist() over (order by expected_spend desc, customer_id) as place
        from scores.customer_scores
    ) as placed
) as ranked;

-- Yesterday's version has the tiers of the policy too.
insert into scores.customer_tiers
select
    'fedcba9876543210', '{EARLIER}', customer_id, tier, tier_rank, expected_spend, policy_version,
    drawn_tier_rank, decided_by, measure
from scores.customer_tiers;

insert into scores.customer_segments
select version_id, as_of_date, customer_id, case when tier_rank = 3 then 'rare' else 'regular' end
from scores.customer_tiers;

insert into scores.segment_profiles
select version_id, segment, count(*)
from scores.customer_segments
group by version_id, segment;

-- What was found and not chosen says nothing of the version before.
insert into scores.segment_evidence
values ('{VERSION}', 0.8, true), ('{VERSION}', 0.1, false), ('fedcba9876543210', null, true);
"""


def open_shop(connection: psycopg.Connection, lines: Iterator[tuple], is_online: bool) -> None:
    """The shop's tables, made anew: a test may have broken their shape too."""
    with connection.transaction():
        for name in SCHEMAS:
            connection.execute(f"drop schema if exists {name} cascade; create schema {name}")
        connection.execute(TABLES)
        with connection.cursor().copy("copy raw.order_lines from stdin") as copy:
            for row, line in enumerate(lines):
                copy.write_row((*line, row, None))
        if is_online:
            connection.execute(ENGAGEMENT)
        for table in ("order_lines", "events", "reviews", "campaign_contacts"):
            connection.execute(f"create index on raw.{table} (customer_id); analyze raw.{table}")
        connection.execute(DERIVED)


def grocery_lines() -> Iterator[tuple]:
    """60 customers who come weekly for three cheap things each."""
    rng = np.random.default_rng(1)
    for customer in range(60):
        for visit, day in enumerate(np.flatnonzero(rng.random(370) < 1 / 6)):
            at = OPENING + timedelta(days=int(day))
            for line, price in enumerate(rng.lognormal(1, 0.5, 3)):
                product = f"p{rng.integers(90)}"
                yield (
                    f"{customer}-{visit}",
                    line,
                    f"household-{customer}",
                    at,
                    product,
                    1,
                    round(price, 2),
                    0,
                )


def gift_wholesale_lines() -> Iterator[tuple]:
    """200 buyers, some very large, a few dear orders a year, returns, closed over Christmas.

    It gives no discounts.
    """
    rng = np.random.default_rng(2)
    for customer, size in enumerate(rng.lognormal(3, 1.2, 200)):
        for visit in range(1 + rng.poisson(5)):
            day = min(int(rng.triangular(0, 330, 366)), 356)
            at = OPENING + timedelta(days=day)
            for line, price in enumerate(rng.lognormal(2, 1, 8)):
                quantity = -1 if rng.random() < 0.03 else 1 + int(rng.poisson(size))
                product = None if line == 7 else f"g{rng.integers(400)}"
                yield (
                    f"{customer}-{visit}",
                    line,
                    f"buyer-{customer}",
                    at,
                    product,
                    quantity,
                    round(price, 2),
                    None,
                )
