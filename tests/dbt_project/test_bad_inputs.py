"""What a build says of days and shops that it cannot answer for, and what no shop may break."""

from collections.abc import Callable
from datetime import date, timedelta

import oracle
import psycopg
import pytest
import simulated
from psycopg.rows import dict_row

from warehouse import building

LONGEST_SILENCE = timedelta(days=31)
LINES = 1_000_000


@pytest.fixture(scope="module")
def shop(urls) -> simulated.Shop:
    """It closed without a word: its newest order is of simulated.CLOSED."""
    tables = simulated.shop(customers=20)
    simulated.land_shop(urls.warehouse, tables)
    return tables


@pytest.fixture
def landed(urls, shop):
    """Land another shop for one test."""
    yield lambda tables: simulated.land_shop(urls.warehouse, tables)
    simulated.land_shop(urls.warehouse, shop)


@pytest.fixture
def said(tierhouse, settings, shop) -> Callable[..., tuple[int, str]]:
    """How a command ended, and its one paragraph."""

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        ended = tierhouse(
            *arguments,
            TIERHOUSE_HOME=str(settings.home),
            TIERHOUSE_WAREHOUSE_URL=settings.warehouse_url.get_secret_value(),
            **variables,
        )
        assert "Traceback" not in ended.stdout + ended.stderr
        return ended.returncode, " ".join(ended.stderr.split())

    return run


def test_a_day_long_after_the_newest_order_is_refused(said):
    """As of it everybody would look gone, when it is the load that did not come."""
    day = simulated.CLOSED + LONGEST_SILENCE + timedelta(days=1)
    for days in (str(day), f"2025-06-01,{day}"):
        code, message = said("build", "--as-of", days)
        assert code == 2
        assert f"The newest order is of {simulated.CLOSED}" in message
        assert str(simulated.CLOSED + LONGEST_SILENCE) in message


def test_a_shop_may_be_silent_for_a_while(urls, settings, shop):
    day = simulated.CLOSED + LONGEST_SILENCE
    building.refuse_days_outside(building.read_history(urls), [day])
    building.build(urls, [day], settings.home)
    assert_day_is_true(urls.warehouse, day)


def test_what_is_to_come_is_no_outcome(said):
    """The newest day may be half loaded: a window that ends after it is not closed."""
    day = simulated.CLOSED - timedelta(days=89)
    code, message = said("backtest", "--origins", str(day))
    assert code == 2
    assert f"What the 90 days from {day} brought is not known yet" in message
    assert f"the newest order is of {simulated.CLOSED}" in message


@pytest.mark.parametrize("tables", [(), ("customers", "events", "reviews", "campaign_contacts")])
def test_without_orders_nothing_is_built(said, shop, landed, tables):
    """Neither in an empty warehouse, nor where people look around and never order."""
    landed({table: shop[table] for table in tables})
    code, message = said("build", "--as-of", "2025-06-01")
    assert code == 1
    assert "No orders are loaded yet" in message
    assert "tierhouse load" in message


@pytest.fixture(scope="module")
def built(urls, settings, shop) -> date:
    """A day that is built."""
    day = date(2025, 6, 1)
    building.build(urls, [day], settings.home)
    return day


@pytest.mark.parametrize("days", [["2025-06-01'); drop table features.customer_events; --"], []])
def test_only_days_reach_the_sql(urls, settings, built, days):
    """The day is put into the SQL as a literal, by the one macro that checks what it is."""
    from dbt.cli.main import dbtRunner

    building.set_environment(urls, settings.home)
    outcome = dbtRunner().invoke(
        ["run",
         "--project-dir", str(building.DBT_PROJECT),
         "--profiles-dir", str(building.DBT_PROJECT),
         "--target-path", str(settings.home / "dbt" / "target"),
         "--log-path", str(settings.home / "dbt" / "logs"),
         "--log-level", "none",
         "--select", "feat_customer_rfm",
         "--vars", f"{{as_of_dates: {days!r}}}"]
    )  # fmt: skip
    assert not outcome.success
    assert_day_is_true(urls.warehouse, built)


@pytest.mark.slow
def test_a_customer_of_a_million_orders_is_a_customer_like_any_other(urls, settings, shop, landed):
    """A wholesaler, or a shop that gives all its guests one number: 2,900 orders a day."""
    landed(shop)
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute(
            "insert into raw.order_lines (order_id, line_number, customer_id, ordered_at, "
            "product_id, quantity, unit_price, discount_amount, currency, content_hash, file_id, "
            "source_row, delivered_at) select 'm' || number, 1, 'guests', "
            "timestamp '2024-06-01' + interval '30 seconds' * number, "
            "'p' || number %% 40, 1 + number %% 3, 2.5, 0.1, 'EUR', number, 1, number, "
            "timestamp '2025-12-30' from generate_series(0, %s) as number",
            [LINES - 1],
        )
    day = date(2025, 6, 1)
    building.build(urls, [day], settings.home)
    assert_day_is_true(urls.warehouse, day)


def assert_day_is_true(url: str, day: date) -> None:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        query = f"select * from features.customer_features where as_of_date = '{day}'"
        found = connection.execute(query.encode()).fetchall()
    for row in found:
        del row["as_of_date"]
    expected = oracle.Shop(simulated.read_shop(url)).features(day)
    said = oracle.differences(found, expected, ("customer_id",))
    assert not said, "\n".join(["", *said])
    assert expected
