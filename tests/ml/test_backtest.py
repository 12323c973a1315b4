import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from ml import backtest, figures, lightgbm_hurdle
from ml.baselines import BASELINES, Estimator
from ml.metrics import CONFUSION, DIRECTIONS, Judge, Outcome

SMALL = lightgbm_hurdle.Config(rounds=40, min_data_in_leaf=20)
MODELS = {
    "lightgbm_hurdle": Estimator(
        partial(lightgbm_hurdle.fit, config=SMALL), lightgbm_hurdle.predict
    )
}


def judge(shop, origins=None, features=None, labels=None, **settings):
    return backtest.run(
        shop.features if features is None else features,
        shop.labels if labels is None else labels,
        shop.days[-4:] if origins is None else origins,
        shop.horizon_days,
        **{"models": MODELS, "resamples": 30, **settings},
    )


@pytest.fixture(scope="module")
def judged(shop):
    return judge(shop)


def test_no_training_window_reaches_into_the_window_it_is_judged_on(judged, shop):
    for origin in judged.origins:
        assert origin.training_cutoffs
        for cutoff in origin.training_cutoffs:
            assert (origin.as_of_date - cutoff).days >= shop.horizon_days


def test_what_happens_on_or_after_the_origin_changes_no_prediction(judged, shop):
    """Labels from the origin on, and windows still open by then, are shuffled; later days too."""
    origin = shop.days[-3]
    rng = np.random.default_rng(0)
    opens = pd.Timestamp(origin) - pd.Timedelta(days=shop.horizon_days)
    open_labels = (shop.labels["as_of_date"] > opens).to_numpy()
    later = (shop.features["as_of_date"] > pd.Timestamp(origin)).to_numpy()
    labels, features = shop.labels.copy(), shop.features.copy()
    what = ["spend", "orders", "is_purchased"]
    labels.loc[open_labels, what] = (
        labels.loc[open_labels, what].sample(frac=1, random_state=0).to_numpy()
    )
    labels = labels.astype(shop.labels.dtypes.to_dict())
    features.loc[later, "spend_90d"] = rng.random(later.sum())
    assert not labels.equals(shop.labels)
    before = judge(shop, [origin]).newest.predictions
    after = judge(shop, [origin], features, labels).newest.predictions
    for name, prediction in before.items():
        assert (prediction.score == after[name].score).all(), name


def test_every_model_is_judged_on_the_same_customers_as_the_metrics_say(judged, shop):
    newest = judged.newest
    assert newest.as_of_date == shop.days[-1]
    there = shop.labels[shop.labels["as_of_date"] == pd.Timestamp(newest.as_of_date)]
    there = there.set_index("customer_id").loc[newest.customer_id]
    assert (there["spend"].to_numpy() == newest.spend).all()
    one = Judge(Outcome(newest.spend, newest.purchased), np.ones((len(newest.spend), 1)))
    for name, prediction in newest.predictions.items():
        found = one.draws(prediction)
        for metric in DIRECTIONS:
            value = judged.origins[-1].models[name][metric]
            assert value == pytest.approx(found[metric][0], nan_ok=True)


def test_pooled_ranks_are_means_and_the_pooled_ratio_is_sum_over_sum(judged, shop):
    ginis = [origin.models["spend_rate"]["normalized_gini"] for origin in judged.origins]
    assert judged.pooled["spend_rate"]["normalized_gini"] == pytest.approx(np.mean(ginis))
    days = [pd.Timestamp(day) for day in shop.days[-4:]]
    actual = [shop.labels.loc[shop.labels["as_of_date"] == day, "spend"].sum() for day in days]
    ratios = [origin.models["spend_rate"]["sum_ratio"] for origin in judged.origins]
    pooled = np.dot(ratios, actual) / np.sum(actual)
    assert judged.pooled["spend_rate"]["sum_ratio"] == pytest.approx(pooled)
    assert judged.pooled["spend_rate"]["sum_ratio"] != pytest.approx(np.mean(ratios), rel=1e-6)


