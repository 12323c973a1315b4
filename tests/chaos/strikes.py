"""A publish or a build in a process of its own, which strikes before its n-th call."""

import os
import signal
from dataclasses import fields
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg

from warehouse import building, publishing
from warehouse.connections import Urls

# Its processes begin with all of this imported, and nothing of the test's threads and connections.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["strikes"])


Ended = tuple[int | None, int]  # exit code, and how often the server was called


def publish(url: str, day: date, keep: int, strike_at: int, target: str) -> Ended:
    """target: process, backend, or a pid that is to stop at once. At 0 nothing is struck."""
    return _start(_publish, url, day, keep, strike_at, target)


def build(url: str, day: date, home: Path, strike_at: int, target: str) -> Ended:
    """Counted are dbt's calls for the features' view and for one table that it joins."""
    return _start(_build, url, day, home, strike_at, target)


def _start(run: Any, *arguments: Any) -> Ended:
    calls = FORKS.Value("i", 0)
    process = FORKS.Process(target=run, args=(*arguments, calls))
    process.start()
    process.join(300)
    return process.exitcode, calls.value


def _strike(target: str, backend: int) -> None:
    if target == "process":
        os.kill(os.getpid(), signal.SIGKILL)
    elif target == "backend":
        os.kill(backend, signal.SIGKILL)
    else:
        os.kill(int(target), signal.SIGQUIT)


def _publish(url: str, day: date, keep: int, strike_at: int, target: str, calls: Any) -> None:
    def watched(method):
        def run(self, *arguments, **options):
            calls.value += 1
            if calls.value == strike_at:
                _strike(target, self.info.backend_pid)
            return method(self, *arguments, **options)

        return run

    psycopg.Connection.execute = watched(psycopg.Connection.execute)
    psycopg.Connection.commit = watched(psycopg.Connection.commit)
    publishing.publish(Urls(*[url] * len(fields(Urls))), day, keep)


def _build(url: str, day: date, home: Path, strike_at: int, target: str, calls: Any) -> None:
    from dbt.adapters.sql.connections import SQLConnectionManager

    add_query = SQLConnectionManager.add_query

    def watched(self, *arguments, **options):
        connection = self.get_thread_connection()
        if str(connection.name).endswith((".customer_features", ".feat_customer_rfm")):
            calls.value += 1
            if calls.value == strike_at:
                _strike(target, connection.handle.info.backend_pid)
        return add_query(self, *arguments, **options)

    SQLConnectionManager.add_query = watched
    building.build(Urls(*[url] * len(fields(Urls))), [day], home)
