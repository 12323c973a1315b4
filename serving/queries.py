"""What the pages and the report ask: the schema `analytics`, with the role analyst, read-only.

A snapshot is one transaction, so that all that a page shows is of one published version, also
while the next one is being published.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, NamedTuple

import pandas as pd
import psycopg
from psycopg import IsolationLevel, sql

from warehouse.connections import connect
from warehouse.settings import TierhouseError, one_line

Ask = Callable[..., pd.DataFrame]
TIMEOUT = "60s"
MOVEMENTS = ("up", "down", "stayed", "new")

TIERS = """
select tier, tier_rank, customers, customers_change, expected_spend::float8 as expected_spend,
    expected_share::float8 as expected_share, purchase_probability_mean, customers_up,
    customers_down, customers_new, evaluated_as_of_date,
    evaluated_expected_share::float8 as evaluated_expected_share,
    evaluated_realised_share::float8 as evaluated_realised_share
from analytics.tier_summary
order by tier_rank
"""

MIGRATIONS = """
select previous_tier, previous_tier_rank, tier, tier_rank, customers,
    share_of_previous::float8 as share_of_previous, expected_spend::float8 as expected_spend
from analytics.tier_migrations
where as_of_date = (
    select max(as_of_date) from analytics.tier_summary where previous_as_of_date is not null
)
order by previous_tier_rank nulls last, tier_rank
"""

TIERS_OVER_TIME = """
select as_of_date, tier, tier_rank, sum(customers)::bigint as customers,
    sum(expected_spend)::float8 as expected_spend
from analytics.tier_migrations
group by as_of_date, tier, tier_rank
order by as_of_date, tier_rank
"""

GATES = """
with newest as (
    select *, max(checked_at) over (partition by stage) as last_checked_at
    from analytics.data_quality
)
select stage, as_of_date, max(checked_at) as checked_at,
    count(*) filter (where success) as holding,
    count(*) filter (where not success and severity = 'critical') as failing,
    count(*) filter (where not success and severity <> 'critical') as warnings
from newest
where checked_at = last_checked_at
group by stage, as_of_date
order by checked_at desc
"""

FRESHNESS = """
select table_name, as_of_date, updated_at, age_hours::float8 as age_hours,
    deadline_hours::float8 as deadline_hours, is_stale
from analytics.freshness
order by is_stale desc, table_name
"""

SEGMENTS = """
select segment, customers, share::float8 as share, expected_spend::float8 as expected_spend,
    expected_share::float8 as expected_share, description_en, description_zh
from analytics.segment_summary
order by expected_spend desc
"""

FOUND = """
select customer_id, tier, movement, days_in_tier, expected_spend::float8 as expected_spend,
    expected_spend_low::float8 as expected_spend_low,
    expected_spend_high::float8 as expected_spend_high, purchase_probability, churn_probability,
    next_order_date, segment, rfm_segment, top_category, country,
    spend_365d::float8 as spend_365d, last_order_date
from analytics.customer_360
"""

COUNTRIES = """
select country, count(*) as customers
from analytics.customer_360
where country is not null
group by country
order by customers desc, country
limit 200
"""

CUSTOMER = """
select *
from analytics.customer_360
where customer_id = %(customer)s
"""

REASONS = """
select reason_rank, reason, effect, text_en, text_zh
from analytics.customer_reasons
where customer_id = %(customer)s
order by reason_rank
"""

OUTLOOK = """
select horizon_days, expected_spend::float8 as expected_spend, purchase_probability,
    churn_probability, is_judged
from analytics.customer_outlook
where customer_id = %(customer)s
order by horizon_days
"""

HISTORY = """
select tier, tier_rank, valid_from, valid_to, movement, expected_spend::float8 as expected_spend,
    decided_by
