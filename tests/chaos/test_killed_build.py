"""dbt killed while it replaces a day or swaps a view: whoever reads sees whole days."""

from collections.abc import Callable

import psycopg
import pytest
import simulated
import small_versions
import strikes

from warehouse import building, embedded, publishing

DAY = simulated.CLOSED


@pytest.fixture(scope="module")
def built(own, own_urls) -> None:
    """A shop whose day is built and published."""
    simulated.land_shop(own_urls.warehouse, simulated.shop(customers=20))
    building.build(own_urls, [DAY], own.home)
    small_versions.write_gated(own_urls, DAY, {"a": ("gold", 9.0), "b": ("silver", 1.0)})
    publishing.publish(own_urls, DAY, keep=8)


@pytest.fixture(scope="module")
def features(own, own_urls, built) -> Callable[[], tuple]:
    """How many rows the day has and what they sum up to, as a data scientist sees them."""
    port = embedded.running_port(own)
    assert port is not None
    url = embedded.url(own, port, "data_scientist", "warehouse")

    def look() -> tuple:
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "select count(*), sum(hashtextextended(customer_features::text, 0)::numeric), "
                "(select count(*) from features.feat_customer_rfm where as_of_date = %(day)s) "
                "from features.customer_features where as_of_date = %(day)s",
                {"day": DAY},
            ).fetchone()
        assert found is not None
        return found

    return look


@pytest.mark.parametrize("at", [6, pytest.param(None, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("target", ["process", pytest.param("backend", marks=pytest.mark.chaos)])
def test_killed_at_every_statement_of_a_swap_the_day_is_whole(
    own, own_urls, features, analyst, at, target
):
    tiers = "select * from analytics.customer_360 order by 1"
    before, seen = features(), analyst(tiers)
    assert before[0] > 0
    moments = [at]
    if at is None:
        ended, calls = strikes.build(own_urls.warehouse, DAY, own.home, 0, "")
        assert (ended, features()) == (0, before)
        moments = range(1, calls + 1)
    for strike_at in moments:
        ended, _ = strikes.build(own_urls.warehouse, DAY, own.home, strike_at, target)
        assert ended != 0
        assert analyst(tiers) == seen
        assert features() == before, f"struck before call {strike_at}"
    building.build(own_urls, [DAY], own.home)
    assert (features(), analyst(tiers)) == (before, seen)
