"""What tiers did on held-out windows, recomputed by hand."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from ml import backtest, figures, lightgbm_hurdle, promotion, tier_evaluation
from ml.baselines import BASELINES, Estimator
from ml.tier_evaluation import TierResult
from ml.tier_policy import Tier, make_policy, read_policy
from ml.tiers import draw

POLICY = read_policy()
SMALL = lightgbm_hurdle.Config(rounds=20, learning_rate=0.1, min_data_in_leaf=20)
HURDLE = Estimator(partial(lightgbm_hurdle.fit, config=SMALL), lightgbm_hurdle.predict)


def window(expected, spend) -> pd.DataFrame:
    return pd.DataFrame({
        "customer_id": [f"c{i:03}" for i in range(len(spend))],
        "as_of_date": pd.Timestamp("2025-01-01"),
        "expected_spend": np.asarray(expected, float),
        "purchase_probability": 0.5,
        "spend": np.asarray(spend, float),
        "is_purchased": np.asarray(spend) > 0,
    })  # fmt: skip


HALVES = make_policy([Tier(name="top", share=0.5), Tier(name="rest", share=0.5)])


def test_the_first_tier_is_asked_for_as_many_as_it_holds_and_nobody_who_spent_nothing():
    one = window([9, 8, 7, 6, 5, 4, 3, 2], [50, 0, 40, 0, 30, 0, 0, 0])
    results = tier_evaluation.evaluate(draw(one, HALVES), one)
    top = tier_evaluation.top_tier(results)
    assert top == (2, 2, 1, 3)
    assert (top.precision, top.recall) == (2 / 4, 2 / 3)
    assert top.f1 == pytest.approx(4 / 7)
    assert [(r.customers, r.realised_spend, r.buyers) for r in results] == [(4, 90, 2), (4, 30, 1)]
    assert tier_evaluation.is_ordered(results)
    found = tier_evaluation.metrics({one["as_of_date"][0].date(): results})
    assert found["top_tier_capture"] == found["tier_1_share"] == 0.75
    assert found["tier_1_lift"] == 1.5
    assert found["tier_1_expected_to_realised"] == 30 / 90
    assert found["tier_1_expected_to_realised_buyers"] == 2 / 2
    assert found["tiers_ordered"] == 1


def test_tiers_whose_customers_spent_the_same_are_not_ordered_and_empty_ones_are_passed_over():
    def tier(rank, customers, spend):
        return TierResult("t", rank, customers, 0.0, spend, 0.0, 0, 0)

    assert not tier_evaluation.is_ordered([tier(1, 1, 5.0), tier(2, 2, 10.0)])
    assert tier_evaluation.is_ordered([tier(1, 1, 5.0), tier(2, 0, 0.0), tier(3, 2, 9.0)])


def test_a_tier_that_nobody_is_in_is_in_the_results():
    one = window([10.0], [7.0])
    results = tier_evaluation.evaluate(draw(one, POLICY), one)
    assert [result.customers for result in results].count(0) == 3
    assert sum(result.realised_spend for result in results) == 7
    assert tier_evaluation.top_tier(results).left_out in (0, 1)


@pytest.fixture(scope="module")
def judged(shop):
    kept, said = promotion.remembered(HURDLE)
    baselines = {"mean": BASELINES["mean"]}
    board = backtest.run(
        shop.features, shop.labels, shop.days[-4:], 30, {"hurdle": kept}, baselines, resamples=2
    )
    return board, said


def test_tiers_are_drawn_in_every_window_and_summed(shop, judged):
    board, said = judged
    shuffled = shop.labels.sample(frac=1, random_state=0)
    windows = tier_evaluation.evaluate_windows(said[::-1], shuffled, POLICY)
    assert list(windows) == [origin.as_of_date for origin in board.origins]
    newest = board.newest
    for results, origin in zip(windows.values(), board.origins, strict=True):
        assert sum(result.customers for result in results) == origin.customers
    of_newest = windows[newest.as_of_date]
    assert sum(r.realised_spend for r in of_newest) == pytest.approx(newest.spend.sum())
    assert sum(r.buyers for r in of_newest) == newest.purchased.sum()
    expected = newest.predictions["hurdle"].expected_spend
    assert sum(r.expected_spend for r in of_newest) == pytest.approx(expected.sum())
    for total, *parts in zip(
        tier_evaluation.summed(windows.values()), *windows.values(), strict=True
    ):
        assert {(part.tier, part.rank) for part in parts} == {(total.tier, total.rank)}
        assert total.realised_spend == pytest.approx(sum(part.realised_spend for part in parts))
        assert total.customers == sum(part.customers for part in parts)
    old = shop.labels[shop.labels["as_of_date"] < "2025"]
    with pytest.raises(ValueError, match="no label"):
        tier_evaluation.evaluate_windows(said, old, POLICY)


def test_a_first_tier_of_a_tenth_captures_what_the_board_says_of_the_best_tenth(shop, judged):
    board, said = judged
    tenth = make_policy([Tier(name="top", share=0.1), Tier(name="rest", share=0.9)])
    windows = tier_evaluation.evaluate_windows(said, shop.labels, tenth)
    for origin in board.origins:
        captured = tier_evaluation.metrics({origin.as_of_date: windows[origin.as_of_date]})
        seats = 1 / origin.customers  # a tier ends between two customers, the board inside one
        assert captured["top_tier_capture"] == pytest.approx(
            origin.models["hurdle"]["capture_top10"], abs=10 * seats
        )


def test_the_figure_has_a_panel_for_means_shares_and_the_first_tier(shop, judged):
    windows = tier_evaluation.evaluate_windows(judged[1], shop.labels, POLICY)
    figure = figures.tiers(windows)
    assert len(figure.axes) == 3
    top = tier_evaluation.top_tier(tier_evaluation.summed(windows.values()))
    said = [text.get_text() for text in figure.axes[2].texts]
    assert said[0].startswith(f"{top.found:,}\n")
