import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from ml import btyd, intervals, lightgbm_hurdle, season
from ml.lightgbm_hurdle import Config, fit, predict

CONFIG = Config(rounds=40, min_data_in_leaf=20)


def split(shop, test_place=-1):
    """Everything whose window closed before the test day, and the test day."""
    day = pd.Timestamp(shop.days[test_place])
    closed = shop.features["as_of_date"] + pd.Timedelta(days=shop.horizon_days) <= day
    test = shop.features["as_of_date"] == day
    return shop.features[closed], shop.labels[closed], shop.features[test], shop.labels[test]


def out_of_season(model, frame):
    return predict(replace(model, season=None), frame).expected_spend


@pytest.fixture(scope="module")
def fitted(shop):
    train, labels, test, actual = split(shop)
    return fit(train, labels, shop.horizon_days, CONFIG), train, labels, test, actual


def test_expected_spend_is_probability_times_amount_calibrated_and_in_season(fitted):
    model, _, _, test, _ = fitted
    values = test[list(model.features)].to_numpy(dtype=float)
    by_hand = model.purchase.predict(values) * model.amount.predict(values)
    by_hand *= model.calibration
    assert out_of_season(model, test) == pytest.approx(by_hand)
    total, _ = season.totals(model.season, test, model.learned_days)
    by_hand *= total / by_hand.sum()
    assert predict(model, test).expected_spend == pytest.approx(by_hand)


