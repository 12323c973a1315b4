"""A publish that is killed at any statement: analysts read the version before or the new one."""

from collections.abc import Callable
from datetime import date, timedelta

import psutil
import psycopg
import pytest
import small_versions
import strikes

from warehouse import publishing, versions
from warehouse.connections import Urls, connect, open_warehouse

KEEP = 2
CUSTOMERS = 30


class Days:
    """Day after day a version is scored and gated; every version has amounts of its own."""

    def __init__(self, urls: Urls) -> None:
        self.urls = urls
        self.number = 0

    def score(self) -> tuple[versions.Version, list[tuple]]:
        """The new version, and what analysts must read of it."""
        self.number += 1
        day = date(2025, 1, 1) + timedelta(days=self.number)
        tiers = {
            f"c{n:02}": ("gold" if (n + self.number) % 2 else "silver", 1000 * self.number + n)
            for n in range(CUSTOMERS)
        }
        version = small_versions.write_gated(self.urls, day, tiers)
        rows = [(version.version_id, c, *tiers[c], day) for c in sorted(tiers)]
        return version, rows


@pytest.fixture(scope="module")
def days(own_urls) -> Days:
    return Days(own_urls)


@pytest.fixture(scope="module")
def published(analyst) -> Callable[[], list[tuple]]:
    return lambda: analyst(
        "select version_id, customer_id, tier, expected_spend::float8, as_of_date "
        "from analytics.customer_tiers order by 2"
    )


@pytest.fixture(scope="module")
def calls(own_urls, days, published) -> int:
    """How often an undisturbed publish speaks to the server, when it has a version to prune."""
    for _ in range(KEEP + 1):
        version, rows = days.score()
        ended, calls = strikes.publish(own_urls.warehouse, version.as_of_date, KEEP, 0, "")
        assert ended == 0
        assert published() == rows
    return calls


def assert_whole(own_urls, days, published, analyst, calls, strike_at, target, restart=None):
    """Strike, look, and publish again."""
    before = published()
    version, after = days.score()
    ended, made = strikes.publish(own_urls.warehouse, version.as_of_date, KEEP, strike_at, target)
    assert made >= strike_at
    if restart:
        restart()
    seen = published()
    assert ended != 0 or seen == after  # its server was gone only when it had no more to ask
    assert seen in (before, after), f"a mix after call {strike_at} of {calls}"
    assert analyst("select sum(customers)::integer from analytics.tier_summary") == [(CUSTOMERS,)]
    publishing.publish(own_urls, version.as_of_date, KEEP)
    assert published() == after
    with connect(own_urls.warehouse) as connection:
        log = connection.execute(
            "select action, row_counts ->> 'customer_tiers' from ops.publish_log "
            "where version_id = %s",
            [version.version_id],
        ).fetchall()
        parts = connection.execute(
            "select count(*) from pg_class where relnamespace = 'scores'::regnamespace "
            "and relkind = 'r' and relname ~ '^customer_(tiers|scores)_[0-9a-f]{16}$'"
        ).fetchone()
    assert log == [("publish", str(CUSTOMERS))]
    assert parts == (2 * KEEP,)
    return seen == after


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.chaos)])
def test_killed_at_every_statement_a_publish_is_done_or_not_done(
    own_urls, days, published, analyst, calls, step
):
    done = [
        assert_whole(own_urls, days, published, analyst, calls, strike_at, "process")
        for strike_at in range(1, calls + 1, step)
    ]
    assert done == sorted(done)  # from the commit of the pointer on, and not before
    assert set(done) == {False, True}  # strikes before the commit, and after it


@pytest.mark.parametrize("at", [0.5, pytest.param(None, marks=pytest.mark.chaos)])
def test_when_its_server_process_is_killed_a_publish_is_done_or_not_done(
    own_urls, days, published, analyst, calls, at
):
    """A server process that is killed takes all others with it: the server recovers."""
    for strike_at in range(1, calls + 1) if at is None else [round(at * calls)]:
        assert_whole(own_urls, days, published, analyst, calls, strike_at, "backend")


@pytest.mark.parametrize("at", [0.6, pytest.param(None, marks=pytest.mark.chaos)])
def test_when_the_server_stops_at_once_and_starts_again_a_publish_is_done_or_not_done(
    own, own_urls, days, published, analyst, calls, at
):
    for strike_at in range(1, calls + 1) if at is None else [round(at * calls)]:
        with psycopg.connect(own_urls.warehouse) as connection:
            server = psutil.Process(connection.info.backend_pid).ppid()

        def restart(pid: int = server) -> None:
            psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
            assert open_warehouse(own) == own_urls

        assert_whole(own_urls, days, published, analyst, calls, strike_at, str(server), restart)
