"""The page about the tables tells of all of them, and asks nobody else."""

import json
import re
from datetime import timedelta

import pytest
import simulated

from warehouse import building, catalog

DAY = simulated.CLOSED - timedelta(days=60)
EXPOSURES = {
    "feature_gates", "customer_value", "customer_tiers", "model_scoreboard", "cohort_retention",
}  # fmt: skip


def told(page: str) -> tuple[dict, dict]:
    """What dbt knows of the project, and of the tables that are there; both are in the page."""
    decoder = json.JSONDecoder()
    manifest, end = decoder.raw_decode(page, page.index("{manifest:") + len("{manifest:"))
    catalogue, _ = decoder.raw_decode(page, end + len(",catalog:"))
    return manifest, catalogue


@pytest.fixture(scope="module")
def before(settings, urls) -> str:
    """The page of a warehouse with no rows."""
    return catalog.generate(urls, settings).read_text()


@pytest.fixture(scope="module")
def after(settings, urls, before) -> str:
    """The page, written again once a day is built."""
    simulated.land(urls.warehouse, simulated.order_lines(customers=40))
    building.build(urls, [DAY], settings.home)
    return catalog.generate(urls, settings).read_text()


def test_every_model_column_and_source_is_described_before_anything_is_built(before):
    manifest, _ = told(before)
    described = [
        node
        for node in [*manifest["nodes"].values(), *manifest["sources"].values()]
        if node["resource_type"] in ("model", "source")
    ]
    assert len(described) > 15
    assert [node["unique_id"] for node in described if not node["description"].strip()] == []
    features = [node for node in described if node["schema"] == "features"]
    assert len(features) > 5
    for node in features:
        assert node["columns"]
        assert [name for name, c in node["columns"].items() if not c["description"].strip()] == []


def test_who_reads_the_features_is_on_the_page(before):
    manifest, _ = told(before)
    exposures = {exposure["name"]: exposure for exposure in manifest["exposures"].values()}
    assert set(exposures) == EXPOSURES
    for exposure in exposures.values():
        assert exposure["description"].strip()
        assert exposure["depends_on"]["nodes"]


def test_what_was_built_is_told_with_its_types(before, after):
    features = "model.tierhouse.feat_customer_rfm"
    assert features not in told(before)[1]["nodes"]
    columns = told(after)[1]["nodes"][features]["columns"]
    assert columns["as_of_date"]["type"] == "date"
    assert columns["monetary_total"]["type"] == "numeric(14,2)"
    assert columns["monetary_total"]["comment"]


def test_the_page_loads_nothing_and_tells_nobody(after, settings):
    manifest, _ = told(after)
    assert manifest["metadata"]["send_anonymous_usage_stats"] is False
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=\"?([^\">\s]+)", after)
    assert [address for address in loaded if address.startswith(("http", "//"))] == []
    password = re.search(r":([^:@/]+)@", settings.warehouse_url.get_secret_value())
    assert password is not None
    assert password[1] not in after
