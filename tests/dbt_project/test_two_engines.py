"""Two engines, one definition: a shop with all seven tables has the same cells in both."""

from datetime import date

import duckdb
import psycopg
import pytest
from engines import TABLES, differing_cells, rows

from simulator import shop
from warehouse import building
from warehouse.settings import DUCKDB_FILE, Target
from warehouse.source import read_source

DAYS = (date(2025, 6, 1), date(2025, 12, 31))


@pytest.fixture(scope="module")
def build(urls, settings, load_files, tmp_path_factory):
    config = shop.Config(customers=400, days=500, dirt=0.02, currencies=("EUR", "GBP"))
    out = shop.simulate(config, tmp_path_factory.mktemp("simulated") / "shop").out
    load_files(read_source("simulated"), out)

    def run() -> None:
        for target in Target:
            building.build(urls, DAYS, settings.home, target)

    run()
    return run


def test_both_engines_make_the_same_cells(build, urls, settings):
    file = settings.home / DUCKDB_FILE
    assert differing_cells(urls.warehouse, file) == {}
    assert all(rows(file, table) > 500 for table in TABLES)


def test_both_engines_make_the_same_of_an_update(build, urls, settings):
    with psycopg.connect(urls.warehouse) as connection:
        for change in (
            "delete from raw.order_lines where ordered_at::date = date '2025-05-10'",
            "update raw.order_lines set quantity = quantity + 1, content_hash = content_hash + 1 "
            "where ordered_at::date = date '2025-11-28'",
            "update raw.events set known_at = occurred_at + interval '5 days' "
            "where occurred_at::date = date '2025-05-30'",
            "delete from raw.campaign_contacts where contact_id in "
            "(select contact_id from raw.campaign_contacts order by contact_id limit 20)",
        ):
            assert connection.execute(change).rowcount > 0
    build()
    assert differing_cells(urls.warehouse, settings.home / DUCKDB_FILE) == {}


def test_a_cell_that_differs_is_seen(build, urls, settings, tmp_path):
    other = tmp_path / "other.duckdb"
    other.write_bytes((settings.home / DUCKDB_FILE).read_bytes())
    with duckdb.connect(other) as duck:
        duck.execute(
            "update features.feat_customer_rfm set monetary_total = monetary_total + 0.01 "
            "where customer_id = (select min(customer_id) from features.feat_customer_rfm) "
            "and as_of_date = date '2025-12-31'"
        )
        duck.execute("delete from features.customer_labels where horizon_days = 7")
        duck.execute("update features.customer_events set log_amount = log_amount * (1 + 1e-7)")
    found = differing_cells(urls.warehouse, other)
    assert found["customer_features.monetary_total"] == 1
    assert found["customer_labels.rows"] > 0
    assert found["customer_events.log_amount"] > 0
