import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ml import classifiers
from ml.classifiers import CLASSIFIERS, newest_rows
from ml.metrics import Judge, Outcome

DAYS = pd.to_datetime(["2025-01-01", "2025-02-01", "2025-03-01"])


def closed_windows(customers=1000, seed=0):
    """Three days; a tenth of each is of high value, by spend and order gap and some luck.

    A third of the gaps is null. always_one and never_known say nothing.
    """
    rng = np.random.default_rng(seed)
    n = customers * len(DAYS)
    spend, gap = rng.lognormal(4, 1, n), rng.gamma(2, 20, n)
    worth = np.log(spend) - 0.06 * gap + rng.normal(0, 0.3, n)
    frame = pd.DataFrame({
        "customer_id": np.tile([f"c{i:05}" for i in range(customers)], len(DAYS)),
        "as_of_date": DAYS.repeat(customers),
        "spend_90d": spend,
        "order_gap_mean_days": np.where(rng.random(n) < 1 / 3, np.nan, gap),
        "always_one": 1.0,
        "never_known": np.nan,
        "country": "FR",
    })  # fmt: skip
    place = pd.Series(worth).groupby(frame["as_of_date"].to_numpy()).rank(ascending=False)
    labels = frame[["customer_id", "as_of_date"]].assign(is_high_value=place <= customers / 10)
    return frame, labels


@pytest.fixture(scope="module")
def learned():
    """Every classifier, after the first two days; any warning fails."""
    frame, labels = closed_windows()
    known = frame["as_of_date"] < DAYS[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {
            name: estimator.fit(frame[known], labels[known], 90)
            for name, estimator in CLASSIFIERS.items()
        }


@pytest.fixture(scope="module")
def new_day():
    frame, labels = closed_windows()
    return frame[frame["as_of_date"] == DAYS[-1]], labels.loc[
        frame["as_of_date"] == DAYS[-1], "is_high_value"
    ].to_numpy()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_knows_more_than_the_column_that_tells_most(name, learned, new_day):
    frame, best = new_day
    found = CLASSIFIERS[name].predict(learned[name], frame)
    assert learned[name].features == (
        "always_one", "never_known", "order_gap_mean_days", "spend_90d",
    )  # fmt: skip
    assert roc_auc_score(best, found.score) > roc_auc_score(best, frame["spend_90d"]) + 0.01
    assert found.expected_spend is None and found.purchase_probability is None


def test_a_probability_is_as_high_as_the_share_it_speaks_of(learned, new_day):
    frame, _ = new_day
    for name in ("logistic_regression", "decision_tree", "random_forest"):
        found = CLASSIFIERS[name].predict(learned[name], frame).high_value_probability
        assert ((found >= 0) & (found <= 1)).all(), name
        assert found.mean() == pytest.approx(0.10, abs=0.02), name


def test_the_margin_of_the_svm_is_judged_in_place_of_a_probability(learned, new_day):
    frame, best = new_day
    found = CLASSIFIERS["linear_svm"].predict(learned["linear_svm"], frame)
    assert found.high_value_probability is None
    assert found.score.min() < 0 < found.score.max()
    judge = Judge(Outcome(best * 1.0, best, best), np.ones((best.size, 1)))
    auroc = judge.draws(found)["auroc_high_value"][0]
    assert auroc == pytest.approx(roc_auc_score(best, found.score))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_is_the_same_to_the_bit_in_any_order_of_rows_and_columns(
    name, learned, new_day
):
    frame, labels = closed_windows()
    known = frame["as_of_date"] < DAYS[-1]
    shuffled = frame[known].sample(frac=1, random_state=1)
    again = CLASSIFIERS[name].fit(shuffled[shuffled.columns[::-1]], labels.loc[shuffled.index], 90)
    once, twice = (
        CLASSIFIERS[name].predict(model, new_day[0]).score for model in (learned[name], again)
    )
    assert (once == twice).all()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_day_with_other_nulls_than_the_training_days_is_answered(name, learned, new_day):
    turned = new_day[0].assign(spend_90d=np.nan, never_known=5.0, always_one=7.0)
    turned = turned.astype({"spend_90d": "Float64"})
    assert np.isfinite(CLASSIFIERS[name].predict(learned[name], turned).score).all()


def test_one_enormous_customer_bends_no_linear_model(learned, new_day):
    """A customer of a million times the spend in the training rows, and of no high value."""
    frame, labels = closed_windows()
    known = frame["as_of_date"] < DAYS[-1]
    frame.loc[0, "spend_90d"] *= 1e6
    labels.loc[0, "is_high_value"] = False
    test, best = new_day
    for name in ("logistic_regression", "linear_svm"):
        model = CLASSIFIERS[name].fit(frame[known], labels[known], 90)
        before, after = (
            roc_auc_score(best, CLASSIFIERS[name].predict(m, test).score)
            for m in (learned[name], model)
        )
        assert after > before - 0.01, name


def test_the_newest_days_are_learned_from_first_and_of_the_last_a_sample():
    frame, _ = closed_windows(100)
    chosen = frame.iloc[newest_rows(frame, 150)]
    assert (chosen["as_of_date"] == DAYS[2]).sum() == 100
    of_february = chosen.loc[chosen["as_of_date"] == DAYS[1], "customer_id"]
    assert of_february.nunique() == 50
    assert 30 < of_february.str[1:].astype(int).mean() < 70  # not the first fifty
    shuffled = frame.sample(frac=1, random_state=3)
    again = shuffled.iloc[newest_rows(shuffled, 150)]
    assert again.index.tolist() == chosen.index.tolist()
    assert sorted(newest_rows(frame, 1000)) == list(range(300))


def test_no_more_rows_are_learned_from_than_the_limit(monkeypatch):
    frame, labels = closed_windows()
    labels.loc[frame["as_of_date"] < DAYS[-1], "is_high_value"] = True
    monkeypatch.setattr(classifiers, "MAX_ROWS", 1000)  # the newest day alone
    model = CLASSIFIERS["decision_tree"].fit(frame, labels, 90)
    assert model.pipeline[-1].tree_.n_node_samples[0] == 1000


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_that_tell_nobody_apart_are_refused(name):
    frame, labels = closed_windows(50)
    with pytest.raises(ValueError, match="none of the 150 training rows are of high value"):
        CLASSIFIERS[name].fit(frame, labels.assign(is_high_value=False), 90)
    with pytest.raises(ValueError, match="all of the 150"):
        CLASSIFIERS[name].fit(frame, labels.assign(is_high_value=True), 90)
    with pytest.raises(ValueError, match="is_high_value"):
        CLASSIFIERS[name].fit(frame, labels.drop(columns="is_high_value"), 90)


def test_a_column_that_is_missing_is_named(learned, new_day):
    with pytest.raises(ValueError, match="lacks order_gap_mean_days"):
        classifiers.predict(
            learned["random_forest"], new_day[0].drop(columns="order_gap_mean_days")
        )
