"""Write scores out of sight, and publish a version by moving one pointer.

A version is one scoring of one day. Its id is a hash of what went in, so the same inputs give the
same version, and analysts never see a version that is being written or that no gate has passed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import sha256
from typing import Any

import psycopg
import pyarrow as pa

from warehouse.connections import Urls, connect, connect_bulk, one_row
from warehouse.settings import Refused, TierhouseError

JSON = ("reasons", "centre", "scale")  # columns that arrive as text


@dataclass(frozen=True)
class Version:
    """What a scoring of a day was made from."""

    as_of_date: date
    horizon_days: int
    model_name: str
    model_version: str
    policy_version: str
    input_hash: str

    @property
    def version_id(self) -> str:
        parts = (
            self.as_of_date.isoformat(), str(self.horizon_days), self.model_name,
            self.model_version, self.policy_version, self.input_hash,
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


def version_before(urls: Urls, day: date) -> str | None:
    """The newest version of an earlier day that analysts have read, None where there is none."""
    with connect(urls.warehouse) as connection:
        row = connection.execute(
            "select version_id from ops.publish_log join ops.versions using (version_id) "
            "where as_of_date < %s order by as_of_date desc, published_at desc limit 1",
            [day],
        ).fetchone()
    return None if row is None else row[0]


def write_version(
    urls: Urls,
    version: Version,
    scores: pa.Table | pa.RecordBatchReader,
    tiers: pa.Table,
    segments: Mapping[str, pa.Table] | None = None,
) -> bool:
    """Write one version's scores, tiers and segments in one transaction, replacing what it had.

    The version that analysts read is not written again, as its inputs are the same: then False.

    `scores`: customer_id, horizon_days, expected_spend, purchase_probability, reasons (text: a JSON
    list), and any other column of scores.customer_scores, as schema.sql describes them; one row per
    customer and horizon. `tiers`: customer_id, tier, tier_rank, expected_spend; one row per
    customer. `segments`: by their names, the tables of scores that say who shops alike.
    """
    constants: dict[str, Any] = {
        "version_id": version.version_id,
        "as_of_date": version.as_of_date.isoformat(),
        "model_name": version.model_name,
        "model_version": version.model_version,
        "policy_version": version.policy_version,
    }
    with connect_bulk(urls.warehouse) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('publish', 0))")
        cursor.fetchall()
        cursor.execute("select from ops.published where version_id = $1", (version.version_id,))
        if cursor.fetchall():
            cursor.execute(
                "update ops.versions set scored_at = clock_timestamp() where version_id = $1",
                (version.version_id,),
            )
            return False
        cursor.execute(
            "insert into ops.versions (version_id, as_of_date, horizon_days, model_name, "
            "model_version, policy_version, input_hash, customers, feature_version) "
            "values ($1, $2::date, $3, $4, $5, $6, $7, $8, (select left(fingerprint, 16) "
            "from ops.consumed where target = 'postgres')) "
            "on conflict (version_id) do update "
            "set scored_at = clock_timestamp(), customers = excluded.customers",
            (version.version_id, version.as_of_date.isoformat(), version.horizon_days,
             version.model_name, version.model_version, version.policy_version,
             version.input_hash, tiers.num_rows),
        )  # fmt: skip
        scored = ("version_id", "as_of_date", "model_name", "model_version")
        tiered = ("version_id", "as_of_date", "policy_version")
        for table, rows, given in (
            ("customer_scores", scores, scored),
            ("customer_tiers", tiers, tiered),
            *((table, rows, ("version_id",)) for table, rows in (segments or {}).items()),
        ):
            names = ", ".join(rows.schema.names)
            values = ", ".join(
                f"{name}::jsonb" if name in JSON else name for name in rows.schema.names
            )
            cursor.adbc_ingest(f"incoming_{table}", rows, mode="create", temporary=True)
            cursor.execute(
                f"delete from scores.{table} where version_id = $1", (version.version_id,)
            )
            places = (
                f"${place}::date" if name == "as_of_date" else f"${place}"
                for place, name in enumerate(given, 1)
            )
            cursor.execute(
                f"insert into scores.{table} ({names}, {', '.join(given)}) "
                f"select {values}, {', '.join(places)} from pg_temp.incoming_{table} order by 1",
                tuple(constants[name] for name in given),
            )
    return True


@dataclass(frozen=True)
class Scored:
    """A version as it was written at one time; written again, it has to pass its gate again."""

    version_id: str
    scored_at: datetime


def newest_version(urls: Urls, day: date) -> Scored:
    """The version of this day that was scored last.

    Raises TierhouseError: the day was not scored.
    """
    with connect(urls.warehouse) as connection:
        row = connection.execute(
            "select version_id, scored_at from ops.versions where as_of_date = %s "
            "order by scored_at desc limit 1",
            [day],
        ).fetchone()
    if row is None:
        raise TierhouseError(
            f"No scores of {day} are written. Run `tierhouse score --as-of {day}` first."
        )
    return Scored(*row)


def record_gate(
    urls: Urls, rows: list[dict[str, Any]], scored: Scored | None, passed: bool
) -> None:
    """Keep a gate's results, and its verdict on the version, unless that was written anew since."""
    with connect(urls.warehouse) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into ops.gate_results (stage, as_of_date, version_id, table_name, expectation, "
            "column_name, severity, success, observed) values (%(stage)s, %(as_of_date)s, "
            "%(version_id)s, %(table_name)s, %(expectation)s, %(column_name)s, %(severity)s, "
            "%(success)s, %(observed)s)",
            rows,
        )
        if scored is not None:
            cursor.execute(
                "update ops.versions set gated_at = case when %s then clock_timestamp() end "
                "where version_id = %s and scored_at = %s",
                [passed, scored.version_id, scored.scored_at],
            )


def publish(urls: Urls, day: date) -> str:
    """Let analysts see the newest scored version of this day; say what was done in one sentence.

    Raises Refused: the version did not pass its gate since it was scored.
    """
    version = newest_version(urls, day).version_id
    with connect(urls.warehouse) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('publish', 0))")
        customers, gated = one_row(
            connection,
            "select customers, gated_at >= scored_at from ops.versions where version_id = %s",
            version,
        )
        if not gated:
            raise Refused(
                f"Version {version} of {day} has not passed its gate since it was scored, so it "
                f"is not published. Run `tierhouse check tiers --as-of {day}`, and mend what it "
                f"names."
            )
        current = connection.execute(
            "select version_id, as_of_date from ops.published join ops.versions using (version_id)"
        ).fetchone()
        if current is not None and current[0] == version:
            return f"Version {version} of {day} is already published: nothing changed."
        if current is not None and current[1] > day:
            return (
                f"Version {version} of {day} is kept, and analysts go on reading {current[1]}, "
                f"which is newer."
            )
        connection.execute(
            "insert into ops.published (version_id) values (%s) on conflict (only_row) "
            "do update set version_id = excluded.version_id, published_at = now()",
            [version],
        )
        connection.execute(
            "insert into ops.publish_log (version_id, previous_version_id, customers) "
            "values (%s, %s, %s)",
            [version, current and current[0], customers],
        )
    return f"Version {version} of {day} is published: {customers:,} customers."
