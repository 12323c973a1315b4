import json
import math
from dataclasses import replace
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


@pytest.fixture(scope="module")
def shop(shop):
    """The labels also say who came into the top decile of their day."""
    place = shop.labels.groupby("as_of_date")["spend"].rank(ascending=False, method="min")
    customers = shop.labels.groupby("as_of_date")["spend"].transform("size")
    best = (shop.labels["spend"] > 0) & ((place - 1) * 10 < customers)
    return replace(shop, labels=shop.labels.assign(is_high_value=best))


def judge(shop, origins=None, features=None, labels=None, **settings):
    return backtest.run(
        shop.features if features is None else features,
        shop.labels if labels is None else labels,
        shop.days[-4:] if origins is None else origins,
        shop.horizon_days,
        **{"models": MODELS, "baselines": BASELINES, "resamples": 30, **settings},
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
    what = ["spend", "orders", "is_purchased", "is_high_value"]
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
    assert (there["is_high_value"].to_numpy() == newest.high_value).all()
    outcome = Outcome(newest.spend, newest.purchased, newest.high_value)
    one = Judge(outcome, np.ones((len(newest.spend), 1)))
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
    for metric in DIRECTIONS.keys() - {"coverage", "interval_width"}:  # it gives no intervals
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


def test_every_model_is_asked_who_will_be_of_high_value(judged):
    origin = json.loads(json.dumps(judged.to_json()))["origins"][0]
    assert set(origin["confusion_high_value"]) == {*BASELINES, "lightgbm_hurdle"}
    tenth = math.ceil(origin["customers"] / 10)
    for name, counts in origin["confusion_high_value"].items():
        metrics = origin["models"][name]
        assert set(counts) == set(CONFUSION)
        assert sum(counts.values()) == pytest.approx(origin["customers"])
        assert counts["true_positives"] + counts["false_positives"] == pytest.approx(tenth)
        precision = counts["true_positives"] / tenth
        assert metrics["precision_high_value"] == pytest.approx(precision), name
    assert origin["models"]["mean"]["auroc_high_value"] == 0.5
    assert origin["models"]["spend_rate"]["auroc_high_value"] > 0.7


def test_without_the_label_nobody_is_asked_for_high_value(shop):
    unasked = judge(shop, shop.days[-1:], labels=shop.labels.drop(columns="is_high_value"))
    origin = unasked.to_json()["origins"][0]
    assert origin["confusion_high_value"] == {}
    assert origin["models"]["lightgbm_hurdle"]["auroc_high_value"] is None
    for figure in (figures.roc, figures.confusion):
        with pytest.raises(ValueError, match="is_high_value is missing"):
            figure(unasked, ["lightgbm_hurdle"])


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
    with pytest.raises(ValueError, match="no label of 30 days"):
        judge(shop, labels=shop.labels.assign(horizon_days=90))


def test_a_baseline_that_cannot_be_had_is_left_out_everywhere_and_says_why(shop):
    second = pd.Timestamp(shop.days[-3])

    def predict(model, frame):
        if (frame["as_of_date"] == second).any():
            raise ValueError("no maximum on 12 customers")
        return BASELINES["mean"].predict(1.0, frame)

    moody = Estimator(BASELINES["mean"].fit, predict)
    judged = judge(shop, baselines={"mean": BASELINES["mean"], "moody": moody})
    assert judged.left_out == {"moody": f"at {shop.days[-3]}: no maximum on 12 customers"}
    boards = [judged.pooled, *(origin.models for origin in judged.origins)]
    assert all(set(board) == {"mean", "lightgbm_hurdle"} for board in boards)
    with pytest.raises(ValueError, match="no maximum"):
        judge(shop, models={"moody": moody}, baselines={})


def test_shorter_windows_can_be_learned_from(shop):
    """Judged on 60 days, of which the training days know the first 30."""
    origin = shop.days[-3]
    of_origin = shop.labels[shop.labels["as_of_date"] == pd.Timestamp(origin)]
    later = of_origin.assign(horizon_days=60, spend=of_origin["spend"] * 1.7)
    labels = pd.concat([shop.labels, later])
    judged = judge(replace(shop, horizon_days=60), [origin], labels=labels, learned_days=30)
    assert (judged.horizon_days, judged.learned_days) == (60, 30)
    mean = judged.newest.predictions["mean"].expected_spend[0]
    learned = labels[
        (labels["horizon_days"] == 30)
        & labels["as_of_date"].isin(pd.to_datetime(list(judged.origins[0].training_cutoffs)))
    ]
    assert mean == pytest.approx(2 * learned["spend"].mean())
    assert judged.newest.spend.sum() == pytest.approx(later["spend"].sum())


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


def test_the_figures_of_high_value_show_what_the_scoreboard_says(judged):
    names = ["lightgbm_hurdle", "order_count"]  # many customers have equal counts
    newest = judged.origins[-1]
    lines = figures.roc(judged, names).axes[0].get_lines()
    for name, curve, called in zip(names, lines[::2], lines[1::2], strict=False):
        auroc = newest.models[name]["auroc_high_value"]
        assert np.trapezoid(*curve.get_data()[::-1]) == pytest.approx(auroc)
        assert curve.get_label() == f"{name}, AUROC {auroc:.3f}"
        recall = newest.models[name]["recall_high_value"]
        assert called.get_ydata()[0] == pytest.approx(recall)
    panels = figures.confusion(judged, names * 3).axes
    assert [panel.get_visible() for panel in panels] == [True] * 6 + [False] * 2
    for name, panel in zip(names, panels, strict=False):
        assert panel.get_title() == name
        counts = newest.confusion_high_value[name]
        first, *_, last = (text.get_text().split("\n")[0] for text in panel.texts)
        assert first == f"{counts['true_positives']:,.0f}"
        assert last == f"{counts['true_negatives']:,.0f}"
