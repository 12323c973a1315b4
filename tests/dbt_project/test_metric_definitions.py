"""A metric means what its words say, and dbt has nothing to say against how it is written."""

import json
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import simulated

from warehouse import building

DAY = simulated.CLOSED - timedelta(days=60)
AGGREGATES = {
    "count": "count({})",
    "sum": "sum({})",
    "sum_boolean": "count(*) filter (where {})",
}


@pytest.fixture(scope="module")
def built(urls, settings) -> None:
    simulated.land(urls.warehouse, simulated.order_lines(customers=40))
    building.build(urls, [DAY], settings.home)


@pytest.fixture(scope="module")
def parsed(urls, settings, tmp_path_factory) -> tuple[dict, list[str]]:
    """The semantic manifest, and all that dbt warns of when it reads every file anew."""
    from dbt.cli.main import dbtRunner

    warned: list[str] = []

    def hear(event) -> None:
        if event.info.level in ("warn", "error"):
            warned.append(event.info.msg)

    building.set_environment(urls, settings.home)
    target = tmp_path_factory.mktemp("target")
    outcome = dbtRunner(callbacks=[hear]).invoke(
        ["parse", "--no-partial-parse", "--show-all-deprecations", "--log-level", "none",
         "--project-dir", str(building.DBT_PROJECT), "--profiles-dir", str(building.DBT_PROJECT),
         "--target-path", str(target), "--log-path", str(target)]
    )  # fmt: skip
    assert outcome.success, outcome.exception
    return json.loads(Path(target, "semantic_manifest.json").read_text()), warned


@pytest.fixture(scope="module")
def figures(urls, built, parsed) -> dict[str, float]:
    """Every metric of the day, worked out as it is defined."""
    manifest, _ = parsed
    (model,) = manifest["semantic_models"]
    of_measure = {
        measure["name"]: AGGREGATES[measure["agg"]].format(measure["expr"])
        for measure in model["measures"]
    }
    with psycopg.connect(urls.warehouse) as connection:
        values = connection.execute(
            f"select {', '.join(of_measure.values())} from {model['node_relation']['schema_name']}."
            f"{model['node_relation']['alias']} where as_of_date = %s",
            [DAY],
        ).fetchone()
    found = dict(zip(of_measure, map(float, values), strict=True))
    for metric in manifest["metrics"]:
        if metric["type"] == "ratio":
            whole, part = (
                metric["type_params"][end]["name"] for end in ("denominator", "numerator")
            )
            found[metric["name"]] = found[part] / found[whole]
    assert set(found) == {metric["name"] for metric in manifest["metrics"]}
    return found


def test_dbt_warns_of_nothing(parsed):
    of_views = "Constraint types are not supported for view"  # customer_features names its tables'
    assert [said for said in parsed[1] if of_views not in said] == []


def test_every_metric_is_what_its_words_say(figures):
    lines = simulated.with_amounts(simulated.order_lines(customers=40))
    known = lines[lines["day"] < DAY]
    kept = known[known["is_kept"]]
    recent = kept[kept["day"] >= DAY - timedelta(days=90)]
    orders = kept.groupby("customer_id")["order_id"].nunique()
    customers, bought = len(orders), float(kept["amount"].sum())
    net = known[(known["day"] >= DAY - timedelta(days=90))]["amount"].sum()
    assert figures["customers"] == customers
    assert figures["active_customers"] == recent["customer_id"].nunique() < customers
    assert figures["repeat_customers"] == (orders > 1).sum() < customers
    assert figures["orders"] == orders.sum()
    assert figures["net_spend_90d"] == pytest.approx(float(net), abs=0.01 * customers)
    assert figures["purchased_amount"] == pytest.approx(bought, abs=0.01 * orders.sum())
    assert figures["active_share"] == recent["customer_id"].nunique() / customers
    assert figures["repeat_share"] == (orders > 1).sum() / customers
    assert figures["average_order_value"] == pytest.approx(bought / orders.sum(), abs=0.01)


def test_every_day_is_there_once_to_lay_metrics_along(urls, built):
    with psycopg.connect(urls.warehouse) as connection:
        (days, different, first, last) = connection.execute(
            "select count(*), count(distinct date_day), min(date_day)::text, max(date_day)::text "
            "from intermediate.metric_days"
        ).fetchone()
    assert days == different
    assert (first, last) == ("2000-01-01", "2049-12-31")