from analytics.customer_tier_history
where customer_id = %(customer)s
order by valid_from
"""

TIMELINE = """
select event_date, kind, events, amount::float8 as amount
from analytics.customer_timeline(%(customer)s)
order by event_date, kind
"""

SCOREBOARD = """
select candidate, origin, horizon_days, metric, value
from analytics.model_scoreboard
"""

CURVES = """
select candidate, kind, x, y
from analytics.model_curves
order by candidate, kind, position
"""

EVALUATION = """
select as_of_date, tier, tier_rank, customers, expected_spend::float8 as expected_spend,
    realised_spend::float8 as realised_spend, share::float8 as share, lift::float8 as lift,
    precision, recall, f1
from analytics.tier_evaluation
order by as_of_date desc, tier_rank
"""

FAILING = """
with newest as (
    select *, max(checked_at) over (partition by stage) as last_checked_at
    from analytics.data_quality
)
select stage, as_of_date, table_name, column_name, expectation, severity, observed, checked_at
from newest
where checked_at = last_checked_at and not success
order by severity, stage, table_name, expectation
"""

QUARANTINE = """
select table_name, reason, rows
from analytics.quarantine_summary
order by rows desc
"""

BRIEF = """
select as_of_date, horizon_days, sum(customers)::bigint as customers,
    sum(expected_spend)::float8 as expected_spend, sum(customers_up)::bigint as customers_up,
    sum(customers_down)::bigint as customers_down, sum(customers_new)::bigint as customers_new,
    previous_as_of_date
from analytics.tier_summary
group by as_of_date, horizon_days, previous_as_of_date
"""

FALLEN = """
select customer_id, previous_tier, tier, expected_spend::float8 as expected_spend,
    churn_probability, decided_by, reasons_en, reasons_zh
from analytics.customer_tiers
where starts_with(movement, 'down')
order by expected_spend desc, customer_id
limit 10
"""

RISEN = """
select customer_id, previous_tier, tier, expected_spend::float8 as expected_spend,
    churn_probability, decided_by, reasons_en, reasons_zh
from analytics.customer_tiers
where starts_with(movement, 'up')
order by expected_spend desc, customer_id
limit 10
"""

WHY_MOVED = """
with counted as (
    select split_part(movement, ' ', 1) as direction, reason, count(*) as customers,
        exp(avg(ln(effect))) as effect
    from analytics.customer_tiers
    inner join analytics.customer_reasons using (customer_id)
    where (starts_with(movement, 'up') and effect > 1)
        or (starts_with(movement, 'down') and effect < 1)
    group by 1, 2
),
ranked as (
    select *, row_number() over (
        partition by direction order by customers desc, reason
    ) as place
    from counted
)
select direction, reason, customers, effect
from ranked
where place <= 5
order by direction desc, place
"""

AT_RISK = """
select tier, tier_rank, count(*) as customers, sum(expected_spend)::float8 as expected_spend,
    avg(churn_probability) as churn_probability,
    sum(expected_spend::float8 / nullif(purchase_probability, 0) * churn_probability)
        as spend_at_risk
from analytics.customer_tiers
group by tier, tier_rank
order by tier_rank
"""

MOST_AT_RISK = """
select customer_id, tier, movement, expected_spend::float8 as expected_spend, churn_probability,
    expected_spend::float8 / nullif(purchase_probability, 0) * churn_probability as spend_at_risk,
    reasons_en, reasons_zh
from analytics.customer_tiers
order by spend_at_risk desc nulls last, customer_id
limit 10
"""

DRIVERS = """
select reason, count(*) as customers,
    avg((effect > 1)::integer)::float8 as raising_share, exp(avg(abs(ln(effect)))) as effect
from analytics.customer_reasons
group by reason
order by customers desc, reason
limit 15
"""

BOARD = """
select candidate,
    max(value) filter (where metric = 'normalized_gini') as normalized_gini,
    max(value) filter (where metric = 'capture_top10') as capture_top10,
    max(value) filter (where metric = 'spearman') as spearman,
    max(value) filter (where metric = 'auroc_active') as auroc_active,
    max(value) filter (where metric = 'sum_ratio') as sum_ratio,
    max(value) filter (where metric = 'mae') as mae
from analytics.model_scoreboard
where origin is null
group by candidate
order by normalized_gini desc nulls last, candidate
"""

METHOD = """
select model_name, model_version, policy_version, feature_version, horizon_days,
    count(*) as customers, count(*) - count(expected_spend_low) as customers_without_interval,
    count(*) - (
        select count(*) from analytics.customer_reasons where reason_rank = 1
    ) as customers_without_reasons
