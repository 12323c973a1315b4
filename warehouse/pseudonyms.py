"""The key behind the pseudonyms of customers: who is who, and another key for all of them."""

import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from hmac import digest
from shutil import rmtree

import psycopg
from adbc_driver_postgresql import dbapi
from psycopg import sql

from warehouse.connections import connect
from warehouse.contract import TABLES
from warehouse.settings import DUCKDB_FILE, Refused, Settings, TierhouseError

# The identifier in the column `written`. 17850 that went through a float is 17850.0: the same.
IDENTIFIER = (
    "nullif(regexp_replace(trim(written, ' ' || chr(9) || chr(10) || chr(13)), "
    r"'^([0-9]+)[.]0+$', '\1'), '')"
)
SECRET, NEXT_SECRET = "pseudonyms", "pseudonyms.next"


def identifier(written: str) -> str:
    """A customer's identifier as the files mean it; in SQL it is IDENTIFIER."""
    return re.sub(r"^([0-9]+)[.]0+$", r"\1", written.strip(" \t\r\n"))


def pseudonym(key: bytes, source_customer_id: str) -> str:
    """The first 128 bits of HMAC-SHA-256 (RFC 2104), as 32 hexadecimal digits."""
    return digest(key, source_customer_id.encode(), sha256).hex()[:32]


def read_key(settings: Settings, url: str) -> bytes:
    """The installation's key. Ends a change of keys that was killed, whichever way it went."""
    coming = settings.secret_file(NEXT_SECRET)
    if coming.exists():
        with connect(url) as connection:
            # Held while the keys change; afterwards the warehouse says which key is its own.
            connection.execute("select pg_advisory_xact_lock(hashtextextended('load', 0))")
            held = connection.execute("select fingerprint from pii.key_fingerprint").fetchone()
            if coming.exists() and held == (fingerprint(coming.read_text().encode()),):
                coming.replace(settings.secret_file(SECRET))
                _forget_copy(settings)
            else:
                coming.unlink(missing_ok=True)
    return settings.secret(SECRET).encode()


def fingerprint(key: bytes) -> str:
    """Tells keys apart without telling them: 16 hexadecimal digits."""
    return digest(key, b"fingerprint", sha256).hex()[:16]


def refuse_other_key(cursor: dbapi.Cursor, key: bytes) -> None:
    """Note which key makes this warehouse's pseudonyms, or hold to the one that is noted.

    Raises TierhouseError: the warehouse's customers are known by pseudonyms of another key.
    """
    mark = fingerprint(key)
    cursor.execute(
        "insert into pii.key_fingerprint (fingerprint) values ($1) on conflict do nothing", (mark,)
    )
    cursor.execute("select fingerprint from pii.key_fingerprint")
    _hold_to(cursor.fetchall(), key)


def _hold_to(noted: Sequence[tuple], key: bytes) -> None:
    if list(noted) != [(fingerprint(key),)]:
        raise TierhouseError(
            "The customers of this warehouse are known by pseudonyms of another key, so the same "
            "customer would get a second one. Use the TIERHOUSE_HOME that loaded them, or copy "
            "its file secrets/pseudonyms."
        )


def look_up(url: str, source_customer_id: str) -> str:
    """The pseudonym of one of the shop's customers.

    Raises Refused: this role may not read the schema pii. TierhouseError: no such customer.
    """
    with connect(url) as connection:
        try:
            found = connection.execute(
                "select customer_id from pii.customer_ids where source_customer_id = %s",
                [identifier(source_customer_id)],
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            raise Refused(
                "This role may not read the schema pii. Who looks customers up needs the role "
                "pii_reader: `grant pii_reader to …`."
            ) from None
    if found is None:
        raise TierhouseError(
            f"No customer {source_customer_id!r} was loaded. The identifier is the one in the "
            f"shop's own files."
        )
    return found[0]


def rotate(settings: Settings, url: str) -> int:
    """Make a new key and give every customer the pseudonym it makes, in one transaction.

    Returns how many customers have a new pseudonym. Readers see the old ones or the new ones.
    """
    key = read_key(settings, url)
    with connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended('load', 0))")
        noted = cursor.execute("select fingerprint from pii.key_fingerprint").fetchall()
        if noted:
            _hold_to(noted, key)
        new_key = settings.secret(NEXT_SECRET).encode()
        cursor.execute("select customer_id, source_customer_id from pii.customer_ids")
        known = cursor.fetchall()
        cursor.execute(
            "create temporary table renamed (old text primary key, new text not null) "
            "on commit drop"
        )
        with cursor.copy("copy renamed (old, new) from stdin") as copy:
            for old, source_customer_id in known:
                copy.write_row((old, pseudonym(new_key, source_customer_id)))
        cursor.execute(
            "select tables.table_schema, tables.table_name from information_schema.columns "
            "inner join information_schema.tables using (table_schema, table_name) "
            "where column_name = 'customer_id' and table_type = 'BASE TABLE' "
            "and table_schema = any(%s)",
            [["raw", "pii", "staging", "intermediate", "features", "scores", "analytics"]],
        )
        for schema, table in cursor.fetchall():
            name = sql.Identifier(schema, table)
            is_watched = schema == "raw" and table in TABLES
            if is_watched:  # noted below, for all at once
                cursor.execute(sql.SQL("alter table {} disable trigger note_update").format(name))
            cursor.execute(
                sql.SQL(
                    "update {} as target set customer_id = renamed.new from renamed "
                    "where renamed.old = target.customer_id"
                ).format(name)
            )
            if is_watched:
                cursor.execute(sql.SQL("alter table {} enable trigger note_update").format(name))
        # No engine knows anybody by the new names: each builds everything again.
        cursor.execute("delete from ops.changes")
        cursor.execute("delete from ops.touched_customers")
        cursor.execute(
            "insert into ops.changes (table_name, is_whole) select unnest(%s::text[]), true",
            [[*TABLES]],
        )
        cursor.execute(
            "update raw.superseded set row = jsonb_set(row, '{customer_id}', to_jsonb(new)), "
            "key = case table_name when 'customers' then jsonb_build_array(new)::text else key end "
            "from renamed where old = row ->> 'customer_id'"
        )
        cursor.execute(
            "update quarantine.rows as target set raw_row = renewed.raw_row from ("
            "select rows.ctid as place, jsonb_object_agg(field, "
            "coalesce(to_jsonb(new), value)) as raw_row from quarantine.rows as rows "
            "cross join jsonb_each(rows.raw_row) as fields (field, value) "
            "left join renamed on old = value #>> '{}' group by rows.ctid"
            ") as renewed where renewed.place = target.ctid"
        )
        cursor.execute("update pii.key_fingerprint set fingerprint = %s", [fingerprint(new_key)])
    _forget_copy(settings)
    with suppress(FileNotFoundError):  # another process was first, in read_key
        settings.secret_file(NEXT_SECRET).replace(settings.secret_file(SECRET))
    return len(known)


def _forget_copy(settings: Settings) -> None:
    """The DuckDB file has the old pseudonyms; the next build makes it again."""
    rmtree((settings.home / DUCKDB_FILE).parent, ignore_errors=True)
