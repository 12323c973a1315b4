"""What a build makes of deliveries, of what somebody changed by hand, and of odd amounts."""

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from expectations import run
from warehouse import building
from warehouse.settings import Target
from warehouse.source import read_source

HEADER = (
    "order_id,line_number,customer_id,ordered_at,product_id,quantity,unit_price,discount_amount"
)
FIRST, SECOND = date(2025, 6, 6), date(2025, 6, 10)
BEFORE, BETWEEN, AFTER = date(2025, 6, 1), date(2025, 6, 8), date(2025, 6, 10)
DAYS = (BEFORE, BETWEEN, AFTER)
HISTORY = """\
1,1,ann,2025-01-10 09:00:00,p,1,10,0
2,1,ann,2025-05-20 09:00:00,p,2,10,0
3,1,bob,2025-05-30 09:00:00,q,1,0.004,0
4,1,bob,2025-05-31 09:00:00,q,1,-100,0
"""
# Ann's second line is of before the first delivery, and nobody knew of it until the second.
LATER = """\
5,1,ann,2025-06-07 09:00:00,p,1,10,0
6,1,ann,2025-05-25 09:00:00,q,1,7,0
"""


@pytest.fixture(scope="module")
def spent(urls, settings, load_files, tmp_path_factory) -> Callable[[], dict[date, list[str]]]:
    """Build, and say what each day knows of the customers' spend."""
    source = tmp_path_factory.mktemp("source")
    (source / "source.yml").write_text(
        "currency: EUR\ntables:\n  order_lines:\n    files: ['*.csv']\n    columns:\n"
        "      order_id: text\n      line_number: number\n      customer_id: customer\n"
        "      ordered_at: time\n      product_id: text\n      quantity: number\n"
        "      unit_price: number\n      discount_amount: number\n"
    )
    for day, lines in ((FIRST, HISTORY), (SECOND, LATER)):
        folder = tmp_path_factory.mktemp(str(day))
        (folder / "lines.csv").write_text(f"{HEADER}\n{lines}")
        load_files(read_source(str(source)), Path(folder), day)

    def ask(target: Target = Target.postgres) -> dict[date, list[str]]:
        building.build(urls, DAYS, settings.home, target)
        with psycopg.connect(urls.warehouse) as connection:
            rows = connection.execute(
                "select as_of_date, monetary_total from features.customer_features order by 1, 2"
            ).fetchall()
        return {day: [str(spend) for of, spend in rows if of == day] for day in DAYS}

    return ask


@pytest.fixture(scope="module")
def built(spent) -> dict[date, list[str]]:
    """What the days know once they are built; a test that changes a row leaves it as it was."""
    return spent()


def test_the_first_delivery_is_history_and_later_ones_are_known_when_they_come(built):
    assert built == {
        BEFORE: ["-100.00", "30.00"],
        BETWEEN: ["-100.00", "30.00"],
        AFTER: ["-100.00", "47.00"],
    }


def test_the_gate_sees_what_the_features_see(built, urls):
    for day in DAYS:
        report = run.validate(urls.warehouse, "features", day.isoformat(), None)
        assert [result.column for result in report.failures if "raw" in result.column] == []


def test_a_line_mended_by_hand_is_built(spent, built, urls):
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute("update raw.order_lines set unit_price = 11 where order_id = '1'")
    assert spent()[BEFORE] == ["-100.00", "31.00"]
    with psycopg.connect(urls.warehouse) as connection:
        connection.execute("update raw.order_lines set unit_price = 10 where order_id = '1'")
    assert spent()[BEFORE] == ["-100.00", "30.00"]


@pytest.mark.parametrize("table", ["intermediate.int_customer_days", "features.customer_events"])
def test_a_table_that_is_gone_is_built_again(spent, built, urls, table):
    with psycopg.connect(urls.warehouse) as connection:
        count = f"select count(*) from {table}"
        (rows,) = connection.execute(count.encode()).fetchone()
        connection.execute(f"drop table {table} cascade".encode())
    assert spent() == built
    with psycopg.connect(urls.warehouse) as connection:
        assert connection.execute(count.encode()).fetchone() == (rows,) > (0,)


def test_readers_keep_their_rights_on_what_a_build_replaces(spent, urls):
    with psycopg.connect(urls.warehouse, autocommit=True) as connection:
        has_role = connection.execute(
            "select 1 from pg_roles where rolname = 'data_scientist'"
        ).fetchone()
        if not has_role:
            try:
                connection.execute("create role data_scientist")
            except psycopg.errors.InsufficientPrivilege:
                pytest.skip("the role of this server may not create roles")
        try:
            spent()
            connection.execute("create view features.newer as select 1 as one")
            (may_read,) = connection.execute(
                "select has_table_privilege('data_scientist', 'features.newer', 'select')"
            ).fetchone()
            connection.execute("drop view features.newer")
            assert may_read
        finally:
            if not has_role:
                connection.execute("drop owned by data_scientist")
                connection.execute("drop role data_scientist")


def test_amounts_below_a_cent_are_orders(built, urls):
    with psycopg.connect(urls.warehouse) as connection:
        assert connection.execute(
            "select first_order_value, frequency_orders from features.customer_features "
            "where as_of_date = %s and monetary_total < 0",
            [BEFORE],
        ).fetchone() == (Decimal("0.00"), 1)
