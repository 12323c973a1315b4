"""Analysts who ask while versions are published: every answer is of one version."""

import threading
from datetime import date, timedelta

import psycopg
import pytest
import small_versions

from warehouse import embedded, publishing
from warehouse.connections import connect

READERS = 4
KEEP = 2
# One statement over three views. Every version has a size and amounts of its own.
QUERY = """
select
    min(version_id),
    max(version_id),
    count(*)::integer,
    sum(expected_spend)::float8,
    min(as_of_date),
    max(as_of_date),
    (select sum(customers)::integer from analytics.tier_summary),
    (select sum(expected_spend)::float8 from analytics.tier_summary),
    (select count(*)::integer from analytics.customer_tier_history where valid_to is null)
from analytics.customer_tiers
"""


@pytest.mark.parametrize(
    ("publishes", "reads"), [(4, 200), pytest.param(20, 10_000, marks=pytest.mark.chaos)]
)
def test_no_read_fails_and_none_is_a_mix_of_versions(own, own_urls, publishes, reads):
    with psycopg.connect(own_urls.warehouse, autocommit=True) as connection:
        small_versions.empty(connection)
    port = embedded.running_port(own)
    assert port is not None
    url = embedded.url(own, port, "analyst", "warehouse")
    allowed: dict[str, tuple] = {}

    def publish(number: int) -> None:
        day = date(2025, 1, 1) + timedelta(days=number)
        tiers = {
            f"c{n}": ("gold" if (n + number) % 3 else "silver", number + 1)
            for n in range(50 + number)
        }
        version = small_versions.write_gated(own_urls, day, tiers)
        size, spend = len(tiers), float(len(tiers) * (number + 1))
        allowed[version.version_id] = (size, spend, day, day, size, spend, size)
        publishing.publish(own_urls, day, KEEP)

    publish(0)
    answers: list[tuple] = []
    broken: list[BaseException] = []
    enough = threading.Event()

    def read() -> None:
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                while not enough.is_set():
                    answers.extend(connection.execute(QUERY))
        except BaseException as error:
            broken.append(error)

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    for number in range(1, publishes + 1):
        publish(number)
        while len(answers) < reads * number / publishes and not broken:
            enough.wait(0.01)
    enough.set()
    for reader in readers:
        reader.join()
    assert broken == []
    assert len(answers) >= reads
    mixed = [answer for answer in answers if answer[2:] != allowed[answer[0]]]
    assert mixed == []
    assert all(first == last for first, last, *_ in answers)
    assert len({first for first, *_ in answers}) > publishes // 2


def test_a_long_query_hinders_neither_publishes_nor_other_readers(own, own_urls, analyst):
    """It reads its version to the end, and the next publish drops what it had kept from going."""
    with psycopg.connect(own_urls.warehouse, autocommit=True) as connection:
        small_versions.empty(connection)
    port = embedded.running_port(own)
    assert port is not None
    published = []

    def publish(number: int) -> None:
        day = date(2026, 1, 1) + timedelta(days=number)
        version = small_versions.write_gated(
            own_urls, day, {"a": ("gold", number), "b": ("silver", 0)}
        )
        publishing.publish(own_urls, day, KEEP)
        published.append(version.version_id)

    def parts() -> set[str]:
        with connect(own_urls.warehouse) as connection:
            return {
                name
                for (name,) in connection.execute(
                    "select right(relname, 16) from pg_class where relkind = 'r' "
                    "and relname ~ '^customer_tiers_[0-9a-f]{16}$'"
                )
            } & set(published)

    publish(1)
    question = "select version_id, count(*) from analytics.customer_tiers group by 1"
    with psycopg.connect(embedded.url(own, port, "analyst", "warehouse")) as long_query:
        assert long_query.execute(question).fetchall() == [(published[0], 2)]
        for number in (2, 3, 4):
            publish(number)
            assert analyst(question) == [(published[-1], 2)]
        assert published[0] in parts()
    publish(5)
    assert parts() == set(published[-KEEP:])
