"""Publish a version by moving one pointer: analysts never see one that no gate has passed.

Every scoring takes a fencing token when it begins, and so does a rollback. The pointer never moves
to a version whose token is older than the one it shows (M. Kleppmann, "How to do distributed
locking", 2016): whoever was slow, or was drawn after what has been rolled back, has to score again.
"""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import psycopg

from warehouse import retention, versions
from warehouse.connections import Urls, connect, one_row
from warehouse.settings import Refused, TierhouseError


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
        return _newest_version(connection, day)


def _newest_version(connection: psycopg.Connection, day: date) -> Scored:
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


def publish(urls: Urls, day: date, keep: int, run_id: str | None = None) -> str:
    """Let analysts see the newest scored version of this day; say what was done in one sentence.

    Its rows are compared with what was scored, then one pointer is moved, then the rows of all but
    the `keep` newest versions are dropped.
    Raises Refused: the version did not pass its gate since it was scored, something newer is
    published, or its rows are not those that were scored.
    """
    with connect(urls.warehouse) as connection:
        scored = _newest_version(connection, day)
        _refuse_other_rows(connection, scored.version_id, day)
        connection.commit()  # the move is a transaction of its own
        said = _move(connection, scored, day, run_id)
    retention.prune(urls, keep)
    return said


def _refuse_other_rows(connection: psycopg.Connection, version_id: str, day: date) -> None:
    checksum, pruned_at = one_row(
        connection,
        "select checksum, pruned_at from ops.versions where version_id = %s",
        version_id,
    )
    found = connection.execute(versions.rows_query(version_id).encode()).fetchall()
    if pruned_at is not None or (checksum is not None and versions.checksum_of(found) != checksum):
        why = "are not those that were scored" if pruned_at is None else "were dropped as too old"
        raise Refused(
            f"The rows of version {version_id} of {day} {why}, so it is not published. Score the "
            f"day again: `tierhouse score --as-of {day}`."
        )


def _move(connection: psycopg.Connection, scored: Scored, day: date, run_id: str | None) -> str:
    """The transaction that moves the pointer, to its commit."""
    version = scored.version_id
    connection.execute("select pg_advisory_xact_lock(hashtextextended('publish', 0))")
    customers, token, gated = one_row(
        connection,
        "select customers, coalesce(fencing_token, 0), "
        "coalesce(gated_at >= scored_at, false) and scored_at = %s "
        "from ops.versions where version_id = %s for share",
        scored.scored_at,
        version,
    )
    current = connection.execute(
        "select version_id, as_of_date, published.fencing_token, published.published_at "
        "from ops.published as published inner join ops.versions using (version_id)"
    ).fetchone()
    if current is not None and current[0] == version:
        return f"Version {version} of {day} is already published: nothing changed."
    if not gated:
        raise Refused(
            f"Version {version} of {day} has not passed its gate since it was scored, so it "
            f"is not published. Run `tierhouse check tiers --as-of {day}`, and mend what it "
            f"names."
        )
    if current is not None and current[1] > day:
        return (
            f"Version {version} of {day} is kept, and analysts go on reading {current[1]}, "
            f"which is newer."
        )
    if current is not None and token < current[2]:
        raise Refused(
            f"The scoring of version {version} of {day} began before what analysts read since "
            f"{current[3]:%Y-%m-%d %H:%M} UTC was decided (version {current[0]} of "
            f"{current[1]}), so it would overwrite something newer. Score the day again: "
            f"`tierhouse score --as-of {day}`."
        )
    _point(connection, version, token, "publish", None if current is None else current[0], run_id)
    connection.commit()
    return f"Version {version} of {day} is published: {customers:,} customers."


def rollback(urls: Urls, run_id: str | None = None) -> str:
    """Let analysts read again what they read before the current version was published.

    What was scored until now can no longer be published without being scored again: it was drawn
    after the version that is taken back, or is that version.
    Raises Refused: there is no earlier version, or its rows are gone.
    """
    with connect(urls.warehouse) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('publish', 0))")
        current = connection.execute(
            "select version_id, as_of_date from ops.published "
            "inner join ops.versions using (version_id)"
        ).fetchone()
        before = retention.before_current(connection)
        if current is None or before is None:
            raise Refused(
                "There is no earlier version to go back to: "
                + ("nothing is published." if current is None else
                   f"version {current[0]} of {current[1]} is the first.")
            )  # fmt: skip
        customers, pruned_at = one_row(
            connection,
            "select customers, pruned_at from ops.versions where version_id = %s for share",
            before[0],
        )
        if pruned_at is not None:
            raise Refused(
                f"The rows of version {before[0]} of {before[1]} were dropped as too old "
                f"(TIERHOUSE_KEEP_VERSIONS), so there is nothing to go back to. Score that day "
                f"again."
            )
        (token,) = one_row(connection, "select nextval('ops.fencing_tokens')")
        _point(connection, before[0], token, "rollback", current[0], run_id)
    return (
        f"Analysts read version {before[0]} of {before[1]} again: {customers:,} customers. "
        f"Version {current[0]} of {current[1]} is taken back, and whatever was scored before now "
        f"has to be scored again to be published."
    )


def _point(
    connection: psycopg.Connection,
    version_id: str,
    token: int,
    action: str,
    previous: str | None,
    run_id: str | None,
) -> None:
    connection.execute(
        "insert into ops.published (version_id, fencing_token) values (%s, %s) "
        "on conflict (only_row) do update set version_id = excluded.version_id, "
        "fencing_token = excluded.fencing_token, published_at = excluded.published_at",
        [version_id, token],
    )
    connection.execute(
        "insert into ops.publish_log (published_at, version_id, previous_version_id, customers, "
        "action, run_id, as_of_date, model_name, model_version, policy_version, input_hash, "
        "fencing_token, row_counts, checksum) select clock_timestamp(), version_id, %s, customers, "
        "%s, %s, as_of_date, model_name, model_version, policy_version, input_hash, %s, "
        "row_counts, checksum from ops.versions where version_id = %s",
        [previous, action, run_id, token, version_id],
    )