def test_gains_are_against_the_best_baseline_of_each_metric(judged):
    pooled = judged.pooled
    for metric in ("spearman", "normalized_gini", "mae"):
        direction = DIRECTIONS[metric]
        best = max(
            (direction * pooled[n][metric], n)
            for n in BASELINES
            if math.isfinite(pooled[n][metric])
        )
        assert judged.best_baseline[metric] == best[1]
        model = pooled["lightgbm_hurdle"]
        assert model[f"{metric}_gain"] == pytest.approx(direction * model[metric] - best[0])
        assert model[f"{metric}_gain_low"] <= model[f"{metric}_gain_high"]


def test_a_model_that_is_the_best_baseline_gains_exactly_nothing(shop):
    twin = judge(
        shop, models={"twin": BASELINES["spend_rate"]}, baselines={"it": BASELINES["spend_rate"]}
    )
    for metric in ("normalized_gini", "mae", "sum_ratio"):
        for end in ("", "_low", "_high"):
            assert twin.pooled["twin"][f"{metric}_gain{end}"] == 0


def test_a_backtest_is_the_same_to_the_bit_in_any_order_of_rows(judged, shop):
    shuffled = shop.features.sample(frac=1, random_state=1)
    again = judge(shop, features=shuffled, labels=shop.labels.sample(frac=1, random_state=2))
    assert json.dumps(again.to_json()) == json.dumps(judged.to_json())


def test_the_json_has_the_published_form_and_no_nan(judged, shop):
    said = json.loads(json.dumps(judged.to_json(), allow_nan=False))
    assert said["horizon_days"] == shop.horizon_days
    assert [o["as_of_date"] for o in said["origins"]] == [d.isoformat() for d in shop.days[-4:]]
    assert (
        set(said["pooled"]) == {*BASELINES, "lightgbm_hurdle"} == set(said["origins"][0]["models"])
    )
    metrics = said["origins"][0]["models"]["lightgbm_hurdle"]
    for metric in DIRECTIONS:
        assert metrics[f"{metric}_low"] <= metrics[f"{metric}_high"]
    assert said["pooled"]["rfm_score"]["sum_ratio"] is None
    confusion = said["origins"][0]["confusion"]
    assert set(confusion) == {"lightgbm_hurdle"}  # the baselines give no probability
    counts = confusion["lightgbm_hurdle"]
    assert set(counts) == set(CONFUSION)
    assert sum(counts.values()) == judged.origins[0].customers
    called = counts["true_positives"] + counts["false_positives"]
    assert metrics["precision"] == pytest.approx(counts["true_positives"] / called)
    assert said["origins"][0]["customers"] == judged.origins[0].customers > 300


def test_progress_names_every_origin_and_model(shop):
    heard = []
    judge(shop, say=heard.append)
    assert len(heard) == 4 * (len(BASELINES) + 1)
    assert heard[0] == f"{shop.days[-4]}: mean"


def test_days_and_labels_that_are_missing_are_named(shop):
    with pytest.raises(ValueError, match="1999-01-01"):
        judge(shop, [shop.days[0].replace(year=1999, month=1, day=1)])
    with pytest.raises(ValueError, match=f"{shop.days[0]} needs training windows"):
        judge(shop, [shop.days[0]])
    with pytest.raises(ValueError, match="have features and no label"):
        judge(shop, labels=shop.labels.iloc[1:])
    with pytest.raises(ValueError, match="other horizons"):
        judge(shop, labels=shop.labels.assign(horizon_days=90))


def test_the_figures_show_the_newest_origin(judged):
    calibration = figures.calibration(judged).axes[0]
    tenths = [bar.get_height() for bar in calibration.patches[10:20]]
    assert len(calibration.patches) == 20
    assert np.mean(tenths) == pytest.approx(judged.newest.spend.mean(), rel=0.02)
    lines = figures.gain(judged).axes[0].get_lines()
    labels = {line.get_label() for line in lines}
    assert {"lightgbm_hurdle", judged.best_baseline["normalized_gini"], "perfect order"} <= labels
    x, y = lines[0].get_data()
    assert (x[0], y[0]) == (0, 0) and (x[-1], y[-1]) == pytest.approx((1, 1))
    model = judged.newest.fitted["lightgbm_hurdle"]
    shown = [text.get_text() for text in figures.importance(model, top=3).axes[0].get_yticklabels()]
    assert shown[::-1] == list(lightgbm_hurdle.importance(model)["feature"][:3])
    with pytest.raises(ValueError, match="only ranks"):
        figures.calibration(judged, "rfm_score")
