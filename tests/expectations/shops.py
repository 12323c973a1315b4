"""Two healthy shops of different kinds, from landed lines to tiers."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import psycopg

EARLIER, DAY = date(2025, 10, 1), date(2026, 1, 5)
OPENING = datetime.fromisoformat("2025-01-01T10:00")
VERSION = "0123456789abcdef"
SCHEMAS = ("raw", "features", "scores")

TABLES = """
create table raw.order_lines (
    order_id text, line_number bigint, customer_id text, ordered_at timestamp, product_id text,
    quantity numeric(14, 3), unit_price numeric(18, 6),
    discount_amount numeric(18, 6), source_row integer
);
create table features.customer_features (
    customer_id text, as_of_date date, recency_days integer, frequency_orders integer,
    monetary_total numeric(14, 2), spend_90d numeric(14, 2), order_gap_mean_days double precision,
    category_count integer
);
create table features.customer_labels (
    customer_id text, as_of_date date, horizon_days integer, spend numeric(14, 2),
    is_purchased boolean
);
create table scores.customer_scores (
    version_id text, as_of_date date, customer_id text, horizon_days integer,
    expected_spend numeric(14, 2), purchase_probability double precision
);
create table scores.customer_tiers (
    version_id text, as_of_date date, customer_id text, tier text, tier_rank integer,
    expected_spend numeric(14, 2), policy_version text
);
"""

DERIVED = f"""
insert into features.customer_features
select
    customer_id, day, day - cast(max(ordered_at) as date), count(distinct order_id),
    sum(quantity * unit_price),
    sum(quantity * unit_price) filter (where ordered_at >= day - 90),
    case when count(distinct order_id) > 1 then
        cast(cast(max(ordered_at) as date) - cast(min(ordered_at) as date) as double precision)
            / (count(distinct order_id) - 1)
    end,
    null
from raw.order_lines cross join unnest(array[date '{EARLIER}', date '{DAY}']) as day
where ordered_at < day
group by customer_id, day;

insert into features.customer_labels
select
    customer_features.customer_id, as_of_date, horizon_days,
    coalesce(sum(quantity * unit_price), 0), count(order_id) > 0
from features.customer_features
cross join unnest(array[30, 90]) as horizon_days
left join raw.order_lines
    on order_lines.customer_id = customer_features.customer_id
    and ordered_at >= as_of_date and ordered_at < as_of_date + horizon_days
where as_of_date = '{EARLIER}'
group by 1, 2, 3;

insert into scores.customer_scores
select
    '{VERSION}', as_of_date, customer_id, 90, 0.7 * coalesce(spend_90d, 0) + frequency_orders,
    1 / (1 + exp(recency_days / 30.0 - 1))
from features.customer_features where as_of_date = '{DAY}';

insert into scores.customer_tiers
select
    version_id, as_of_date, customer_id, (array['gold', 'silver', 'bronze'])[tier_rank], tier_rank,
    expected_spend, 'policy'
from (
    select *, case when place <= 0.1 then 1 when place <= 0.4 then 2 else 3 end as tier_rank
    from (
        select *, cume_dist() over (order by expected_spend desc, customer_id) as place
        from scores.customer_scores
    ) as placed
) as ranked;

-- Yesterday's version has the tiers of the policy too.
insert into scores.customer_tiers
select 'fedcba9876543210', '{EARLIER}', customer_id, tier, tier_rank, expected_spend, policy_version
from scores.customer_tiers;
"""


def open_shop(connection: psycopg.Connection, lines: Iterator[tuple]) -> None:
    """The shop's tables, made anew: a test may have broken their shape too."""
    with connection.transaction():
        for name in SCHEMAS:
            connection.execute(f"drop schema if exists {name} cascade; create schema {name}")
        connection.execute(TABLES)
        with connection.cursor().copy("copy raw.order_lines from stdin") as copy:
            for row, line in enumerate(lines):
                copy.write_row((*line, row))
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
