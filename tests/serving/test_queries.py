"""Finding customers: the same numbers whichever way they are found, and the quick way is taken."""

import pandas as pd
import pytest

from serving import queries
from serving.queries import Filters

FILTERED = {
    "nothing": {},
    "tiers": {"tiers": ["gold", "bronze"]},
    "a tier that nobody is in": {"tiers": ["brass"]},
    "tier and country": {"tiers": ["gold"], "countries": ["Spain"]},
    "segment": {"segments": ["A"]},
    "movement": {"movements": ["up", "new"]},
    "beginning": {"customer": "c01"},
}
# As the page gives what nobody chose.
UNCHOSEN = {"tiers": [], "segments": [], "movements": [], "countries": []}


@pytest.fixture(scope="module")
def everybody(shop) -> pd.DataFrame:
    with queries.snapshot(shop.analyst_url) as ask:
        return ask(
            "select customer_id, tier, segment, country, split_part(movement, ' ', 1) as movement, "
            "expected_spend::float8 as spend from analytics.customer_360"
        )


def plan(ask, filters: Filters) -> str:
    """How the first page of these customers is found where sorting is to be avoided."""
    asked = []
    queries.find(lambda query, **values: asked.append((query, values)), filters, 5)
    ((query, values),) = asked
    ask("select set_config('enable_sort', 'off', true)")
    return "\n".join(ask(f"explain {query}", **values)["QUERY PLAN"])


@pytest.mark.parametrize("chosen", FILTERED.values(), ids=FILTERED)
def test_what_is_counted_and_found_are_the_customers_of_the_filters(shop, everybody, chosen):
    filters = Filters(**{**UNCHOSEN, **chosen})
    left = everybody[everybody["customer_id"].str.startswith(filters.customer)]
    for column, values in (
        ("tier", filters.tiers),
        ("segment", filters.segments),
        ("movement", filters.movements),
        ("country", filters.countries),
    ):
        left = left[left[column].isin(values)] if values else left
    expected = left.sort_values(["spend", "customer_id"], ascending=[False, True])
    with queries.snapshot(shop.analyst_url) as ask:
        customers, money = queries.count(ask, filters)
        found = queries.find(ask, filters, 20)
    assert customers == len(left)
    assert money == pytest.approx(left["spend"].sum())
    assert found["customer_id"].tolist() == expected["customer_id"].head(20).tolist()


def test_all_customers_come_in_order_from_an_index_and_those_of_a_filter_are_sorted(shop):
    with queries.snapshot(shop.analyst_url) as ask:
        assert "Sort" not in plan(ask, Filters(**UNCHOSEN))
        assert "Sort" in plan(ask, Filters(**UNCHOSEN, customer="c01"))
