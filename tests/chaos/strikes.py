"""A publish in a process of its own, which strikes before its n-th call to the server."""

import os
import signal
from datetime import date
from multiprocessing import get_context
from typing import Any

import psycopg

from warehouse import publishing
from warehouse.connections import Urls

# Its processes begin with all of this imported, and nothing of the test's threads and connections.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["strikes"])


def publish(url: str, day: date, keep: int, strike_at: int, target: str) -> tuple[int | None, int]:
    """How the publish ended, and how often it had called. target: process, backend, or a pid that
    is to stop at once."""
    calls = FORKS.Value("i", 0)
    process = FORKS.Process(target=_run, args=(url, day, keep, strike_at, target, calls))
    process.start()
    process.join(60)
    return process.exitcode, calls.value


def _run(url: str, day: date, keep: int, strike_at: int, target: str, calls: Any) -> None:
    def watched(method):
        def run(self, *arguments, **options):
            calls.value += 1
            if calls.value == strike_at:
                if target == "process":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif target == "backend":
                    os.kill(self.info.backend_pid, signal.SIGKILL)
                else:
                    os.kill(int(target), signal.SIGQUIT)
            return method(self, *arguments, **options)

        return run

    psycopg.Connection.execute = watched(psycopg.Connection.execute)
    psycopg.Connection.commit = watched(psycopg.Connection.commit)
    publishing.publish(Urls(*[url] * 5), day, keep)
