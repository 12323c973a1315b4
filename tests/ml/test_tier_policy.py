"""A policy is followed as it is written, or refused with what to change."""

import re
from datetime import date

import pytest

from ml.tier_policy import (
    DEFAULT_POLICY,
    MEASURES,
    Method,
    PolicyError,
    Tier,
    make_policy,
    read_policy,
)

POLICY = read_policy()
PRESETS = sorted(DEFAULT_POLICY.with_name("tier_policies").glob("*.yml"))
WHO = "0123456789abcdef" * 2
HALVES = "tiers:\n  - {name: a, share: 0.5}\n  - {name: b, share: 0.5}\n"


def test_the_version_is_of_what_the_policy_says_and_not_of_how_it_is_written(tmp_path):
    plain = DEFAULT_POLICY.read_text()
    same, other = tmp_path / "same.yml", tmp_path / "other.yml"
    same.write_text("# another comment\nmethod: quantile\n" + plain)
    other.write_text(plain.replace("platinum", "diamond"))
    assert read_policy(same).version == POLICY.version
    assert read_policy(other).version != POLICY.version
    assert make_policy(POLICY.tiers).version != POLICY.version  # without its hysteresis


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_can_be_followed(path):
    policy = read_policy(path)
    assert len(policy.tiers) > 1
    assert policy.version != POLICY.version


def test_the_groups_of_shopify_and_klaviyo_are_presets():
    found = {path.stem: len(read_policy(path).tiers) for path in PRESETS}
    assert found == {"shopify_rfm": 10, "klaviyo_rfm": 6}  # nobody without an order is scored


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (HALVES.replace("share: 0.5}", "share: 0.6}", 1), "add up to 1.1"),
        (HALVES.replace("name: b", "name: a"), "a is there twice"),
        (HALVES.replace("0.5", "0"), "`share` in tier 1: input should be greater than 0"),
        (HALVES.replace("0.5", "half"), "`share` in tier 1: input should be a valid number"),
        ("tiers:\n  - {name: a}", "a needs `share` for the method quantile"),
        ("tiers:\n  - {share: 1}", "`name` is missing in tier 1"),
        ("tiers: []", "no tiers"),
        ("levels: []", "`tiers` is missing; unknown key `levels`; allowed are method, measures"),
        ("[]", "must say at least `tiers:`"),
        ("tiers: [", "is not YAML"),
        (HALVES.replace("share: 0.5}", "shar: 0.5}", 1), "unknown key `shar` in tier 1; allowed"),
        (HALVES + "hysteresis: {margins: 0.1}", "unknown key `margins` in hysteresis; allowed"),
        (HALVES + "hysteresis: {margin: 1.5}", "`margin` in hysteresis: input should be less"),
        (HALVES + "hysteresis: {}", "no margin and no days"),
        (HALVES + "measures: expected_spend", "`measures` must be a list"),
        (HALVES + "minimum_tenure: 30", "`minimum_tenure` must be a mapping of days, highest"),
        (HALVES + "measures: [clicks]", "unknown measure 'clicks'; there are expected_spend"),
        (HALVES + "measures: [rfm_score, rfm_score]", "there twice"),
        (HALVES + "method: guess", "unknown method 'guess'; there are quantile, threshold"),
        (HALVES + "method: kmeans", "a says `share`, which the method kmeans does not know"),
        (HALVES + "measures: [spend_90d]\nhorizon_days: 30", "no measure is one"),
        (HALVES + "minimum_tenure: {days: 30, highest: c}", "names 'c', and there are a, b"),
        (HALVES + "minimum_tenure: {days: 30, highest: a}", "holds nobody back"),
        (HALVES.replace("b, ", "b, most_share: 0.1, "), "the last tier, b, takes everybody else"),
        (
            "method: threshold\ntiers:\n  - {name: a, at_least: 50}\n"
            "  - {name: b, at_least: 100}\n  - {name: c}",
            "the borders overlap: a begins at 50 and b, below it, at 100",
        ),
        (
            "method: threshold\ntiers:\n  - {name: a, at_least: 50}\n"
            "  - {name: b, at_least: 50}\n  - {name: c}",
            "b cannot hold anybody: a begins at 50 too",
        ),
        (
            "method: threshold\ntiers:\n  - {name: a, at_least: 0}\n  - {name: b}",
            "b cannot hold anybody",
        ),
        (
            "method: threshold\nmeasures: [purchase_probability]\ntiers:\n"
            "  - {name: a, at_least: 2}\n  - {name: b}",
            "no probability is 2",
        ),
        (
            "method: threshold\ntiers:\n  - {name: a, at_least: 9}\n  - {name: b, at_least: 1}",
            "leave its `at_least` out",
        ),
        (
            "method: threshold\nmeasures: [spend_90d, spend_30d]\ntiers:\n"
            "  - {name: a, at_least: 9}\n  - {name: b}",
            "takes one measure",
        ),
        (
            "method: rfm\ntiers:\n  - {name: a, recency: [1, 5], frequency_monetary: [1, 5]}\n"
            "  - {name: b, recency: [1, 1], frequency_monetary: [1, 1]}",
            "the borders overlap: recency 1 with frequency_monetary 1 is in a and in b",
        ),
        (
            "method: rfm\ntiers:\n  - {name: a, recency: [2, 5], frequency_monetary: [1, 5]}",
            "no tier holds recency 1 with frequency_monetary 1",
        ),
        (
            "method: rfm\ntiers:\n  - {name: a, recency: [5, 1], frequency_monetary: [1, 5]}",
            "a cannot hold anybody",
        ),
        (
            HALVES + f"overrides: [{{customer: {WHO}, tier: c, until: 2026-01-01}}]",
            "names the tier 'c'",
        ),
        (
            HALVES + f"overrides:\n  - &o {{customer: {WHO}, tier: a, until: 2026-01-01}}\n  - *o",
            f"two overrides of {WHO}",
        ),
        (HALVES + f"overrides: [{{customer: {WHO}, tier: a}}]", "`until` is missing in override 1"),
    ],
)
def test_a_policy_that_cannot_be_followed_says_why_and_where(tmp_path, text, says):
    path = tmp_path / "policy.yml"
    path.write_text(text)
    with pytest.raises(PolicyError) as refused:
        read_policy(path)
    assert says in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_name_or_address_is_refused_as_a_customer_and_not_repeated(tmp_path):
    path = tmp_path / "policy.yml"
    path.write_text(HALVES + "overrides: [{customer: ann@example.com, tier: a, until: 2026-01-01}]")
    with pytest.raises(PolicyError, match="must be a pseudonym of 32 hexadecimal") as refused:
        read_policy(path)
    assert "ann@" not in str(refused.value)


