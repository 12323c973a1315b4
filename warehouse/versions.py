"""Write a version out of sight: one scoring of one day, and all that analysts will ask of it.

Its id is a hash of what went in, so the same inputs give the same version.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from psycopg import sql

from warehouse import retention
from warehouse.connections import Urls, connect, connect_bulk, one_row, read_arrow
from warehouse.settings import Refused, TierhouseError

JSON = ("reasons", "centre", "scale")  # columns that arrive as text
# Facts that people ask of a customer, as features.customer_features and scores.customer_tiers name
# them, and how they come through Arrow.
FACTS = {
    "recency_days": "integer",
    "tenure_days": "integer",
    "frequency_orders": "integer",
    "monetary_total": "float8",
    "average_order_value": "float8",
    "order_value_last": "float8",
    "orders_365d": "integer",
    "spend_365d": "float8",
    "discount_share": "float8",
    "return_share": "float8",
    "rfm_segment": "text",
    "top_category": "text",
    "country": "text",
    "region": "text",
    "acquisition_channel": "text",
    "first_order_channel": "text",
}
# Of the judged horizon's score, what stands beside the tier.
SCORE = (
    "horizon_days", "purchase_probability", "expected_spend_low", "expected_spend_high",
    "high_value_probability", "next_order_date",
)  # fmt: skip


@dataclass(frozen=True)
class Version:
    """What a scoring of a day was made from."""

    as_of_date: date
    horizon_days: int
    model_name: str
    model_version: str
    policy_version: str
    input_hash: str
    previous_version_id: str | None = None  # whose tiers it was drawn after

    @property
    def version_id(self) -> str:
        parts = (
            self.as_of_date.isoformat(), str(self.horizon_days), self.model_name,
            self.model_version, self.policy_version, self.input_hash,
            self.previous_version_id or "",
        )  # fmt: skip
        return sha256("|".join(parts).encode()).hexdigest()[:16]


def input_hash(urls: Urls, day: date) -> str:
    """A hash of every feature of this day, whatever the order of its rows.

    Raises TierhouseError: the day was not built.
    """
    with connect(urls.warehouse) as connection:
        try:
            customers, total = one_row(
                connection,
                "select count(*), sum(hashtextextended(customer_features::text, 0)::numeric) "
                "from features.customer_features where as_of_date = %s",
                day,
            )
        except psycopg.errors.UndefinedTable:
            customers, total = 0, None
    if not customers:
        raise TierhouseError(
            f"No features of {day} are built. Run `tierhouse build --as-of {day}` first."
        )
    return sha256(f"{customers}|{total}".encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Published:
    """The tiers of a published version: customer_id, tier, tier_rank, drawn_tier_rank, tier_since
    and past_border_since of each of its customers."""

    version_id: str
    as_of_date: date
    tiers: pa.Table


def keep_policy(urls: Urls, policy_version: str, policy: str) -> None:
    """Keep what a policy says (JSON), so that it can be read of every version that followed it."""
    with connect(urls.warehouse) as connection:
        connection.execute(
            "insert into ops.policies (policy_version, policy) values (%s, %s::jsonb) "
            "on conflict (policy_version) do nothing",
            [policy_version, policy],
        )


def unknown_customers(urls: Urls, customers: Sequence[str]) -> list[str]:
    """Those of these pseudonyms that no row of the shop has."""
    with connect(urls.warehouse) as connection:
        found = connection.execute(
            "select customer_id from unnest(%s::text[]) as wanted (customer_id) where not exists ("
            "select from raw.order_lines where order_lines.customer_id = wanted.customer_id)",
            [list(customers)],
        ).fetchall()
    return sorted(customer for (customer,) in found)


class Begun(NamedTuple):
    """A scoring that has begun: its fencing token, and what its tiers are drawn after."""

    fencing_token: int
    previous: Published | None

    @property
    def previous_version_id(self) -> str | None:
        return None if self.previous is None else self.previous.version_id


def begin(urls: Urls, day: date) -> Begun:
    """Take a fencing token, and read what the tiers of this day are drawn after."""
    with connect(urls.warehouse) as connection:
        (token,) = one_row(connection, "select nextval('ops.fencing_tokens')")
    return Begun(token, published_before(urls, day))


def published_before(urls: Urls, day: date) -> Published | None:
    """The newest published version of an earlier day.

    What was rolled back is not published any more; nor is a version found whose rows are pruned.
    """
    with connect(urls.warehouse) as connection:
        found = connection.execute(
            "select version_id, as_of_date from ops.published_chain "
            "inner join ops.versions as versions using (version_id, as_of_date) "
            "where as_of_date < %s and pruned_at is null order by as_of_date desc limit 1",
            [day],
        ).fetchone()
    if found is None:
        return None
    version_id, as_of_date = found
    tiers = read_arrow(
        urls.warehouse,
        "select customer_id, tier, tier_rank, drawn_tier_rank, tier_since, past_border_since "
        "from scores.customer_tiers where version_id = $1",
        [version_id],
    )
    return Published(version_id, as_of_date, tiers)


class Day(NamedTuple):
    """What is known of a day's customers beside their scores: FACTS by customer_id, and who came
    back by cohort, as scores.cohort_retention has it."""

    facts: pa.Table
    cohorts: pa.Table


def read_day(urls: Urls, day: date) -> Day:
    """Facts and cohorts of a day that is built. Read them while no build runs."""
    selected = ", ".join(f"{name}::{kind} as {name}" for name, kind in FACTS.items())
    facts = read_arrow(
        urls.warehouse,
        f"select customer_id, {selected} from features.customer_features "
        f"where as_of_date = $1::date",
        [day.isoformat()],
    )
    cohorts = read_arrow(
        urls.warehouse,
        """
        with

        customers as (
            select customer_id, cohort_month
            from features.customer_features
            where as_of_date = $1::date
        ),

        sizes as (
            select cohort_month, count(*) as customers
            from customers
            group by cohort_month
        ),

        months as (
            select
                cohort_month,
                month::date as month,
                (
                    12 * (extract(year from month) - extract(year from cohort_month))
                    + extract(month from month) - extract(month from cohort_month)
                )::integer as months_since,
                sizes.customers
            from sizes
            cross join lateral generate_series(
                cohort_month::timestamp, $1::date - interval '1 month', '1 month'
            ) as month
        ),

        activity as (
            select
                cohort_month,
                date_trunc('month', order_date)::date as month,
                count(distinct customer_id) filter (where orders > 0) as active_customers,
                sum(net_spend) as spend
            from intermediate.int_customer_days
            inner join customers using (customer_id)
            where order_date < $1::date and known_on <= $1::date
            group by 1, 2
        )

        select
            cohort_month,
            months_since,
            customers,
            coalesce(active_customers, 0) as active_customers,
            coalesce(spend, 0)::float8 as spend
        from months
        left join activity using (cohort_month, month)
        """,
        [day.isoformat()],
    )
    return Day(facts, cohorts)


def write_version(
    urls: Urls,
    version: Version,
    scores: pa.Table | pa.RecordBatchReader,
    tiers: pa.Table,
    segments: Mapping[str, pa.Table] | None = None,
    day: Day | None = None,
    fencing_token: int | None = None,
    run_id: str | None = None,
) -> bool:
    """Write one version in one transaction, replacing what it had. Nobody sees it yet.

    A version that was published is not written again while its rows are kept, as its inputs are the
    same: then False, and it has to pass its gate again to be published again.

    `scores`: customer_id, horizon_days, expected_spend, purchase_probability, reasons (text: a JSON
    list), and any other column of scores.customer_scores, as schema.sql describes them; one row per
    customer and horizon. `tiers`: customer_id, tier, tier_rank, expected_spend, and any other
    column of scores.customer_tiers; one row per customer. `segments`: by their names, the tables of
    scores that say who shops alike, without their version. `fencing_token`: of `begin`; without one
    the scoring begins now.
    Raises Refused: a scoring that began later has written this version.
    """
    version_id = version.version_id
    with connect_bulk(urls.warehouse) as connection, connection.cursor() as cursor:
        if fencing_token is None:
            ((fencing_token,),) = _rows(cursor, "select nextval('ops.fencing_tokens')")
        cursor.execute(  # and hold its row: whoever writes or publishes it waits
            "insert into ops.versions (version_id, as_of_date, horizon_days, model_name, "
            "model_version, policy_version, input_hash, previous_version_id, customers, "
            "feature_version) values ($1, $2::date, $3, $4, $5, $6, $7, $8, 0, "
            "(select left(fingerprint, 16) from ops.consumed where target = 'postgres')) "
            "on conflict (version_id) do update set customers = versions.customers",
            (version_id, version.as_of_date.isoformat(), version.horizon_days,
             version.model_name, version.model_version, version.policy_version,
             version.input_hash, version.previous_version_id),
        )  # fmt: skip
        ((newest_token, was_published),) = _rows(
            cursor,
            "select coalesce(fencing_token, 0), pruned_at is null and exists ("
            "select from ops.publish_log where publish_log.version_id = versions.version_id) "
            "from ops.versions where version_id = $1",
            version_id,
        )
        if newest_token > fencing_token:
            raise Refused(
                f"A scoring of {version.as_of_date} that began later has already written version "
                f"{version_id}, so this one wrote nothing."
            )
        if not was_published:
            _write_rows(cursor, version, scores, tiers, segments, day)
        cursor.execute(
            "update ops.versions set scored_at = clock_timestamp(), fencing_token = $1, "
            "run_id = $2 where version_id = $3",
            (fencing_token, run_id, version_id),
        )
    return not was_published


def _write_rows(
    cursor: dbapi.Cursor,
    version: Version,
    scores: pa.Table | pa.RecordBatchReader,
    tiers: pa.Table,
    segments: Mapping[str, pa.Table] | None,
    day: Day | None,
) -> None:
    # Partitions and what fills them take no parameters. What stands in their text are names of ours
    # and of the columns given, a version id of hexadecimal digits, a date, and quoted literals.
    version_id = version.version_id
    given = f"'{version_id}' as version_id, date '{version.as_of_date}' as as_of_date"
    names = scores.schema.names
    _ingest(cursor, "incoming_scores", scores)
    _ingest(cursor, "incoming_tiers", tiers)
    values = ", ".join(f"{name}::jsonb" if name in JSON else name for name in names)
    _fill(
        cursor, version, "customer_scores", "customer_id, horizon_days",
        ["version_id", "as_of_date", "model_name", "model_version", *names],
        f"select {given}, {_literal(version.model_name)}, {_literal(version.model_version)}, "
        f"{values} from incoming_scores",
    )  # fmt: skip
    beside = [name for name in SCORE if name in names]
    columns = [
        *(f"tiers.{name}" for name in tiers.schema.names), *(f"scores.{name}" for name in beside),
    ]  # fmt: skip
    joined = (
        "from incoming_tiers as tiers left join incoming_scores as scores "
        "on scores.customer_id = tiers.customer_id "
        f"and scores.horizon_days = {version.horizon_days}"
    )
    if day is not None:
        _ingest(cursor, "incoming_facts", day.facts)
        columns += [f"facts.{name}" for name in FACTS]
        joined += " left join incoming_facts as facts on facts.customer_id = tiers.customer_id"
    _fill(
        cursor, version, "customer_tiers", "customer_id",
        ["version_id", "as_of_date", "policy_version",
         *(name.partition(".")[2] for name in columns)],
        f"select {given}, {_literal(version.policy_version)}, {', '.join(columns)} {joined} "
        f"order by tiers.customer_id",
    )  # fmt: skip
    for table, rows in (segments or {}).items():
        columns = rows.schema.names
        _ingest(cursor, f"incoming_{table}", rows)
        values = ", ".join(f"{name}::jsonb" if name in JSON else name for name in columns)
        if table in retention.TABLES:
            _fill(
                cursor, version, table, "customer_id", ["version_id", "as_of_date", *columns],
                f"select {given}, {values} from incoming_{table} order by customer_id",
            )  # fmt: skip
        else:
            cursor.execute(f"delete from scores.{table} where version_id = $1", (version_id,))
            cursor.execute(
                f"insert into scores.{table} (version_id, {', '.join(columns)}) "
                f"select '{version_id}', {values} from incoming_{table}"
            )
    for table in ("tier_changes", "tier_totals", "tier_migrations", "cohort_retention"):
        cursor.execute(f"delete from scores.{table} where version_id = $1", (version_id,))
    rows = f"from scores.{retention.partition('customer_tiers', version_id)}"
    cursor.execute(
        "insert into scores.tier_changes select version_id, as_of_date, customer_id, tier, "
        f"tier_rank, previous_tier, previous_tier_rank, expected_spend, decided_by {rows} "
        "where tier is distinct from previous_tier"
    )
    cursor.execute(
        "insert into scores.tier_totals select version_id, tier, tier_rank, count(*), "
        f"sum(expected_spend), avg(purchase_probability) {rows} group by 1, 2, 3"
    )
    cursor.execute(
        "insert into scores.tier_migrations select version_id, previous_tier, "
        f"previous_tier_rank, tier, tier_rank, count(*), sum(expected_spend) {rows} "
        "group by 1, 2, 3, 4, 5"
    )
    if day is not None:
        _ingest(cursor, "incoming_cohorts", day.cohorts)
        cursor.execute(
            "insert into scores.cohort_retention select "
            f"'{version_id}', cohort_month, months_since, customers, active_customers, spend "
            "from incoming_cohorts"
        )
    found = _rows(cursor, rows_query(version_id))
    counts = {table: rows for table, rows, _ in found}
    cursor.execute(
        "update ops.versions set customers = $1, row_counts = $2::jsonb, checksum = $3, "
        "pruned_at = null where version_id = $4",
        (tiers.num_rows, json.dumps(counts), checksum_of(found), version_id),
    )


def _fill(
    cursor: dbapi.Cursor, version: Version, table: str, key: str, columns: Sequence[str], query: str
) -> None:
    """Put the rows of a query in the version's part of a table.

    A new part is filled and indexed on its own, and only then attached: no reader waits. Names and
    keys are this module's, the version's id is 16 hexadecimal digits: DDL takes no parameters.
    """
    version_id = version.version_id
    part = f"scores.{retention.partition(table, version_id)}"
    insert = f"insert into {part} ({', '.join(columns)}) {query}"
    ((is_there,),) = _rows(cursor, f"select to_regclass('{part}') is not null")
    if is_there:
        cursor.execute(f"delete from {part}")
        cursor.execute(insert)
        return
    cursor.execute(
        f"create table {part} (like scores.{table} including defaults including generated "
        f"including constraints, constraint is_of_version check (version_id = '{version_id}'))"
    )
    cursor.execute(insert)
    cursor.execute(f"alter table {part} add primary key (version_id, {key})")
    cursor.execute(f"analyze {part}")
    cursor.execute(
        f"alter table scores.{table} attach partition {part} for values in ('{version_id}')"
    )


def _ingest(cursor: dbapi.Cursor, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
    cursor.adbc_ingest(name, rows, mode="create", temporary=True)
    cursor.execute(f"analyze pg_temp.{name}")  # or its joins are planned for a thousand rows


def _rows(cursor: dbapi.Cursor, query: str, *parameters: Any) -> list[tuple]:
    cursor.execute(query, parameters or None)
    return cursor.fetchall()


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def rows_query(version_id: str) -> str:
    """Of every table with a part for the version: how many rows, and a sum of their hashes."""
    return " union all ".join(
        f"select '{table}', count(*), sum(hash_record_extended(part, 0))::text "
        f"from scores.{table} as part where version_id = '{version_id}'"
        for table in retention.TABLES
    )


def checksum_of(found: list[tuple]) -> str:
    """Of what `rows_query` found."""
    return sha256(repr(sorted(map(tuple, found))).encode()).hexdigest()[:16]
