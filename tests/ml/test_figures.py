import numpy as np
import pandas as pd
import pytest

from ml import figures, lightgbm_hurdle, reasons, treeshap

UNKNOWN = 37  # rows without a value of recency_days


@pytest.fixture(scope="module")
def fitted():
    """Spend follows recency_days, noise does nothing, and a few rows lack what matters most."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "customer_id": [f"c{i:04}" for i in range(1000)],
        "as_of_date": pd.Timestamp("2024-03-01"),
        "recency_days": rng.integers(1, 300, 1000).astype(float),
        "first_order_value": rng.normal(50, 5, 1000),
        "is_noise": rng.random(1000) < 0.5,
    })  # fmt: skip
    spend = np.where(frame["recency_days"] < 150, 100.0, 5.0) * rng.lognormal(0, 0.2, 1000)
    buys = rng.random(1000) < np.where(frame["recency_days"] < 150, 0.9, 0.2)
    frame.loc[: UNKNOWN - 1, "recency_days"] = np.nan
    labels = pd.DataFrame({"spend": spend * buys, "is_purchased": buys})
    config = lightgbm_hurdle.Config(rounds=30, learning_rate=0.1)
    return lightgbm_hurdle.fit(frame, labels, 30, config), frame


def test_the_families_that_move_spend_most_stand_on_top_in_words(fitted):
    found = reasons.importance(*fitted, reasons.read_families())
    axes = figures.reasons_importance(found, top=3).axes[0]
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown == list(found["label_en"][:3][::-1])
    assert shown[-1] == "Time since the last order"
    assert [bar.get_width() for bar in axes.patches] == list(found["spend"][:3][::-1])


def test_dependence_shows_each_row_of_the_strongest_features_and_nulls_apart(fitted):
    model, frame = fitted
    figure = figures.dependence(model, frame, top=2)
    odds, _, amount, _ = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "", "", "recency_days", "first_order_value",
    ]  # fmt: skip
    place = model.features.index("recency_days")
    values = frame[list(model.features)].to_numpy(dtype=float)
    for axes, booster in ((odds, model.purchase), (amount, model.amount)):
        moved = treeshap.contributions(booster, values)[:, place]
        known, unknown = (line.get_xydata() for line in axes.get_lines()[::2])
        shown = set(zip(frame["recency_days"], moved, strict=True))
        assert {tuple(dot) for dot in known} <= shown
        assert 0.95 * (1000 - UNKNOWN) < len(known) < 1000 - UNKNOWN
        assert list(unknown[:, 1]) == list(moved[:UNKNOWN])
        assert unknown[:, 0].max() < known[:, 0].min()
        low, high = (known[known[:, 0] < 100, 1].mean(), known[known[:, 0] > 200, 1].mean())
        assert low > high


def test_a_feature_that_is_the_same_for_all_or_known_of_nobody_is_drawn_too(fitted):
    model, frame = fitted
    frame = frame.assign(first_order_value=50.0, recency_days=np.nan)
    figure = figures.dependence(model, frame, top=3)
    figure.canvas.draw()
    dots = sum(len(line.get_xdata()) for axes in figure.axes for line in axes.get_lines()[::2])
    assert dots == 2 * 3 * len(frame)
