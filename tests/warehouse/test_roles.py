"""Who may do what: every role against every relation and every verb, after a build."""

from collections.abc import Iterator

import psycopg
import pytest
import simulated

from warehouse import building, embedded
from warehouse.connections import Urls, open_warehouse
from warehouse.settings import Settings

# Written down a second time, on purpose: a change of warehouse.connections.GRANTS has to be meant.
MAY_READ = {
    "analyst": {"analytics"},
    "data_scientist": {"analytics", "features", "scores", "intermediate", "ops"},
    "pii_reader": {"analytics", "pii"},
}
VERBS = {
    "select": "select 1 from {} limit 1",
    "insert": "insert into {} default values",
    "update": "update {0} set {1} = {1}",
    "delete": "delete from {}",
    "truncate": "truncate {}",
}
RELATIONS = """
select nspname, format('%I.%I', nspname, relname), (
    select quote_ident(attname) from pg_attribute
    where attrelid = pg_class.oid and attnum > 0 and not attisdropped
    order by attidentity <> '' or attgenerated <> '', attnum limit 1
)
from pg_class
inner join pg_namespace on pg_namespace.oid = relnamespace
where relkind in ('r', 'p', 'v', 'm')
    and nspname !~ '^pg_' and nspname <> 'information_schema'
order by 2
"""
# A view over several tables takes no rows from anybody, whatever their rights.
REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectNotInPrerequisiteState,
           psycopg.errors.WrongObjectType)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Iterator[tuple[Settings, Urls]]:
    """A day that dbt built, in an installation with roles: somebody had granted far too much."""
    settings = Settings(home=tmp_path_factory.mktemp("roles"), warehouse_url=None)
    urls = open_warehouse(settings)
    tables = simulated.shop(customers=20)
    simulated.land_shop(urls.warehouse, tables)
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute("grant usage on schema raw, pii to analyst")
        connection.execute("grant select on pii.customers, raw.order_lines to analyst")
        connection.execute("grant insert, truncate on ops.published to data_scientist")
    building.build(urls, [simulated.CLOSED], settings.home)
    yield settings, urls
    embedded.stop(settings)


def test_after_a_build_a_role_can_read_what_it_may_and_do_nothing_else(built):
    settings, urls = built
    port = embedded.running_port(settings)
    assert port is not None
    with psycopg.connect(urls.warehouse) as owner:
        relations = owner.execute(RELATIONS).fetchall()
        rights = {
            row[:3]: row[3]
            for row in owner.execute(
                "select role, verb, relation, has_table_privilege(role, relation, verb) "
                "from unnest(%s::text[]) as role, unnest(%s::text[]) as verb, "
                "unnest(%s::text[]) as relation",
                [list(MAY_READ), list(VERBS), [relation for _, relation, _ in relations]],
            )
        }
    assert len(relations) > 60
    wrong = []
    for role, schemas in MAY_READ.items():
        with psycopg.connect(embedded.url(settings, port, role, "warehouse")) as connection:
            for schema, relation, column in relations:
                for verb, statement in VERBS.items():
                    connection.execute("set transaction read write")
                    try:
                        connection.execute(statement.format(relation, column).encode())
                        can = True
                    except REFUSED:
                        can = False
                    connection.rollback()
                    has, may = rights[role, verb, relation], verb == "select" and schema in schemas
                    if not can == has == may:
                        wrong.append((role, verb, relation, can, has))
    assert wrong == []
