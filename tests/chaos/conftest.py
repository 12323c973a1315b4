"""A server of our own, as these tests kill it."""

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from warehouse import embedded
from warehouse.connections import Urls, open_warehouse
from warehouse.settings import Settings


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Iterator[Settings]:
    settings = Settings(home=tmp_path_factory.mktemp("own"), warehouse_url=None)
    yield settings
    embedded.stop(settings)


@pytest.fixture(scope="module")
def own_urls(own) -> Urls:
    urls = open_warehouse(own)
    port = embedded.running_port(own)
    assert port is not None
    administrator = embedded.url(own, port, embedded.SUPERUSER, "postgres")
    with psycopg.connect(administrator, autocommit=True) as connection:
        for safety in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"alter system set {safety} = off".encode())
        connection.execute("select pg_reload_conf()")  # processes are killed here, not the machine
    return urls


@pytest.fixture(scope="module")
def analyst(own, own_urls) -> Callable[[str], list[tuple]]:
    """Ask as the role analyst; after a crash, as soon as the server answers again."""
    port = embedded.running_port(own)
    assert port is not None
    url = embedded.url(own, port, "analyst", "warehouse")

    def ask(query: str) -> list[tuple]:
        give_up = time.monotonic() + 60
        while True:
            try:
                with psycopg.connect(url) as connection:
                    return connection.execute(query.encode()).fetchall()
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, "the server did not come back"
                time.sleep(0.05)

    return ask
