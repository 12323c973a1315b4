import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import lightgbm_hurdle, reasons
from ml.lightgbm_hurdle import Config
from ml.reasons import (
    DEFAULT_FAMILIES,
    WORTH_SAYING,
    ReasonsError,
    dependence,
    effects,
    importance,
    read_families,
    top_reasons,
)
from ml.treeshap import contributions

FAMILIES = read_families()
PLACES = {name: place for place, name in enumerate(FAMILIES.names)}
FEATURES_YML = Path(__file__).parents[2] / "dbt_project/models/features/customer_features.yml"
STYLES_OF_UNIT = {
    "days": {"whole"},
    "orders": {"whole"},
    "currency": {"money"},
    "0 to 1": {"percent"},
    "rating": {"decimal"},
    "lines": {"decimal"},
    "units": {"decimal"},
    "name": {"name"},
}


def described_columns():
    models = yaml.safe_load(FEATURES_YML.read_text(encoding="utf-8"))["models"]
    return {column["name"]: column for model in models for column in model["columns"]}


COLUMNS = described_columns()
NUMERIC = [name for name, about in COLUMNS.items() if about["data_type"] not in ("text", "date")]


def make_shop(customers, seed=0):
    """Who bought lately buys again, and whose orders are large spends much; the rest is noise."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "customer_id": [f"c{i:04}" for i in range(customers)],
        "as_of_date": pd.Timestamp("2024-03-01"),
        "recency_days": rng.integers(1, 300, customers),
        "overdue_ratio": rng.gamma(2, 1, customers),
        "average_order_value": rng.lognormal(4, 1, customers).round(2),
        "discount_share": rng.beta(1, 4, customers),
        "history_days": rng.integers(1, 700, customers),
        "something_new": rng.normal(size=customers),
        "has_events": False,
    })  # fmt: skip
    frame.loc[rng.random(customers) < 0.2, "overdue_ratio"] = np.nan
    logit = 1.5 - 0.02 * frame["recency_days"] + 0.3 * frame["something_new"]
    buys = rng.random(customers) < 1 / (1 + np.exp(-logit))
    amount = frame["average_order_value"] * rng.lognormal(0, 0.3, customers)
    return frame, pd.DataFrame({"spend": np.where(buys, amount, 0.0), "is_purchased": buys})


@pytest.fixture(scope="module")
def fitted():
    frame, labels = make_shop(1000)
    config = Config(rounds=30, learning_rate=0.1, min_data_in_leaf=20)
    return lightgbm_hurdle.fit(frame, labels, 30, config), frame


def matrix(model, frame):
    return frame[list(model.features)].to_numpy(dtype=float)


def forced(frame, **effect):
    """top_reasons of customers on whom these families have these effects, and no other has."""
    all_effects = np.zeros((len(frame), len(PLACES)))
    for family, value in effect.items():
        all_effects[:, PLACES[family]] = value
    return top_reasons(frame, all_effects, FAMILIES)


def said(frame, language="en", **effect):
    return list(getattr(forced(pd.DataFrame(frame), **effect), f"text_{language}"))


def random_frame(customers, seed):
    """Every column that a sentence or condition knows, with all that can go wrong in it."""
    rng = np.random.default_rng(seed)
    some = [np.nan, -60.0, 0.0, 0.004, 0.3, 1.0, 1.5, 40.0, 1234.567]
    frame = pd.DataFrame({name: rng.choice(some, customers) for name in NUMERIC})
    return frame.assign(top_category=rng.choice(["GROCERY", "TOYS", "", None], customers))


def test_contributions_add_up_to_the_score_of_each_booster(fitted):
    model, frame = fitted
    values = matrix(model, frame)
    total = contributions(model.purchase, values).sum(axis=1)
    assert model.purchase.predict(values) == pytest.approx(1 / (1 + np.exp(-total)), abs=1e-9)
    total = contributions(model.amount, values).sum(axis=1)
    assert model.amount.predict(values) == pytest.approx(np.exp(total), rel=1e-9)
    assert contributions(model.amount, values[:0]).shape == (0, len(model.features) + 1)


def test_contributions_of_other_trees_are_refused(fitted):
    model, frame = fitted

    class Changed:
        def predict(self, values, raw_score=False, **how):
            return model.amount.predict(values, raw_score=raw_score, **how) + 2e-6 * raw_score

    with pytest.raises(ValueError, match="differ by 2e-06"):
        contributions(Changed(), matrix(model, frame))


def test_effects_are_the_slope_of_log_expected_spend(fitted):
    model, frame = fitted
    values = matrix(model, frame)
    purchase, amount = (contributions(b, values) for b in (model.purchase, model.amount))
    found = effects(model, frame, FAMILIES)
    step = 1e-6
    for place, family in enumerate(FAMILIES.all):
        columns = [i for i, name in enumerate(model.features) if name in family.columns]
        if not columns:
            continue

        def log_spend(share, columns=columns):
            logit = purchase.sum(axis=1) + share * purchase[:, columns].sum(axis=1)
            log_amount = amount.sum(axis=1) + share * amount[:, columns].sum(axis=1)
            return log_amount - np.log1p(np.exp(-logit))

        slope = (log_spend(step) - log_spend(-step)) / (2 * step)
        assert found[:, place] == pytest.approx(slope, abs=1e-6)


def test_no_contribution_is_lost_between_features_and_families(fitted):
    model, frame = fitted
    values = matrix(model, frame)
    purchase, amount = (contributions(b, values)[:, :-1] for b in (model.purchase, model.amount))
    rest = 1 - model.purchase.predict(values)
    found = effects(model, frame, FAMILIES)
    assert found.sum(axis=1) == pytest.approx(purchase.sum(axis=1) * rest + amount.sum(axis=1))
    place = model.features.index("something_new")
    alone = purchase[:, place] * rest + amount[:, place]
    assert np.abs(alone).max() > 0.01
    assert found[:, PLACES["other"]] == pytest.approx(alone)


def test_parts_and_threads_change_nothing(fitted, monkeypatch):
    model, frame = fitted
    whole = effects(model, frame, FAMILIES)
    monkeypatch.setattr(reasons, "ROWS_AT_ONCE", 400)
    assert effects(model, frame, FAMILIES, num_threads=2) == pytest.approx(whole, abs=1e-12)
    assert effects(model, frame[:0], FAMILIES).shape == (0, len(PLACES))


def test_what_drives_the_shop_is_what_is_said(fitted):
    model, frame = fitted
    found = top_reasons(frame, effects(model, frame, FAMILIES), FAMILIES)
    first = pd.Series(found.family[found.offsets[:-1]]).value_counts()
    assert set(first.index[:2]) == {"last_order", "order_value"}
    about = pd.DataFrame({"family": found.family, "effect": found.effect})
    about["customer"] = np.repeat(np.arange(len(frame)), np.diff(found.offsets))
    recency = about[about["family"] == "last_order"].set_index("customer")["effect"]
    days = frame["recency_days"].loc[recency.index]
    assert recency[days < 30].min() > 1
    assert recency[days > 250].max() < 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_reasons_are_few_ordered_complete_and_the_same_in_any_order_of_rows(seed, most):
    frame = random_frame(40, seed)
    rng = np.random.default_rng(seed)
    drawn = rng.normal(0, 0.3, (40, len(PLACES))) * rng.integers(0, 2, (40, len(PLACES)))
    found = top_reasons(frame, drawn, FAMILIES, most)
    counts = np.diff(found.offsets)
    assert found.offsets[0] == 0 and found.offsets[-1] == len(found.effect)
    assert counts.max() <= most
    strength = np.abs(np.log(found.effect))
    assert (strength >= WORTH_SAYING).all()
    customer = np.repeat(np.arange(40), counts)
    same = customer[1:] == customer[:-1]
    assert (np.diff(strength)[same] <= 1e-12).all()
    assert ((found.effect > 1) == (found.direction == "+")).all()
    assert not pd.DataFrame({"c": customer, "f": found.family}).duplicated().any()
    assert "records" not in found.family
    for english, chinese in zip(found.text_en, found.text_zh, strict=True):
        assert re.search("[a-z]", english) and not re.search("[\u4e00-\u9fff，]", english)
        assert re.search("[\u4e00-\u9fff]", chinese)
        assert not re.search(r"nan|None|[{}_|]|-0\b|  |\.$", english + chinese)
    order = rng.permutation(40)
    again = top_reasons(frame.iloc[order], drawn[order], FAMILIES, most)
    texts = np.split(found.text_en, found.offsets[1:-1])
    assert list(again.text_en) == [text for i in order for text in texts[i]]


def test_the_strongest_are_chosen_and_what_hardly_matters_is_not_said():
    frame = pd.DataFrame({"frequency_orders": [5, 5], "recency_days": [3, 3], "rfm_score": [9, 9]})
    drawn = np.zeros((2, len(PLACES)))
    drawn[0, [PLACES[name] for name in ("last_order", "rfm", "returns", "other")]] = [
        0.1, -0.4, 0.2, 0.3,
    ]  # fmt: skip
    drawn[1, [PLACES[name] for name in ("last_order", "rfm", "records")]] = [
        np.log(1.019), -np.log(1.021), 5,
    ]  # fmt: skip
    found = top_reasons(frame, drawn, FAMILIES)
    assert list(found.family) == ["rfm", "other", "returns", "rfm"]
    assert list(found.offsets) == [0, 3, 4]
    assert list(found.direction) == ["-", "+", "+", "-"]
    assert found.effect == pytest.approx([np.exp(-0.4), np.exp(0.3), np.exp(0.2), 1 / 1.021])
    none = top_reasons(frame[:0], drawn[:0], FAMILIES)
    assert list(none.offsets) == [0] and none.text_zh.size == 0


def test_equal_reasons_come_in_the_order_of_the_file():
    frame = pd.DataFrame({"recency_days": [3]})
    found = forced(frame, reviews=-0.5, prices=0.5, last_order=0.5, visits=0.5)
    assert list(found.family) == ["last_order", "prices", "visits"]


def test_effects_of_other_customers_are_refused():
    with pytest.raises(ValueError, match="2 customers"):
        top_reasons(pd.DataFrame({"recency_days": [1, 2]}), np.zeros((3, len(PLACES))), FAMILIES)


def test_reasons_become_an_arrow_list_for_each_customer():
    frame = random_frame(50, seed=3)
    drawn = np.random.default_rng(0).normal(0, 0.05, (50, len(PLACES)))
    drawn[7] = 0
    found = top_reasons(frame, drawn, FAMILIES)
    names = ("family", "direction", "effect", "text_en", "text_zh")
    each = pa.StructArray.from_arrays([pa.array(getattr(found, name)) for name in names], names)
    column = pa.ListArray.from_arrays(pa.array(found.offsets), each).to_pylist()
    assert len(column) == 50 and column[7] == []
    assert column[8][0]["family"] == found.family[found.offsets[8]]
    assert [type(value) for value in column[8][0].values()] == [str, str, float, str, str]


def test_every_numeric_feature_has_one_family_and_no_family_names_another_column():
    named = [column for family in FAMILIES.all for column in family.columns]
    assert sorted(named) == sorted(NUMERIC)
    assert FAMILIES.membership([*NUMERIC, "unheard_of"]).sum(axis=1).tolist() == [1.0] * (
        len(NUMERIC) + 1
    )
    assert FAMILIES.membership(["unheard_of"])[0, PLACES["other"]] == 1


def test_sentences_know_only_columns_that_are_described_and_say_them_in_their_unit():
    for family in FAMILIES.all:
        for sentence in family.sentences:
            assert set(sentence.columns) <= set(COLUMNS)
            for part in (part for parts in sentence.texts.values() for part in parts):
                if part.column:
                    unit = COLUMNS[part.column]["config"]["meta"]["unit"]
                    allowed = STYLES_OF_UNIT.get(unit, {"whole", "percent"})
                    assert part.style in allowed, part
        for join in family.joins:
            assert {condition.column for condition in join.conditions} <= set(COLUMNS)


def test_no_column_name_is_said_and_the_languages_differ_between_raising_and_lowering():
    for family in FAMILIES.all:
        plain = [sentence for sentence in family.sentences if not sentence.columns]
        assert [sentence.only for sentence in plain] == ["raises", "lowers"]
        for language in reasons.LANGUAGES:
            assert len({sentence.texts[language] for sentence in plain}) == 2
        for sentence in family.sentences:
            words = "".join(part.text for parts in sentence.texts.values() for part in parts)
            assert "_" not in words


def test_every_sentence_of_the_file_is_said_of_somebody():
    frame = random_frame(4000, seed=1)
    for family in FAMILIES.all:
        if family.of_the_shop:
            continue
        for way, effect in (("raises", 0.5), ("lowers", -0.5)):
            texts = set(said(frame, **{family.name: effect}))
            for sentence in family.sentences:
                if sentence.only in ("", way):
                    parts = sentence.texts["en"]
                    pattern = "".join(re.escape(p.text) + ".+" * bool(p.column) for p in parts)
                    assert any(re.fullmatch(pattern, text) for text in texts), parts


def test_an_account_manager_reads_what_happened():
    frame = {
        "recency_days": [45, 1, 8, 8],
        "order_gap_mean_days": [12.4, 12.4, np.nan, np.inf],
        "overdue_ratio": [3.6, 0.1, np.nan, 0.0],
        "frequency_orders": [5, 5, 5, 5],
    }
    assert said(frame, last_order=-0.5) == [
        "No order for 45 days; usually 12 days between orders",
        "Last order 1 day ago; usually 12 days between orders",
        "No order for 8 days",
        "No order for 8 days",
    ]
    assert said(frame, "zh", last_order=0.5) == [
        "45 天前下过单；通常每 12 天一次",
        "1 天前下过单；通常每 12 天一次",
        "8 天前下过单",
        "8 天前下过单",
    ]
    assert said({"other_column": [1]}, last_order=-0.5) == [
        "The time since the last order is not a good sign"
    ]


def test_names_are_said_where_they_are_known():
    frame = {"distinct_categories": [4, 1, 4, 4], "distinct_products": [1200, 3, 1, np.nan],
             "top_category": ["TOYS", "TOYS", "", "TOYS"]}  # fmt: skip
    assert said(frame, variety=0.5) == [
        "Has bought 1,200 products from 4 categories, most of all TOYS",
        "Buys from one category only: TOYS",
        "Has bought one product only",
        "The variety of what they buy is a good sign",
    ]


@pytest.mark.parametrize(
    ("style", "values", "texts"),
    [
        ("whole", [0, 0.6, 1.2, 1234567, -0.2], ["0", "1", "1", "1,234,567", "0"]),
        ("whole", [-0.2], ["0"]),
        ("decimal", [0, 1.04, 2.46, 10.4, 9.96], ["0", "1", "2.5", "10", "10"]),
        ("money", [0, 45, 45.5, 99.994, 99.996, 1234.56, -12.346],
         ["0", "45", "45.50", "99.99", "100", "1,235", "-12.35"]),
        ("percent", [0, 0.004, 0.153, 0.997, 1, 1.2], ["0%", "<1%", "15%", ">99%", "100%", "120%"]),
    ],
)  # fmt: skip
def test_numbers_are_rounded_as_one_would_say_them(style, values, texts):
    part = reasons.Part("", "any", style)
    assert list(reasons._said(np.array(values, dtype=float), part)) == texts
    counted = reasons.Part("", "any", style, ("thing", "things"))
    expected = [f"{text} {'thing' if text == '1' else 'things'}" for text in texts]
    assert list(reasons._said(np.array(values, dtype=float), counted)) == expected


def test_one_order_is_one_reason_and_not_five():
    frame = pd.DataFrame(
        {"frequency_orders": [1, 6], "orders_365d": [0, 6], "recency_days": [20, 20]}
    )
    parts = {"last_order": 0.1, "recent_orders": 0.2, "recent_spend": 0.3, "trend": -0.05}
    found = forced(frame, **parts)
    assert list(found.offsets) == [0, 1, 4]
    assert found.text_en[0] == "The only order was 20 days ago"
    assert found.effect[0] == pytest.approx(np.exp(0.55))
    assert found.effect[1] == pytest.approx(np.exp(0.3))


def test_what_one_sentence_says_is_not_said_again():
    """Of a customer of this year who has not come back for a while, money and orders are one."""
    frame = {
        "tenure_days": [300, 300, 500], "frequency_orders": [4, 4, 4], "orders_365d": [4, 4, 3],
        "orders_90d": [0, 1, 1], "spend_365d": [80.0, 80, 70], "spend_90d": [0.0, 9, 9],
        "orders_30d": [0, 1, 0], "monetary_total": [80.0, 80, 90],
    }  # fmt: skip
    found = forced(pd.DataFrame(frame), recent_spend=-0.4, recent_orders=-0.3, lifetime_spend=-0.2)
    assert list(found.text_en) == [
        "4 orders for 80 in the last year, none in the last 90 days",
        "Spent 9 in the last 90 days, 80 in the last year",
        "1 order in the last 30 days, 1 in the last 90",
        "Spent 9 in the last 90 days, 70 in the last year",
        "1 order in the last 90 days, 3 in the last year",
        "Has spent 90 so far",
    ]
    assert np.log(found.effect) == pytest.approx([-0.9, -0.6, -0.3, -0.4, -0.3, -0.2])


def test_what_the_shop_has_no_record_of_is_no_reason():
    frame = pd.DataFrame({"has_events": [False, True], "sessions_365d": [np.nan, 0]})
    found = forced(frame, visits=-1.0)
    assert list(found.offsets) == [0, 0, 1]
    assert list(found.text_en) == ["No visit in the last year"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("families: [", "not YAML"),
        ("reasons: {}", "mapping `families`"),
        ("families: {}", "the last family"),
        (("columns: []", "columns: [recency_days]"), "recency_days must belong to one"),
        (("columns: []", "columns: [novelty]"), "the last family takes all other columns"),
        (("when: sessions_365d == 0", "when: sessions_365d is 0"), "family visits.*compares"),
        (("{only: raises, en: Recent spend", "{only: rises, en: Recent spend"), "not rises"),
        (("zh: \"首单 {first_order_value:money}\"", "zh: 首单"), "says other values"),
        (("{rfm_score} of", "{rfm_score:point} of"), "family rfm.*not a value"),
        (("{family: tenure,", "{family: tenures,"), "no family tenures"),
        (("of_the_shop: true", "of_shop: true"), "family records.*of_shop"),
        (("{only: lowers, en: Other", "{only: raises, en: Other"), "family other.*for lowers"),
        (("{en: Returns, zh: 退货}", "{en: Returns}"), "family returns.*zh"),
    ],
)  # fmt: skip
def test_families_that_cannot_be_followed_are_refused_by_name(tmp_path, changed, says):
    path = tmp_path / "reasons.yml"
    text = changed
    if isinstance(changed, tuple):
        text = DEFAULT_FAMILIES.read_text(encoding="utf-8").replace(*changed)
        assert text != DEFAULT_FAMILIES.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReasonsError, match=says) as refused:
        read_families(path)
    assert str(path) in str(refused.value)
    with pytest.raises(ReasonsError, match="cannot be read"):
        read_families(tmp_path / "absent.yml")


def test_importance_is_the_mean_size_of_what_a_family_adds(fitted):
    model, frame = fitted
    found = importance(model, frame, FAMILIES)
    assert found["spend"].is_monotonic_decreasing
    assert set(found["family"][:2]) == {"last_order", "order_value"}
    by_family = found.set_index("family")
    mean = np.abs(effects(model, frame, FAMILIES)).mean(axis=0)
    assert by_family["spend"][FAMILIES.names].to_numpy() == pytest.approx(mean)
    values = matrix(model, frame)
    columns = [model.features.index(name) for name in ("recency_days", "overdue_ratio")]
    together = contributions(model.purchase, values)[:, columns].sum(axis=1)
    assert by_family.loc["last_order", "purchase"] == pytest.approx(np.abs(together).mean())
    assert by_family.loc["last_order", "label_zh"] == "距上次下单的时间"
    with pytest.raises(ValueError, match="at least one"):
        importance(model, frame[:0], FAMILIES)


def test_dependence_follows_the_values_of_one_feature(fitted):
    model, frame = fitted
    values = matrix(model, frame)
    found = dependence(model.purchase, values, model.features, "recency_days")
    assert (found["value"].to_numpy() == frame["recency_days"]).all()
    assert found["value"].corr(found["contribution"], method="spearman") < -0.9
    gaps = dependence(model.amount, values, model.features, "overdue_ratio")
    assert (gaps["value"].isna() == frame["overdue_ratio"].isna()).all()
    with pytest.raises(ValueError, match="not trained on spend_90d"):
        dependence(model.purchase, values, model.features, "spend_90d")


def test_a_frame_that_lacks_a_feature_is_refused(fitted):
    model, frame = fitted
    with pytest.raises(ValueError, match="lacks recency_days"):
        effects(model, frame.drop(columns="recency_days"), FAMILIES)
