import numpy as np
import pandas as pd
import pytest

from ml.baselines import BASELINES

LABELS = pd.DataFrame({"spend": [10.0, 0.0, 50.0]})
FRAME = pd.DataFrame({
    "spend_30d": [0.0, -5.0, 20.0],
    "spend_90d": [0.0, 60.0, 20.0],
    "monetary_total": [400.0, 60.0, 20.0],
    "tenure_days": [360, 60, 2],
    "frequency_orders": [4, 2, 1],
    "recency_days": [200, 30, 2],
    "rfm_score": [7, 9, 6],
})  # fmt: skip


def says(name, horizon_days=90):
    baseline = BASELINES[name]
    return baseline.predict(baseline.fit(FRAME, LABELS, horizon_days), FRAME)


def test_the_mean_expects_the_same_of_everybody():
    assert says("mean").expected_spend == pytest.approx([20, 20, 20])


def test_last_window_spend_is_the_last_horizon_unclipped():
    assert list(says("last_window_spend", 90).expected_spend) == [0, 60, 20]
    assert list(says("last_window_spend", 30).expected_spend) == [0, -5, 20]


def test_a_horizon_without_a_window_takes_the_nearest_one_scaled():
    assert says("last_window_spend", 60).expected_spend == pytest.approx([0, 40, 40 / 3])
    assert says("last_window_spend", 180).expected_spend[1] == 120


def test_past_spend_rate_never_multiplies_what_a_newcomer_spent():
    assert says("spend_rate").expected_spend == pytest.approx([100, 60, 20])


def test_rankings_rank_and_claim_no_money():
    best_first = {"order_count": [0, 1, 2], "recency": [2, 1, 0], "rfm_score": [1, 0, 2]}
    for name, order in best_first.items():
        prediction = says(name)
        assert list(np.argsort(-prediction.score)) == order
        assert prediction.expected_spend is None and prediction.purchase_probability is None
