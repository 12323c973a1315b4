"""One real PostgreSQL for the whole run, and a fresh database for every module that asks."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from pydantic import SecretStr

from warehouse import embedded
from warehouse.connections import Urls, open_warehouse
from warehouse.loading import Report, load
from warehouse.settings import Settings
from warehouse.source import Source

OURS = ("TIERHOUSE", "AIRFLOW", "MLFLOW")


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[str]:
    """The address of a server: TIERHOUSE_WAREHOUSE_URL, or one of our own as its administrator."""
    given = os.environ.get("TIERHOUSE_WAREHOUSE_URL")
    for name in [name for name in os.environ if name.startswith(OURS)]:
        del os.environ[name]  # nothing is tried on what this person works with
    if given:
        yield given
        return
    settings = Settings(home=tmp_path_factory.mktemp("server"))
    port = embedded.start(settings)
    url = embedded.url(settings, port, embedded.SUPERUSER, "postgres")
    with psycopg.connect(url, autocommit=True) as connection:
        for safety in ("fsync", "full_page_writes", "synchronous_commit"):
            connection.execute(f"alter system set {safety} = off")
        connection.execute("select pg_reload_conf()")  # no test cuts the power
    yield url
    embedded.stop(settings)
    shutil.rmtree((settings.home / "postgres").resolve())


@pytest.fixture(scope="module")
def settings(server: str, tmp_path_factory) -> Iterator[Settings]:
    """An installation of its own, on a database of its own."""
    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
        yield Settings(
            home=tmp_path_factory.mktemp("home"),
            warehouse_url=SecretStr(urlunsplit(urlsplit(server)._replace(path=f"/{name}"))),
        )
        for database in (name, f"{name}_airflow", f"{name}_mlflow"):
            connection.execute(f"drop database if exists {database} with (force)")


@pytest.fixture(scope="module")
def urls(settings: Settings) -> Urls:
    """The addresses of an empty warehouse whose schemas are made."""
    return open_warehouse(settings)


@pytest.fixture(scope="module")
def load_files(settings: Settings, urls: Urls) -> Callable[..., Report]:
    """Load a source's files into this module's warehouse: a day's delivery, or the files of now."""

    def run(source: Source, path: Path | None, day: date | None = None) -> Report:
        now = datetime.now(UTC).replace(tzinfo=None)
        return load(
            urls.warehouse,
            b"the secret of this installation",
            source,
            path,
            scratch=settings.home / "scratch",
            delivered_at=datetime.combine(day, datetime.min.time()) if day else now,
            run_id="test",
            is_daily=day is not None,
        )

    return run


@pytest.fixture(scope="session")
def tierhouse() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a `tierhouse` command as a person would, in an environment with nothing of ours set."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(OURS)}
        return subprocess.run(
            [Path(sys.executable).with_name("tierhouse"), *arguments],
            env={**clean, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
