"""Everybody is in one segment, whose name stays while it is the same segment."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import figures, segments

QUICK = segments.Config(most=5, bootstraps=2, references=1)
SMALLER = segments.Config(most=6, bootstraps=5, references=3)
# Medians of four kinds of customers: orders in a year, average order, recency.
KINDS = {
    "frequent": (60, 20, 3),
    "big": (12, 300, 20),
    "small": (12, 15, 25),
    "lapsed": (1, 60, 300),
}


def shop(of_each: int = 60, kinds: dict | None = None, seed: int = 0) -> pd.DataFrame:
    """Customers of each kind, a tenth around its medians."""
    rng = np.random.default_rng(seed)
    kinds = KINDS if kinds is None else kinds
    orders, order, recency = (
        np.concatenate([kind[at] * np.exp(rng.normal(0, 0.1, of_each)) for kind in kinds.values()])
        for at in range(3)
    )
    return pd.DataFrame({
        "customer_id": [f"c{number}" for number in range(len(orders))],
        "orders_365d": orders.round(),
        "order_gap_mean_days": np.where(orders < 2, np.nan, 365 / orders),
        "average_order_value": order,
        "spend_365d": orders * order,
        "recency_days": recency.round(),
        "tenure_days": 365,
        "distinct_categories": np.nan,
        "distinct_products": 10,
        "discount_share": 0.0,
        "return_share": 0.0,
    })  # fmt: skip


def planted(frame: pd.DataFrame) -> np.ndarray:
    return np.arange(len(frame)) // (len(frame) // len(KINDS))


def named(found: segments.Segments) -> np.ndarray:
    return np.array(found.definition.names, dtype=object)[found.place]


@pytest.fixture(scope="module")
def found() -> segments.Segments:
    return segments.segment(shop(), config=SMALLER)


def test_planted_groups_are_found_and_the_evidence_says_how_many(found):
    assert segments.agreement(found.place, planted(shop())) == 1
    assert found.chosen.segments == len(KINDS)
    for method in segments.METHODS:
        tried = {one.segments: one for one in found.evidence if one.method == method}
        assert set(tried) == {3, 4, 5, 6}
        assert max(tried, key=lambda k: tried[k].silhouette) == len(KINDS)
        assert tried[4].stability > 0.99 > tried[5].stability
        assert tried[4].gap - tried[3].gap > 5 * abs(tried[5].gap - tried[4].gap)


def test_names_say_what_the_segments_stand_out_by(found):
    names = {kind: set(named(found)[planted(shop()) == at]) for at, kind in enumerate(KINDS)}
    assert names["frequent"] == {"frequent_small_baskets"}
    assert names["big"] == {"occasional_big_baskets"}
    assert names["small"] == {"occasional_small_baskets"}
    assert names["lapsed"] == {"lapsed_customers"}


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 50), st.floats(-100, 1e6), st.one_of(st.none(), st.integers(1, 3000))
        ),
        min_size=1,
        max_size=160,
    )
)
@settings(max_examples=15, deadline=None)
def test_every_customer_of_any_shop_is_in_exactly_one_segment(rows):
    orders, spend, gap = zip(*rows, strict=True)
    frame = pd.DataFrame({
        "customer_id": [f"c{number}" for number in range(len(rows))],
        "orders_365d": orders,
        "spend_365d": spend,
        "order_gap_mean_days": pd.array(gap, "Float64"),
    })  # fmt: skip
    found = segments.segment(frame, config=replace(QUICK, customers=20))
    names = found.definition.names
    profiles = segments.profiles(frame, found, np.ones(len(frame)))
    assert found.place.shape == (len(frame),)
    assert len(set(names)) == len(names)
    assert [profile.segment for profile in profiles] == list(names)
    assert min(profile.customers for profile in profiles) > 0
    assert sum(profile.customers for profile in profiles) == len(frame)
    again = segments.segment(frame, found.definition, replace(QUICK, customers=20))
    assert set(named(again)) <= set(names) or again.is_new


def test_the_order_of_the_rows_is_of_no_account(found):
    frame = shop()
    mixed = frame.sample(frac=1, random_state=1)
    again = segments.segment(mixed, config=SMALLER)
    expected = pd.Series(named(found), frame["customer_id"])
    assert (expected.loc[mixed["customer_id"]].to_numpy() == named(again)).all()
    np.testing.assert_array_equal(again.definition.centres, found.definition.centres)


def test_the_same_day_after_itself_keeps_everybody_where_they_are(found):
    again = segments.segment(shop(), found.definition)
    assert not again.is_new
    assert again.definition is found.definition
    assert (named(again) == named(found)).all()
    assert [one.method for one in again.evidence] == [segments.KEPT]
    assert again.chosen.silhouette == pytest.approx(found.chosen.silhouette, abs=0.01)


def test_a_customer_changes_segments_by_what_they_do_and_not_by_what_others_do(found):
    frame = shop()
    everywhere = ["orders_365d", "average_order_value", "spend_365d", "recency_days"]
    frame.loc[0, everywhere] = frame.loc[len(frame) - 1, everywhere]  # from frequent to lapsed
    frame.loc[0, "order_gap_mean_days"] = np.nan
    again = segments.segment(frame, found.definition)
    assert named(again)[0] == named(found)[-1] != named(found)[0]
    assert (named(again)[1:] == named(found)[1:]).all()


@pytest.mark.parametrize("seed", range(3))
def test_found_anew_in_whatever_order_the_same_segments_keep_their_names(found, seed):
    order = np.random.default_rng(seed).permutation(len(KINDS))
    titles = tuple(f"old_name_{place}" for place in order)
    before = replace(found.definition, names=titles, centres=found.definition.centres)
    mixed = replace(before, names=tuple(titles[i] for i in order), centres=before.centres[order])
    later = shop(seed=7).assign(discount_share=np.linspace(0, 0.1, 240))  # a trait more
    again = segments.segment(later, mixed, QUICK)
    assert again.is_new
    of_before = {name: before.centres[at] for at, name in enumerate(titles)}
    for name, centre in zip(again.definition.names, again.definition.centres, strict=True):
        np.testing.assert_allclose(centre[:3], of_before[name][:3], rtol=0.15)


def test_a_shop_that_changed_has_new_segments_and_only_what_stayed_keeps_its_name(found):
    kinds = {**KINDS, "lapsed": (150, 1000, 1)}
    again = segments.segment(shop(kinds=kinds, seed=3), found.definition, QUICK)
    assert again.is_new
    assert again.chosen.segments == len(KINDS)
    kept = set(found.definition.names) & set(again.definition.names)
    assert {"occasional_big_baskets", "occasional_small_baskets"} <= kept
    assert "lapsed_customers" not in again.definition.names
    for name in ("occasional_big_baskets", "occasional_small_baskets"):
        assert set(planted(shop())[named(again) == name]) == {list(KINDS).index(name.split("_")[1])}


@pytest.mark.parametrize("empty", ["small", "alike"])
def test_a_shop_too_small_or_all_alike_has_one_segment(empty):
    frame = shop(20) if empty == "small" else shop(60).assign(
        **dict.fromkeys([*segments.TRAITS], 3.0)
    )  # fmt: skip
    found = segments.segment(frame)
    assert found.definition.names == (segments.EVERYBODY,)
    assert found.chosen == segments.Evidence("kmeans", 1, chosen=True)
    (profile,) = segments.profiles(frame, found, np.full(len(frame), 2.0))
    assert (profile.customers, profile.expected_spend) == (len(frame), 2.0 * len(frame))
    assert profile.description_en.startswith("All customers: ")
    later = segments.segment(shop(60), found.definition, QUICK)
    assert later.chosen.segments == len(KINDS)


def test_a_profile_says_the_medians_of_its_customers_in_both_languages(found):
    frame = shop()
    of_lapsed = frame[planted(frame) == 3]
    (profile,) = [
        one
        for one in segments.profiles(frame, found, frame["spend_365d"].to_numpy())
        if one.segment == "lapsed_customers"
    ]
    recency, tenure = of_lapsed["recency_days"].median(), of_lapsed["tenure_days"].median()
    order, spent = of_lapsed["average_order_value"].median(), of_lapsed["spend_365d"].median()
    assert profile.customers == len(of_lapsed)
    assert profile.expected_spend == pytest.approx(of_lapsed["spend_365d"].sum(), abs=0.006)
    assert profile.description_en == (
        f"Lapsed customers: 1 order in the last year, {order:.2f} an order, {spent:.2f} spent in "
        f"the last year, last order {recency:,.0f} days ago, first order {tenure:,.0f} days ago, "
        f"10 products bought"
    )
    assert profile.description_zh == (
        f"久未下单顾客：近一年下单 1 次，每单 {order:.2f}，近一年消费 {spent:.2f}，最近一次下单在 "
        f"{recency:,.0f} 天前，首次下单在 {tenure:,.0f} 天前，买过 10 种商品"
    )


def test_every_word_of_a_name_has_its_chinese():
    words = [word for one in segments.TRAITS.values() for word in (one.high, one.low) if word]
    assert {word.slot for word in words} == {"when", "how"}
    chinese = {}
    for word in words:
        assert chinese.setdefault(word.slug, word.zh) == word.zh
    for word in words:
        assert segments.title_of(f"new_{word.slug}")["zh"].endswith(word.zh)


def test_the_figure_names_every_segment_and_trait(found):
    figure = figures.segments(found, segments.profiles(shop(), found, np.ones(240)))
    (axes,) = figure.axes
    rows = [label.get_text().split("\n")[0] for label in axes.get_yticklabels()]
    assert rows == list(found.definition.names)
    assert [one.get_text() for one in axes.get_xticklabels()] == list(found.definition.traits)


def test_a_segment_that_is_gone_takes_no_name_from_its_neighbour():
    """Matched by the least sum of distances alone, both centres would have moved one place on."""
    one = np.ones(1)
    measured = np.array([[0.0], [1.0]])
    before = segments.Definition(
        ("recency_days",), ("gone", "stayed"), np.expm1(measured), mean=one, spread=one
    )
    now = np.array([[0.98], [3.0]]) - one
    names = segments._names(now, replace(before, names=()), before)
    assert names == ("stayed", "lapsed_customers")