def test_better_customers_are_found(fitted):
    model, _, _, test, actual = fitted
    first = np.argsort(-predict(model, test).score)[: len(test) // 4]
    assert actual["spend"].to_numpy()[first].sum() > 0.5 * actual["spend"].sum()


def test_the_total_of_the_training_rows_is_met(shop):
    train, labels, *_ = split(shop)
    model = fit(train, labels, shop.horizon_days, CONFIG)
    total = out_of_season(model, train).sum()
    assert total == pytest.approx(labels["spend"].sum())


def test_keys_and_labels_are_never_features(fitted):
    model, train, labels, *_ = fitted
    assert not {"customer_id", "as_of_date", *labels.columns} & set(model.features)
    assert "is_repeat_buyer" in model.features
    assert list(model.features) == sorted(model.features)
    numbered = train.assign(customer_id=range(len(train)), horizon_days=30)
    assert lightgbm_hurdle.feature_columns(numbered, labels) == model.features


def test_the_same_seed_gives_the_same_model_to_the_bit_whatever_the_order_of_the_rows(fitted, shop):
    model, train, labels, *_ = fitted
    order = np.random.default_rng(0).permutation(len(train))
    again = fit(train.iloc[order], labels.iloc[order], shop.horizon_days, CONFIG)
    assert again.purchase.model_to_string() == model.purchase.model_to_string()
    assert again.amount.model_to_string() == model.amount.model_to_string()
    assert (again.calibration, again.season) == (model.calibration, model.season)
    other = fit(train, labels, shop.horizon_days, replace(CONFIG, seed=1))
    assert other.amount.model_to_string() != model.amount.model_to_string()


def test_files_give_back_the_same_predictions_to_the_bit(fitted, tmp_path):
    model, _, _, test, _ = fitted
    lightgbm_hurdle.to_files(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "purchase.txt", "amount.txt", "model.json",
    }  # fmt: skip
    back = lightgbm_hurdle.from_files(tmp_path)
    before, after = predict(model, test), predict(back, test)
    assert (before.expected_spend == after.expected_spend).all()
    assert (before.purchase_probability == after.purchase_probability).all()
    assert (back.config, back.season) == (model.config, model.season)


def test_a_model_with_intervals_gives_them_and_keeps_them(fitted, tmp_path):
    model, _, _, test, actual = fitted
    assert predict(model, test).low is None
    said = predict(model, test)
    learned = intervals.fit(
        said.expected_spend, said.purchase_probability, actual["spend"].to_numpy()
    )
    wide = predict(replace(model, intervals=learned), test)
    assert (wide.low <= wide.expected_spend).all() and (wide.expected_spend <= wide.high).all()
    lightgbm_hurdle.to_files(replace(model, intervals=learned), tmp_path)
    kept = predict(lightgbm_hurdle.from_files(tmp_path), test)
    assert (kept.low == wide.low).all() and (kept.high == wide.high).all()


def test_who_will_be_of_high_value_is_asked_where_the_labels_say_who_was(fitted, shop, tmp_path):
    bare, train, labels, test, actual = fitted
    assert predict(bare, test).high_value_probability is None

    def top_tenth(spend):
        return spend > spend.quantile(0.9)

    told = labels.assign(is_high_value=labels.groupby("as_of_date")["spend"].transform(top_tenth))
    model = fit(train, told.astype({"is_high_value": bool}), shop.horizon_days, CONFIG)
    chance = predict(model, test).high_value_probability
    assert ((chance > 0) & (chance < 1)).all()
    is_high = top_tenth(actual["spend"]).to_numpy()
    assert chance[is_high].mean() > 2 * chance[~is_high].mean()
    assert (predict(model, test).expected_spend == predict(bare, test).expected_spend).all()
    lightgbm_hurdle.to_files(model, tmp_path)
    back = predict(lightgbm_hurdle.from_files(tmp_path), test)
    assert (back.high_value_probability == chance).all()


def test_a_day_in_parts_is_the_day_whatever_the_parts_and_threads(fitted, monkeypatch):
    model, _, _, test, _ = fitted
    whole = predict(model, test)
    monkeypatch.setattr(lightgbm_hurdle, "ROWS_AT_ONCE", 7)
    parts = lightgbm_hurdle.ask(model, test, num_threads=2)
    told = test[
        ["as_of_date", *(c for c in lightgbm_hurdle.population_columns(model) if c in test)]
    ]
    assert (lightgbm_hurdle.settle(model, told, parts).expected_spend == whole.expected_spend).all()


def test_files_that_do_not_belong_together_are_refused(fitted, tmp_path):
    lightgbm_hurdle.to_files(fitted[0], tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["features"] = about["features"][::-1]
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="other columns"):
        lightgbm_hurdle.from_files(tmp_path)


def test_a_missing_column_is_refused_by_name_and_a_new_one_ignored(fitted):
    model, _, _, test, _ = fitted
    with pytest.raises(ValueError, match="lacks spend_90d;"):
        predict(model, test.drop(columns="spend_90d"))
    columns = list(test.columns[::-1])
    widened = test[columns].assign(newcomer=1.0)
    assert (predict(model, widened).score == predict(model, test).score).all()


def test_as_many_are_expected_to_buy_as_the_season_says_and_the_order_stays(fitted):
    model, _, _, test, _ = fitted
    found = predict(model, test).purchase_probability
    _, buyers = season.totals(model.season, test, model.learned_days)
    assert found.sum() == pytest.approx(buyers)
    unmoved = predict(replace(model, season=None), test).purchase_probability
    assert unmoved.sum() != pytest.approx(buyers)
    assert (np.argsort(found) == np.argsort(unmoved)).all()


def test_a_season_never_goes_past_its_limit(fitted):
    model, _, _, test, _ = fitted
    limit = model.config.season_limit
    for last_year, factor in ((1e9, limit), (1e-9, 1 / limit), (np.nan, 1.0)):
        changed = test.assign(spend_same_window_last_year_30d=last_year)
        expected = predict(model, changed).expected_spend
        assert expected == pytest.approx(out_of_season(model, changed) * factor, rel=1e-12)


def test_who_buys_is_asked_of_the_histories_too(fitted):
    """A customer is expected to buy as the trees say, and, by a quarter, as MBG/NBD does."""
    model, _, _, test, _ = fitted
    rng = np.random.default_rng(3)
    gap = rng.gamma(4, 8, len(test))
    told = test.assign(
        order_gap_mean_days=np.where(test["frequency_orders"] > 1, gap, np.nan),
        average_order_value=20.0,
        first_order_value=20.0,
    )
    unseasoned = replace(model, season=None)
    trees = predict(unseasoned, test).purchase_probability
    both = predict(unseasoned, told).purchase_probability
    chance = btyd.expected_windows(told, [30])[30].chance
    assert both.sum() == pytest.approx(trees.sum())
    odds = logit(both) - logit(trees**0.75 * chance**0.25)
    assert odds == pytest.approx(odds[0], abs=1e-6)


def test_expected_spend_is_the_mean_of_what_the_trees_and_the_histories_expect(fitted):
    """On average over the logarithms, and as a total what the trees say."""
    model, _, _, test, _ = fitted
    rng = np.random.default_rng(3)
    gap = rng.gamma(4, 8, len(test))
    repeats = np.round((test["tenure_days"] - test["recency_days"]) / gap)
    shape = 6 * np.maximum(repeats, 1)
    repeat_value = rng.gamma(shape) / shape * 40 / rng.gamma(4, 1, len(test))
    told = test.assign(
        order_gap_mean_days=np.where(test["frequency_orders"] > 1, gap, np.nan),
        average_order_value=(repeat_value * repeats + 20) / test["frequency_orders"],
        first_order_value=20.0,
    )
    unseasoned = replace(model, season=None)
    window = btyd.expected_windows(told, [30])[30]
    answers = lightgbm_hurdle.ask(unseasoned, told, 1)
    chance = answers.purchase**0.75 * window.chance**0.25
    trees = chance * answers.amount * model.calibration
    both = predict(unseasoned, told).expected_spend
    ratio = both / (trees**0.8 * window.spend**0.2)
    assert ratio == pytest.approx(ratio[0])
    assert both.sum() == pytest.approx(
        (answers.purchase * answers.amount).sum() * model.calibration
    )


def test_a_shorter_window_that_was_learned_is_stretched_to_the_horizon(shop):
    train, labels, test, _ = split(shop)
    short = fit(train, labels, 30, CONFIG)
    long = fit(train, labels.assign(horizon_days=30), 90, CONFIG)
    assert (long.horizon_days, long.learned_days) == (90, 30)
    # These customers' gaps are not told, so that orders go on at the rate of the shorter window.
    few, many = (predict(replace(m, season=None), test) for m in (short, long))
    assert many.expected_spend == pytest.approx(3 * few.expected_spend)
    by_then = 1 - (1 - few.purchase_probability) ** 3
    assert many.purchase_probability.sum() == pytest.approx(by_then.sum())
    by_chance = [np.argsort(one.purchase_probability, kind="stable") for one in (few, many)]
    assert (by_chance[0] == by_chance[1]).all()


def test_the_season_is_the_same_for_every_customer_of_a_day(fitted):
    model, _, _, test, _ = fitted
    factors = predict(model, test).expected_spend / out_of_season(model, test)
    assert factors == pytest.approx(factors[0])
    assert factors[0] != pytest.approx(1)


def test_several_days_at_once_equal_the_days_one_by_one(fitted, shop):
    model = fitted[0]
    days = [pd.Timestamp(day) for day in shop.days[-2:]]
    parts = [shop.features[shop.features["as_of_date"] == day] for day in days]
    together = predict(model, pd.concat(parts)).expected_spend
    apart = np.concatenate([predict(model, part).expected_spend for part in parts])
    assert together == pytest.approx(apart, rel=1e-12)


def test_a_shop_where_nobody_bought_again_is_refused(shop):
    train, labels, *_ = split(shop)
    nobody = labels.assign(spend=0.0, orders=0, is_purchased=False)
    with pytest.raises(ValueError, match="paid and kept"):
        fit(train, nobody, shop.horizon_days, CONFIG)


def test_returns_lower_the_total_and_no_expected_spend_is_negative(shop):
    train, labels, test, _ = split(shop)
    returned = labels.assign(spend=labels["spend"].where(labels["is_purchased"], -10.0))
    model = fit(train, returned, shop.horizon_days, CONFIG)
    total = out_of_season(model, train).sum()
    assert total == pytest.approx(returned["spend"].sum())
    assert (predict(model, test).expected_spend >= 0).all()


def test_a_feature_that_is_all_null_or_constant_changes_nothing_to_worry_about(shop):
    train, labels, test, _ = split(shop)
    wide = [part.assign(empty=np.nan, constant=1.0) for part in (train, test)]
    model = fit(wide[0], labels, shop.horizon_days, CONFIG)
    assert np.isfinite(predict(model, wide[1]).expected_spend).all()
    found = lightgbm_hurdle.importance(model).set_index("feature")
    assert found.loc[["empty", "constant"], ["purchase", "amount"]].to_numpy().sum() == 0
    assert found["purchase"].sum() == pytest.approx(1)
