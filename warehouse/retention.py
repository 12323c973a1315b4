"""Which versions keep their rows, and how the others lose them without a reader waiting."""

from collections.abc import Sequence

import psycopg
from psycopg import sql

from warehouse.connections import Urls, connect

# The tables with a part for every version. What else a version has is small, and stays.
TABLES = ("customer_scores", "customer_tiers", "customer_segments")


def partition(table: str, version_id: str) -> str:
    """The name of a version's part of a table of scores."""
    return f"{table}_{version_id}"


def before_current(connection: psycopg.Connection) -> tuple[str, str] | None:
    """What analysts read before what they read now, as (version_id, as_of_date).

    The version that stood there when the current one was published last: after a rollback, the
    one before that.
    """
    return connection.execute(
        "select versions.version_id, versions.as_of_date from ops.published "
        "inner join ops.publish_log as log using (version_id) "
        "inner join ops.versions as versions on versions.version_id = log.previous_version_id "
        "where log.action = 'publish' order by log.published_at desc limit 1"
    ).fetchone()


def prune(urls: Urls, keep: int) -> Sequence[str]:
    """Drop the rows of versions that are too old, and return their ids.

    Kept are the `keep` that analysts read last, the current one and the one before it always, and
    of those never published the `keep` that were scored last. Killed or kept waiting by a long
    query, it is completed by the next.
    """
    with connect(urls.warehouse, autocommit=True) as connection:
        (is_ours,) = connection.execute(
            "select pg_try_advisory_lock(hashtextextended('prune', 0))"
        ).fetchone() or (False,)
        if not is_ours:
            return []
        pruned = _mark(connection, keep)
        connection.execute("set lock_timeout = '1s'")
        for name, is_attached, is_pending, parent in connection.execute(
            "select parts.relname, inhrelid is not null, inhdetachpending, parents.relname "
            "from pg_class as parts "
            "inner join ops.versions as versions on versions.pruned_at is not null "
            "and parts.relname = any(select unnest(%s::text[]) || '_' || versions.version_id) "
            "left join pg_inherits on inhrelid = parts.oid "
            "left join pg_class as parents on parents.oid = inhparent "
            "where parts.relnamespace = 'scores'::regnamespace and parts.relkind = 'r' "
            "order by inhdetachpending desc nulls last",
            [list(TABLES)],
        ).fetchall():
            part = sql.Identifier("scores", name)
            try:
                if is_attached:
                    connection.execute(
                        sql.SQL("alter table {} detach partition {} {}").format(
                            sql.Identifier("scores", parent),
                            part,
                            sql.SQL("finalize" if is_pending else "concurrently"),
                        )
                    )
                connection.execute(sql.SQL("drop table {}").format(part))
            except (
                psycopg.errors.LockNotAvailable,  # somebody still reads it
                psycopg.errors.ObjectNotInPrerequisiteState,  # another part waits for a reader
            ):
                continue
    return pruned


def _mark(connection: psycopg.Connection, keep: int) -> Sequence[str]:
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(hashtextextended('publish', 0))")
        before = before_current(connection)
        return [
            version_id
            for (version_id,) in connection.execute(
                """
                with

                shown as (
                    select version_id, max(published_at) as shown_at
                    from ops.publish_log
                    group by version_id
                ),

                kept as (
                    (select version_id from shown order by shown_at desc limit %(keep)s)
                    union all
                    (
                        select version_id
                        from ops.versions
                        where pruned_at is null
                            and version_id not in (select version_id from shown)
                        order by scored_at desc
                        limit %(keep)s
                    )
                    union all
                    select version_id from ops.published
                    union all
                    select %(before)s
                )

                update ops.versions set pruned_at = clock_timestamp()
                where pruned_at is null
                    and version_id not in (
                        select version_id from kept where version_id is not null
                    )
                returning version_id
                """,
                {"keep": keep, "before": before and before[0]},
            )
        ]