from analytics.customer_tiers
group by model_name, model_version, policy_version, feature_version, horizon_days
"""

PUBLISH_LOG = """
select published_at, action, as_of_date, version_id, previous_version_id, customers, run_id
from analytics.publish_log
order by published_at desc
limit 100
"""


@contextmanager
def snapshot(url: str) -> Iterator[Ask]:
    """A function that answers queries of one moment, their %(names)s filled with values.

    Raises TierhouseError: the server does not answer, or nothing is published.
    """
    with connect(url) as connection:
        connection.read_only = True
        connection.isolation_level = IsolationLevel.REPEATABLE_READ
        connection.execute(sql.SQL("set local statement_timeout = {}").format(sql.Literal(TIMEOUT)))

        def ask(query: str, **values: Any) -> pd.DataFrame:
            try:
                cursor = connection.execute(query.encode(), values or None)
            except psycopg.Error as error:
                raise TierhouseError(
                    f"The warehouse did not answer: {one_line(error.diag.message_primary)}. Ask "
                    f"for less, or see its log."
                ) from None
            names = [column.name for column in cursor.description or ()]
            return pd.DataFrame(cursor.fetchall(), columns=pd.Index(names))

        yield ask


class Published(NamedTuple):
    """What analysts read at this moment."""

    as_of_date: date
    horizon_days: int
    customers: int
    expected_spend: float


def published(ask: Ask) -> Published | None:
    """The published day; None before the first."""
    rows = ask(BRIEF)
    return None if rows.empty else Published(*rows.iloc[0, :4])


@dataclass(frozen=True)
class Filters:
    """Which customers: empty is all of them. movements: of MOVEMENTS; customer: how it begins."""

    tiers: Sequence[str] = ()
    segments: Sequence[str] = ()
    movements: Sequence[str] = ()
    countries: Sequence[str] = ()
    customer: str = ""

    @property
    def is_empty(self) -> bool:
        return not any(vars(self).values())

    @property
    def where(self) -> str:
        """The condition that `values` fill."""
        conditions = [
            condition
            for given, condition in (
                (self.tiers, "tier = any(%(tiers)s)"),
                (self.segments, "segment = any(%(segments)s)"),
                (self.movements, "split_part(movement, ' ', 1) = any(%(movements)s)"),
                (self.countries, "country = any(%(countries)s)"),
                (self.customer, "starts_with(customer_id, %(customer)s)"),
            )
            if given
        ]
        return " and ".join(conditions) or "true"

    @property
    def values(self) -> dict[str, Any]:
        return {
            "tiers": list(self.tiers),
            "segments": list(self.segments),
            "movements": list(self.movements),
            "countries": list(self.countries),
            "customer": self.customer,
        }


def count(ask: Ask, filters: Filters) -> tuple[int, float]:
    """How many customers these are, and what they are expected to spend."""
    is_of_tiers = replace(filters, tiers=()).is_empty
    customers, view = (
        ("sum(customers)", "tier_summary") if is_of_tiers else ("count(*)", "customer_360")
    )
    rows = ask(
        f"select coalesce({customers}, 0)::bigint as customers, "
        "coalesce(sum(expected_spend), 0)::float8 as spend "
        f"from analytics.{view} where {filters.where}",
        **filters.values,
    )
    return int(rows["customers"].iloc[0]), float(rows["spend"].iloc[0])


def find(ask: Ask, filters: Filters, rows: int) -> pd.DataFrame:
    """The customers with the highest expected spend first, at most so many."""
    # All customers come in this order from an index. Where a filter leaves few the planner would go
    # through all of it to find them; no index has the order as float8, so those are sorted.
    cast = "" if filters.is_empty else "::float8"
    return ask(
        f"{FOUND} where {filters.where} "
        f"order by customer_360.expected_spend{cast} desc, customer_id limit %(rows)s",
        **filters.values, rows=rows,
    )  # fmt: skip