def test_a_policy_that_is_not_there_is_named(tmp_path):
    with pytest.raises(PolicyError, match=r"absent\.yml"):
        read_policy(tmp_path / "absent.yml")


def test_an_override_that_ended_does_nothing_and_is_said():
    policy = make_policy(
        POLICY.tiers, overrides=[{"customer": WHO, "tier": "gold", "until": date(2026, 1, 1)}]
    )
    assert policy.warnings(date(2026, 1, 1)) == []
    assert len(policy.overrides_on(date(2026, 1, 1))) == 1
    (said,) = policy.warnings(date(2026, 1, 2))
    assert "ended on 2026-01-01" in said
    assert policy.overrides_on(date(2026, 1, 2)) == ()


def test_a_cap_of_customers_and_of_a_share_holds_both():
    tier = Tier(name="a", share=0.5, most_customers=30, most_share=0.1)
    assert (tier.room(100), tier.room(1000)) == (10, 30)


def test_every_method_and_measure_is_on_the_how_to_page():
    page = DEFAULT_POLICY.parent.parent / "docs" / "how-to" / "draw-your-tiers.md"
    text = page.read_text()
    assert [word for word in (*Method, *MEASURES) if f"`{word}`" not in text] == []


def test_the_policy_on_the_how_to_page_can_be_followed(tmp_path):
    page = DEFAULT_POLICY.parent.parent / "docs" / "how-to" / "draw-your-tiers.md"
    (text,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S)
    file = tmp_path / "our_tiers.yml"
    file.write_text(text)
    assert read_policy(file).names == ("vip", "regular", "rest")
