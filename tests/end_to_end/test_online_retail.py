"""Two years of a real shop: every line accounted for, and the model beside what embarrasses it."""

import json
from datetime import date, timedelta
from decimal import Decimal

import pytest

from warehouse.connections import connect
from warehouse.loading import TableReport
from warehouse.settings import PROJECT
from warehouse.source import read_source

FILE = PROJECT.parent / "shared" / "data" / "online_retail_II.parquet"
ORIGINS = "2010-12-09,2011-03-09,2011-06-09,2011-09-09"
BASELINES = (
    "mean", "last_window_spend", "spend_rate", "order_count", "recency", "rfm_score", "bg_nbd",
    "mbg_nbd",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    not FILE.exists(),
    reason=f"Online Retail II (doi 10.24432/C5CG6D) is not part of the project: no {FILE.name} "
    f"in ../shared/data",
)


@pytest.fixture(scope="module")
def orders(load_files) -> TableReport:
    report = load_files(read_source("online_retail"), FILE)
    return next(entry for entry in report.tables if entry.table == "order_lines")


@pytest.fixture(scope="module")
def judged(tierhouse, settings, orders, tmp_path_factory):
    file = tmp_path_factory.mktemp("backtest") / "scoreboard.json"
    ended = tierhouse(
        "backtest", "--origins", ORIGINS, "--json", str(file),
        "--models", ",".join(("lightgbm_hurdle", *BASELINES)),
        TIERHOUSE_HOME=str(settings.home),
        TIERHOUSE_WAREHOUSE_URL=settings.warehouse_url.get_secret_value(),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(file.read_text())


def test_every_line_is_accepted_or_anonymous(orders):
    assert (orders.read, orders.accepted, orders.anonymous) == (1_044_847, 809_560, 235_287)
    assert orders.duplicate == 0
    assert orders.quarantined == {}


def test_the_great_order_that_was_cancelled_in_twelve_minutes_is_no_order(urls, judged):
    customer = (
        "customer_id = "
        "(select customer_id from pii.customer_ids where source_customer_id = '16446')"
    )
    with connect(urls.warehouse) as connection:
        landed = connection.execute(
            "select sum(quantity * unit_price) filter (where quantity > 0) "
            f"from raw.order_lines where {customer} and ordered_at::date = '2011-12-09'"
        ).fetchone()
        counted = connection.execute(
            "select coalesce(sum(orders), 0), coalesce(sum(purchased_amount), 0) "
            f"from intermediate.int_customer_days where {customer} and order_date = '2011-12-09'"
        ).fetchone()
    assert landed == (Decimal("168469.6"),)
    assert counted == (0, 0)


@pytest.mark.parametrize("metric", ["normalized_gini", "capture_top10"])
def test_the_model_beats_the_best_baseline_over_the_four_origins(judged, metric):
    best = max(judged["pooled"][name][metric] for name in BASELINES)
    assert judged["pooled"]["lightgbm_hurdle"][metric] > best


def test_the_predicted_total_is_within_ten_percent_of_what_was_spent(judged):
    assert 0.9 <= judged["pooled"]["lightgbm_hurdle"]["sum_ratio"] <= 1.1


def test_as_many_buy_as_were_told_to_in_every_band_of_chances(judged):
    assert judged["pooled"]["lightgbm_hurdle"]["ece"] <= 0.05


def test_no_training_window_reaches_into_the_window_it_is_judged_on(judged):
    for origin in judged["origins"]:
        newest = date.fromisoformat(max(origin["training_cutoffs"]))
        assert newest + timedelta(days=90) <= date.fromisoformat(origin["as_of_date"])
    assert [origin["as_of_date"] for origin in judged["origins"]] == ORIGINS.split(",")
