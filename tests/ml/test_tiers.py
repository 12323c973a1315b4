"""One tier for everybody, in the order of what is measured, and no move without a reason."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.tier_policy import DEFAULT_POLICY, Method, PolicyError, Tier, make_policy, read_policy
from ml.tiers import Previous, assign, draw

POLICY = read_policy()
DAY = date(2025, 6, 10)
HELD = ["customer_id", "tier", "tier_rank", "drawn_tier_rank", "tier_since", "past_border_since"]
CLUSTERING = [Method.kmeans, Method.hierarchical, Method.natural_breaks]

shares = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(
    lambda parts: make_policy(
        [Tier(name=f"t{i}", share=part / sum(parts)) for i, part in enumerate(parts)]
    )
)
spends = st.lists(st.integers(0, 50), min_size=1, max_size=80).map(lambda v: np.array(v, float))
rules = st.fixed_dictionaries({
    "hysteresis": st.fixed_dictionaries(
        {"margin": st.sampled_from([0.05, 0.3]), "days": st.integers(0, 4)}
    ),
    "minimum_tenure": st.just({"days": 30, "highest": "silver"}),
})  # fmt: skip


def frame(spend, tenure=None, names="c{:04}") -> pd.DataFrame:
    return pd.DataFrame({
        "customer_id": [names.format(i) for i in range(len(spend))],
        "expected_spend": np.asarray(spend, float),
        "tenure_days": np.full(len(spend), 400) if tenure is None else tenure,
    })  # fmt: skip


def ranks(spend, policy=POLICY):
    return draw(frame(spend), policy).rank


def replay(policy, days_of_spend, tenure=None) -> list[pd.DataFrame]:
    """The tiers of day after day."""
    found, previous = [], None
    for place, spend in enumerate(days_of_spend):
        day = DAY + timedelta(days=place)
        drawn = assign(frame(spend, tenure), policy, day, previous)
        previous = Previous(day, drawn.select(HELD))
        found.append(drawn.to_pandas())
    return found


def policy_of(**rules):
    return make_policy(
        [
            Tier(name="gold", share=0.25),
            Tier(name="silver", share=0.25),
            Tier(name="rest", share=0.5),
        ],
        **rules,
    )


@settings(deadline=None)
@given(spends, shares)
def test_every_customer_is_in_one_tier_and_more_spend_never_means_a_lower_one(spend, policy):
    drawn = draw(frame(spend), policy)
    assert [policy.names[rank - 1] for rank in drawn.rank] == list(drawn.tier)
    by_spend = drawn.rank[np.lexsort((drawn.rank, -spend))]
    assert (np.diff(by_spend) >= 0).all()
    ends = np.cumsum([tier.share for tier in policy.tiers]) * spend.size
    for rank, end in enumerate(ends, 1):
        assert abs((drawn.rank <= rank).sum() - end) <= 0.5 + 1e-6


@settings(deadline=None)
@given(spends, st.randoms())
def test_the_order_of_the_rows_changes_nobodys_tier(spend, random):
    shuffled = list(range(spend.size))
    random.shuffle(shuffled)
    here = frame(spend)
    there = here.iloc[shuffled].reset_index(drop=True)
    assert list(draw(here, POLICY).rank[shuffled]) == list(draw(there, POLICY).rank)


def test_the_default_policy_is_five_fifteen_thirty_and_the_rest():
    tier = draw(frame(np.arange(200.0)), POLICY).tier
    assert [(tier == name).sum() for name in ("platinum", "gold", "silver", "bronze")] == [
        10, 30, 60, 100,
    ]  # fmt: skip
    assert tier[-1] == "platinum" and tier[0] == "bronze"


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(CLUSTERING), st.integers(2, 6))
def test_clusters_are_tiers_in_the_order_of_spend_and_none_is_empty(seed, method, tiers):
    spend = np.random.default_rng(seed).lognormal(2, 1.5, 300).round(2)
    policy = make_policy([Tier(name=f"t{i}") for i in range(tiers)], method=method)
    drawn = draw(frame(spend), policy)
    assert set(drawn.rank) == set(range(1, tiers + 1))
    assert (np.diff(drawn.rank[np.argsort(-spend)]) >= 0).all()
    assert (np.diff(drawn.borders) < 0).all()


@pytest.mark.parametrize("method", CLUSTERING)
def test_clusters_that_anybody_can_see_are_found(method):
    rng = np.random.default_rng(0)
    spend = np.concatenate([rng.uniform(size, size * 1.1, 40) for size in (1, 30, 900)])
    policy = make_policy([Tier(name=name) for name in "abc"], method=method)
    assert ranks(spend, policy).tolist() == [3] * 40 + [2] * 40 + [1] * 40


def test_natural_breaks_are_the_cut_with_the_least_spread_inside_the_tiers():
    spend = np.random.default_rng(1).lognormal(2, 1, 40)
    policy = make_policy([Tier(name=name) for name in "abc"], method="natural_breaks")
    logs = np.sort(np.log1p(spend))

    def spread(a, b):
        return sum(((part - part.mean()) ** 2).sum() for part in np.split(logs, [a, b]))

    least = min((spread(a, b), a, b) for a in range(1, 39) for b in range(a + 1, 40))
    sizes = np.bincount(ranks(spend, policy))[1:][::-1]
    assert sizes.tolist() == [least[1], least[2] - least[1], 40 - least[2]]


def test_too_few_different_values_cannot_be_clustered():
    policy = make_policy([Tier(name=name) for name in "abc"], method="kmeans")
    with pytest.raises(PolicyError, match="3 tiers by kmeans need as many different values"):
        ranks([1, 1, 2, 2], policy)


def test_a_border_in_money_belongs_to_the_tier_above_it():
    policy = make_policy(
        [Tier(name="a", at_least=100), Tier(name="b", at_least=10), Tier(name="c")],
        method="threshold",
    )
    assert ranks([100, 99.99, 10, 9.99, 0], policy).tolist() == [1, 2, 2, 3, 3]


def test_several_measures_count_alike_whatever_their_unit():
    policy = make_policy(
        [Tier(name="a", share=0.25), Tier(name="b", share=0.75)],
        measures=["expected_spend", "purchase_probability"],
    )
    two = frame([1e6, 3, 2, 1]).assign(purchase_probability=[0.1, 0.9, 0.3, 0.2])
    assert draw(two, policy).rank.tolist() == [2, 1, 2, 2]


@pytest.mark.parametrize("preset", ["shopify_rfm", "klaviyo_rfm"])
def test_every_group_of_rfm_scores_is_reached_and_holds_its_scores_only(preset):
    policy = read_policy(DEFAULT_POLICY.with_name("tier_policies") / f"{preset}.yml")
    cells = np.array([(r, f, m) for r in range(1, 6) for f in range(1, 6) for m in range(1, 6)])
    scores = dict(zip(policy.columns, cells.T, strict=True))
    customers = pd.DataFrame({"customer_id": [f"{i:03}" for i in range(125)], **scores})
    drawn = draw(customers, policy)
    assert set(drawn.rank) == set(range(1, len(policy.tiers) + 1))
    for (r, f, m), rank in zip(cells, drawn.rank, strict=True):
        tier = policy.tiers[rank - 1]
        assert tier.recency[0] <= r <= tier.recency[1]
        assert tier.frequency_monetary[0] <= (f + m) / 2 <= tier.frequency_monetary[1]
    assert drawn.tier[-1] == "champions"
    assert drawn.tier[0] in ("dormant", "inactive")


def test_a_customer_who_comes_twice_or_has_no_value_is_refused():
    twice = frame([1, 2]).assign(customer_id="a")
    with pytest.raises(ValueError, match="customer a is there twice"):
        draw(twice, POLICY)
    with pytest.raises(ValueError, match="one finite expected_spend for each customer"):
        draw(frame([1, np.nan]), POLICY)


def test_the_first_tiers_are_as_drawn_and_begin_today():
    (first,) = replay(POLICY, [np.arange(40.0)])
    assert (first["tier"] == first["drawn_tier"]).all()
    assert set(first["decided_by"]) == {"measure"}
    assert first["previous_tier"].isna().all()
    assert (first["tier_since"] == DAY).all()
    assert first["past_border_since"].isna().all()


def test_a_customer_moves_only_well_past_the_border_and_after_the_days():
    """Eight customers; the one of 60 passes the border of gold, which is at 70."""
    calm = [100, 70, 60, 50, 5, 4, 3, 2]
    policy = policy_of(hysteresis={"margin": 0.2, "days": 2})
    just = [100, 70, 75, 50, 5, 4, 3, 2]
    far = [100, 70, 99, 50, 5, 4, 3, 2]

    def of_third(days):
        found = [day.iloc[2] for day in replay(policy, days)]
        return [(row["tier"], row["decided_by"]) for row in found]

    assert of_third([calm, just, just, just, just]) == [
        ("silver", "measure"), *[("silver", "hysteresis")] * 4,
    ]  # fmt: skip
    assert of_third([calm, far, far, far]) == [
        ("silver", "measure"), ("silver", "hysteresis"), ("silver", "hysteresis"),
        ("gold", "measure"),
    ]  # fmt: skip
    assert of_third([calm, far, calm, far, far]) == [
        ("silver", "measure"), ("silver", "hysteresis"), ("silver", "measure"),
        ("silver", "hysteresis"), ("silver", "hysteresis"),
    ]  # fmt: skip


def test_the_days_past_a_border_are_counted_from_the_first_and_the_stay_from_the_move():
    policy = policy_of(hysteresis={"days": 2})
    calm, far = [100, 70, 60, 50, 5, 4, 3, 2], [100, 70, 99, 50, 5, 4, 3, 2]
    days = [found.iloc[2] for found in replay(policy, [calm, far, far, far, far])]
    later = [DAY + timedelta(days=n) for n in range(5)]
    assert [row["past_border_since"] for row in days] == [None, later[1], later[1], None, None]
    assert [row["tier_since"] for row in days] == [later[0]] * 3 + [later[3]] * 2
    assert [row["previous_tier"] for row in days[1:]] == ["silver", "silver", "silver", "gold"]


def test_where_tiers_are_drawn_more_seldom_than_the_days_the_margin_alone_decides():
    policy = policy_of(hysteresis={"margin": 0.2, "days": 2})
    calm, far = frame([100, 70, 60, 50, 5, 4, 3, 2]), frame([100, 70, 99, 50, 5, 4, 3, 2])
    first = assign(calm, policy, DAY, None)
    monthly = assign(far, policy, DAY + timedelta(days=30), Previous(DAY, first.select(HELD)))
    assert monthly["tier"][2].as_py() == "gold"


def test_tiers_of_other_names_are_drawn_anew_and_say_what_was_before():
    first = assign(frame(np.arange(40.0)), POLICY, DAY, None)
    other = make_policy(
        [Tier(name="vip", share=0.5), Tier(name="rest", share=0.5)], hysteresis={"margin": 0.5}
    )
    second = assign(
        frame(np.arange(40.0)[::-1]),
        other,
        DAY + timedelta(days=1),
        Previous(DAY, first.select(HELD)),
    ).to_pandas()
    assert (second["tier"] == second["drawn_tier"]).all()
    assert set(second["previous_tier"]) == {"platinum", "gold", "silver", "bronze"}
    assert (second["tier_since"] == DAY + timedelta(days=1)).all()


def test_tiers_from_before_they_were_held_are_held_from_now_on():
    first = assign(frame([100, 70, 60, 50, 5, 4, 3, 2]), policy_of(), DAY, None).to_pandas()
    import pyarrow as pa

    old = pa.table({
        "customer_id": pa.array(first["customer_id"], pa.string()),
        "tier": pa.array(first["tier"], pa.string()),
        "tier_rank": pa.array(first["tier_rank"], pa.int32()),
        "drawn_tier_rank": pa.nulls(8, pa.int32()),
        "tier_since": pa.nulls(8, pa.date32()),
        "past_border_since": pa.nulls(8, pa.date32()),
    })  # fmt: skip
    policy = policy_of(hysteresis={"margin": 0.2})
    second = assign(
        frame([100, 70, 75, 50, 5, 4, 3, 2]), policy, DAY + timedelta(days=1), Previous(DAY, old)
    ).to_pandas()
    assert second["tier"].tolist() == first["tier"].tolist()
    assert (second["tier_since"] == DAY).all()
    assert second["decided_by"][2] == "hysteresis"


@settings(max_examples=60, deadline=None)
@given(st.data(), rules)
def test_more_spend_never_means_a_lower_tier_for_customers_of_the_same_history(data, rules):
    """A third of the customers are pairs who always spend the same, until today."""
    policy = make_policy(POLICY.tiers, **rules)
    size = 12
    days = data.draw(st.lists(st.lists(st.integers(0, 30), min_size=size, max_size=size),
                              min_size=2, max_size=6))  # fmt: skip
    tenure = np.array(data.draw(st.lists(st.sampled_from([5, 400]), min_size=size, max_size=size)))
    twin = [np.tile(day, 2).astype(float) for day in days]
    raised = np.concatenate([np.zeros(size), data.draw(
        st.lists(st.integers(0, 9), min_size=size, max_size=size).map(np.array))])  # fmt: skip
    # Two of the same history stand side by side from the first day on.
    same = [pd.Series(day) for day in twin]
    found = replay_of_twins(policy, same, raised, np.tile(tenure, 2))
    ranks_today = found["tier_rank"].to_numpy()
    known = found["is_same_history"].to_numpy()
    more = raised[size:] > 0
    assert (ranks_today[size:] <= ranks_today[:size])[more & known[:size]].all()


def replay_of_twins(policy, days, raised, tenure) -> pd.DataFrame:
    """The last day, on which the second twin spends more; and whether both stood alike before."""
    before, previous = None, None
    for place, spend in enumerate(days):
        day = DAY + timedelta(days=place)
        today = spend + (raised if place == len(days) - 1 else 0)
        drawn = assign(frame(today, tenure), policy, day, previous)
        before = previous
        previous = Previous(day, drawn.select(HELD))
    last = drawn.to_pandas()
    history = before.rows.to_pandas()[HELD[1:]].astype(str)
    half = len(history) // 2
    alike = (history[:half].to_numpy() == history[half:].to_numpy()).all(axis=1)
    return last.assign(is_same_history=np.tile(alike, 2))


def test_young_customers_wait_below_the_best_tier():
    policy = policy_of(minimum_tenure={"days": 30, "highest": "silver"})
    tenure = np.array([29, 30, 400, 400, 1, 1, 1, 1])
    (found,) = replay(policy, [[100, 90, 50, 40, 5, 4, 3, 2]], tenure)
    assert found["tier"].tolist()[:2] == ["silver", "gold"]
    assert found["decided_by"].tolist() == ["tenure"] + ["measure"] * 7
    assert found["past_border_since"].tolist()[:2] == [DAY, None]


def test_an_override_holds_to_its_last_day_and_against_every_other_rule():
    who = f"{7:032x}"
    policy = policy_of(
        overrides=[{"customer": who, "tier": "gold", "until": DAY}],
        minimum_tenure={"days": 30, "highest": "silver"},
    )
    one = frame([100, 70, 60, 50, 5, 4, 3, 2], np.full(8, 1), names="{:032x}")
    first = assign(one, policy, DAY, None)
    assert (first["tier"][7].as_py(), first["decided_by"][7].as_py()) == ("gold", "override")
    assert first["drawn_tier"][7].as_py() == "rest"
    second = assign(one, policy, DAY + timedelta(days=1), Previous(DAY, first.select(HELD)))
    assert second["tier"][7].as_py() == "rest"
    assert second["previous_tier"][7].as_py() == "gold"


def test_whoever_is_too_many_goes_one_tier_down_the_lowest_first_and_overrides_stay():
    who = f"{7:032x}"
    tiers = [
        Tier(name="gold", at_least=50, most_customers=2),
        Tier(name="silver", at_least=10, most_share=0.25),
        Tier(name="rest"),
    ]
    policy = make_policy(
        tiers,
        method="threshold",
        overrides=[{"customer": who, "tier": "gold", "until": DAY}],
    )
    one = frame([100, 90, 80, 20, 15, 3, 2, 1], names="{:032x}")
    found = assign(one, policy, DAY, None).to_pandas()
    assert found["tier"].tolist() == [
        "gold", "silver", "silver", "rest", "rest", "rest", "rest", "gold",
    ]  # fmt: skip
    assert found["decided_by"].tolist() == [
        "measure", "cap", "cap", "cap", "cap", "measure", "measure", "override",
    ]  # fmt: skip


def test_of_those_too_many_whoever_stood_in_the_tier_is_passed_by_more_than_the_margin():
    tiers = [Tier(name="gold", at_least=50, most_customers=1), Tier(name="rest")]
    policy = make_policy(tiers, method="threshold", hysteresis={"margin": 0.2})
    first = assign(frame([60, 55]), policy, DAY, None)
    assert first["tier"].to_pylist() == ["gold", "rest"]
    previous = Previous(DAY, first.select(HELD))

    def next_day(spend):
        drawn = assign(frame(spend), policy, DAY + timedelta(days=1), previous)
        return list(zip(drawn["tier"].to_pylist(), drawn["decided_by"].to_pylist(), strict=True))

    assert next_day([60, 71]) == [("gold", "measure"), ("rest", "cap")]
    assert next_day([60, 73]) == [("rest", "cap"), ("gold", "measure")]


@settings(max_examples=40, deadline=None)
@given(st.lists(spends.filter(lambda v: v.size >= 8), min_size=2, max_size=2), rules)
def test_whoever_stands_elsewhere_than_drawn_has_a_reason_and_a_day(days, rules):
    size = min(day.size for day in days)
    tenure = np.arange(size) * 10
    policy = make_policy(POLICY.tiers, **rules)
    for found in replay(policy, [day[:size] for day in days], tenure):
        differs = found["tier"] != found["drawn_tier"]
        assert (differs <= (found["decided_by"] != "measure")).all()
        assert (found["past_border_since"].notna() == differs).all()
        assert found["tier"].isin(policy.names).all()


def test_hysteresis_halves_the_moves_and_the_first_tier_is_worth_the_same():
    """Sixty days of simulated scores: a customer's worth changes slowly, and what a model says of
    it wobbles from day to day. `make test-all` replays a real shop."""
    rng = np.random.default_rng(0)
    n, days = 4_000, 60
    worth = rng.lognormal(3, 1.2, n)
    drift = np.cumsum(rng.normal(0, 0.02, (days, n)), axis=0)
    wobble = rng.normal(0, 0.08, (days, n))
    said = (worth * np.exp(drift + wobble)).round(2)
    spent = worth * np.exp(drift) * rng.gamma(2, 0.5, (days, n))
    moves, captured = {}, {}
    for name, policy in (("held", POLICY), ("drawn", make_policy(POLICY.tiers))):
        found = replay(policy, said)
        ranks = np.array([day["tier_rank"] for day in found])
        moves[name] = (ranks[1:] != ranks[:-1]).sum()
        top = ranks == 1
        # What as many customers, ranked first, bring: a fuller tier is no better tier.
        captured[name] = (spent * top).sum() / top.sum()
    assert moves["held"] <= 0.5 * moves["drawn"]
    assert captured["held"] >= 0.99 * captured["drawn"]
