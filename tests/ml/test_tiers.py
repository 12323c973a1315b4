import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.tiers import DEFAULT_POLICY, PolicyError, Tier, assign, make_policy, read_policy, summarise

POLICY = read_policy()

shares = st.lists(st.integers(1, 20), min_size=1, max_size=6).map(
    lambda parts: make_policy([Tier(f"t{i}", part / sum(parts)) for i, part in enumerate(parts)])
)
spends = st.lists(st.integers(-5, 50), min_size=1, max_size=80).map(lambda v: np.array(v, float))


@given(spends, shares)
def test_every_customer_is_in_one_tier_and_more_spend_never_means_a_lower_one(spend, policy):
    drawn = assign(spend, np.arange(spend.size), policy)
    names = [tier.name for tier in policy.tiers]
    assert [names[rank - 1] for rank in drawn.rank] == list(drawn.tier)
    by_spend = drawn.rank[np.lexsort((drawn.rank, -spend))]
    assert (np.diff(by_spend) >= 0).all()
    ends = np.cumsum([tier.share for tier in policy.tiers]) * spend.size
    for rank, end in enumerate(ends, 1):
        assert abs((drawn.rank <= rank).sum() - end) <= 0.5 + 1e-6


@given(spends, st.randoms())
def test_the_order_of_the_rows_changes_nobodys_tier(spend, random):
    customers = np.array([f"c{i:03}" for i in range(spend.size)])
    shuffled = list(range(spend.size))
    random.shuffle(shuffled)
    here = assign(spend, customers, POLICY)
    there = assign(spend[shuffled], customers[shuffled], POLICY)
    assert list(here.rank[shuffled]) == list(there.rank)


def test_the_default_policy_is_five_fifteen_thirty_and_the_rest():
    drawn = assign(np.arange(200.0), np.arange(200), POLICY)
    assert [(drawn.tier == name).sum() for name in ("platinum", "gold", "silver", "bronze")] == [
        10, 30, 60, 100,
    ]  # fmt: skip
    assert drawn.tier[-1] == "platinum" and drawn.tier[0] == "bronze"


def test_the_summary_accounts_for_every_customer_and_all_money():
    rng = np.random.default_rng(0)
    expected, realised = rng.gamma(1, 50, 333), rng.gamma(1, 40, 333)
    drawn = assign(expected, np.arange(333), POLICY)
    rows = summarise(drawn, expected, realised)
    assert [row.tier for row in rows] == ["platinum", "gold", "silver", "bronze"]
    assert sum(row.customers for row in rows) == 333
    assert sum(row.expected_spend for row in rows) == pytest.approx(expected.sum())
    assert sum(row.realised_spend for row in rows) == pytest.approx(realised.sum())
    gold = drawn.tier == "gold"
    assert (rows[1].rank, rows[1].customers) == (2, gold.sum())
    assert rows[1].expected_spend == pytest.approx(expected[gold].sum())
    assert rows[1].realised_spend == pytest.approx(realised[gold].sum())


def test_a_tier_that_nobody_is_in_is_in_the_summary():
    one = np.array([10.0])
    rows = summarise(assign(one, one, POLICY), one, one)
    assert [row.customers for row in rows].count(0) == 3
    assert sum(row.realised_spend for row in rows) == 10


def test_the_version_is_of_what_the_policy_says_and_not_of_how_it_is_written(tmp_path):
    plain = DEFAULT_POLICY.read_text()
    same, other = tmp_path / "same.yml", tmp_path / "other.yml"
    same.write_text("# another comment\n" + plain)
    other.write_text(plain.replace("platinum", "diamond"))
    assert read_policy(same).version == POLICY.version
    assert read_policy(other).version != POLICY.version


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tiers:\n  - {name: a, share: 0.5}\n  - {name: b, share: 0.6}", "add up to 1.1"),
        ("tiers:\n  - {name: a, share: 0.5}\n  - {name: a, share: 0.5}", "a is there twice"),
        ("tiers:\n  - {name: a, share: 0}\n  - {name: b, share: 1}", "a must be above 0"),
        ("tiers:\n  - {name: a, share: half}", "not 'half'"),
        ("tiers:\n  - {name: a}", "tier 1 must have a name and a share"),
        ("tiers: []", "no tiers"),
        ("levels: []", "one list, `tiers`"),
        ("tiers: [", "is not YAML"),
    ],
)
def test_a_policy_that_cannot_be_followed_says_why_and_where(tmp_path, text, says):
    path = tmp_path / "policy.yml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=says) as refused:
        read_policy(path)
    assert str(path) in str(refused.value)


def test_a_policy_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PolicyError, match=r"absent\.yml"):
        read_policy(tmp_path / "absent.yml")


def test_a_customer_who_comes_twice_is_refused():
    with pytest.raises(ValueError, match="customer a is there twice"):
        assign(np.array([1.0, 2.0]), np.array(["a", "a"]), POLICY)
