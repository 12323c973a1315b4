import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)

from ml.metrics import (
    CONFUSION,
    CONFUSION_HIGH_VALUE,
    DIRECTIONS,
    Judge,
    Outcome,
    Prediction,
    goodness,
    interval,
    resample_weights,
    with_the_silent_tied,
)

HIGH_VALUE = {metric for metric in DIRECTIONS if metric.endswith("_high_value")}

money = st.lists(st.integers(0, 500), min_size=5, max_size=60).filter(lambda v: len(set(v)) > 1)


def judged(spend, purchased, prediction, high_value=None):
    """Every metric and count of one prediction, without intervals."""
    outcome = Outcome(spend, purchased, high_value)
    draws = Judge(outcome, np.ones((len(spend), 1))).draws(prediction)
    return {name: float(values[0]) for name, values in draws.items()}


def ranked(metric, spend, score):
    return judged(spend, spend > 0, Prediction(score))[metric]


def in_the_top_decile(spend):
    """The label: fewer than a tenth spent more, and something was spent."""
    richer = (spend[:, None] < spend[None, :]).sum(axis=1)
    return (spend > 0) & (richer * 10 < spend.size)


def gini_of_google(actual, score):
    """The published lines: mean cumulative share in the order of the score, over the perfect."""

    def raw(by):
        cumulated = np.cumsum(actual[np.argsort(-by, kind="stable")]) / actual.sum()
        return 2 * cumulated.sum() / actual.size - 1

    return raw(score) / raw(actual)


def skewed(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    spend = rng.lognormal(3, 1.5, n) * (rng.random(n) < 0.4)
    expected = spend * rng.lognormal(0, 1, n) + rng.gamma(1, 10, n)
    chance = np.clip(expected / 100, 0.01, 0.99)
    return spend, Prediction(expected, expected, chance, low=expected / 20, high=expected * 3)


def test_the_perfect_order_has_gini_one_and_the_reversed_order_minus_one():
    spend = np.arange(1.0, 2001.0)
    assert ranked("normalized_gini", spend, spend) == pytest.approx(1)
    assert ranked("normalized_gini", spend, -spend) == pytest.approx(-1, abs=0.005)


@given(money, st.integers(0, 99))
def test_gini_equals_the_published_definition_where_no_scores_are_equal(values, seed):
    actual = np.array(values, dtype=float)
    score = np.random.default_rng(seed).permutation(actual.size).astype(float)
    found = ranked("normalized_gini", actual, score)
    assert found == pytest.approx(gini_of_google(actual, score))


@given(money, st.integers(1, 6), st.integers(0, 99))
def test_spearman_and_auroc_equal_scipy_and_sklearn_with_equal_scores(values, kinds, seed):
    actual = np.array(values, dtype=float)
    score = np.random.default_rng(seed).integers(0, kinds + 1, actual.size).astype(float)
    bought = actual > np.median(actual)
    if len(set(score)) > 1:
        found = ranked("spearman", actual, score)
        assert found == pytest.approx(spearmanr(actual, score)[0], abs=1e-9)
    if 0 < bought.sum() < bought.size:
        found = judged(actual, bought, Prediction(score))["auroc_active"]
        assert found == pytest.approx(roc_auc_score(bought, score))
        found = judged(actual, bought, Prediction(score, None, score / (kinds + 1)))
        assert found["average_precision"] == pytest.approx(average_precision_score(bought, score))


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40))
def test_purchase_at_the_operating_point_is_judged_as_by_sklearn(customers):
    """Half is called a buyer; a share of nobody is NaN."""
    eighths, bought = (np.array(column) for column in zip(*customers, strict=True))
    called = eighths >= 4
    found = judged(bought * 10.0, bought, Prediction(eighths, None, eighths / 8))
    for metric, oracle in (
        ("precision", precision_score), ("recall", recall_score), ("f1", f1_score),
    ):  # fmt: skip
        wanted = oracle(bought, called, zero_division=np.nan)
        assert found[metric] == pytest.approx(wanted, nan_ok=True), metric
    negatives, positives = confusion_matrix(bought, called, labels=[False, True])
    counts = positives[1], negatives[1], positives[0], negatives[0]
    assert tuple(found[count] for count in CONFUSION) == counts


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), min_size=1, max_size=60))
def test_high_value_with_a_tenth_called_is_judged_as_by_sklearn(customers):
    """Scores differ; whoever is in the first tenth, rounded up, is called high value."""
    values, best = (np.array(column) for column in zip(*customers, strict=True))
    score = np.random.default_rng(values.sum()).permutation(values.size) / values.size
    called = np.zeros(values.size, dtype=bool)
    called[np.argsort(-score)[: -(-values.size // 10)]] = True
    asked = Prediction(-score, high_value_probability=score)
    found = judged(values, values > 0, asked, best)
    for metric, oracle in (
        ("precision", precision_score), ("recall", recall_score), ("f1", f1_score),
    ):  # fmt: skip
        wanted = oracle(best, called, zero_division=np.nan)
        assert found[f"{metric}_high_value"] == pytest.approx(wanted, nan_ok=True), metric
    negatives, positives = confusion_matrix(best, called, labels=[False, True])
    counts = positives[1], negatives[1], positives[0], negatives[0]
    assert tuple(found[count] for count in CONFUSION_HIGH_VALUE) == pytest.approx(counts)
    if 0 < best.sum() < best.size:
        assert found["auroc_high_value"] == pytest.approx(roc_auc_score(best, score))
        precision = average_precision_score(best, score)
        assert found["average_precision_high_value"] == pytest.approx(precision)


def test_a_model_that_only_ranks_is_asked_by_its_score():
    spend, prediction = skewed()
    best = in_the_top_decile(spend)
    by_score = judged(spend, spend > 0, Prediction(prediction.score), best)
    same = Prediction(-prediction.score, high_value_probability=prediction.score)
    by_probability = judged(spend, spend > 0, same, best)
    assert by_score["auroc_high_value"] > 0.7
    for metric in (*HIGH_VALUE, *CONFUSION_HIGH_VALUE):
        assert by_score[metric] == by_probability[metric], metric
    assert by_probability["auroc_active"] < 0.5  # the other questions are asked of the score


def test_the_order_of_spend_itself_finds_every_customer_of_high_value():
    spend = np.random.default_rng(0).permutation(np.arange(1.0, 334.0))
    found = judged(spend, spend > 0, Prediction(spend), in_the_top_decile(spend))
    assert [found[metric] for metric in sorted(HIGH_VALUE)] == [1] * 5
    assert [found[count] for count in CONFUSION_HIGH_VALUE] == [34, 0, 0, 299]


def test_how_high_a_probability_runs_changes_no_call():
    spend, prediction = skewed()
    best, chance = in_the_top_decile(spend), prediction.purchase_probability
    high, low = (
        judged(spend, spend > 0, Prediction(chance, high_value_probability=scaled), best)
        for scaled in (chance, chance / 100)
    )
    assert low["true_positives_high_value"] > 10
    for metric in (*HIGH_VALUE, *CONFUSION_HIGH_VALUE):
        assert high[metric] == low[metric], metric


def test_equal_scores_share_the_places_of_the_first_tenth():
    """12 of 30 stand level for 3 places, 4 of the 12 are of high value: one hit in the mean."""
    score = np.repeat([1.0, 0.0], [12, 18])
    best = np.zeros(30)
    best[[0, 3, 6, 9, 20]] = 1
    found = judged(best, best, Prediction(score), best)
    assert [found[count] for count in CONFUSION_HIGH_VALUE] == pytest.approx([1, 2, 4, 23])
    blind = judged(best, best, Prediction(np.zeros(30)), best)
    assert blind["precision_high_value"] == pytest.approx(best.mean())
    assert blind["auroc_high_value"] == 0.5


def test_equal_scores_count_as_every_possible_order():
    rng = np.random.default_rng(1)
    spend = rng.gamma(1, 50, 40)
    score = np.repeat([3.0, 2.0, 1.0, 0.0], 10)
    broken = [score + rng.random(40) * 1e-6 for _ in range(4000)]
    for metric in ("normalized_gini", "capture_top10"):
        assert ranked(metric, spend, score) == pytest.approx(
            np.mean([ranked(metric, spend, one) for one in broken]), abs=0.005
        )
    assert ranked("capture_top10", spend, np.zeros(40)) == pytest.approx(0.10)


def test_capture_is_the_spend_of_the_tenth_ranked_first():
    spend, prediction = skewed()
    first = np.argsort(-prediction.score)[:100]
    found = ranked("capture_top10", spend, prediction.score)
    assert found == pytest.approx(spend[first].sum() / spend.sum())


def test_errors_equal_their_definitions():
    spend, prediction = skewed()
    found = judged(spend, spend > 0, prediction)
    expected, probability = prediction.expected_spend, prediction.purchase_probability
    assert found["sum_ratio"] == pytest.approx(expected.sum() / spend.sum())
    assert found["mae"] == pytest.approx(np.abs(expected - spend).mean())
    assert found["rmse"] == pytest.approx(np.sqrt(((expected - spend) ** 2).mean()))
    tenths = np.array_split(np.argsort(-expected), 10)
    off = [
        abs(expected[rows].mean() / spend[rows].mean() - 1) for rows in tenths if spend[rows].any()
    ]
    assert found["decile_mape"] == pytest.approx(np.mean(off))
    bins = np.minimum((probability * 10).astype(int), 9)
    gaps = [
        (bins == b).mean() * abs(probability[bins == b].mean() - (spend > 0)[bins == b].mean())
        for b in set(bins)
    ]
    assert found["ece"] == pytest.approx(sum(gaps))


def test_a_resample_is_judged_as_if_its_customers_stood_there():
    spend, prediction = skewed(200)
    best = in_the_top_decile(spend)
    weights = resample_weights(200, 5, seed=3)
    drawn = Judge(Outcome(spend, spend > 0, best), weights).draws(prediction)
    for draw in range(6):
        rows = np.repeat(np.arange(200), weights[:, draw].astype(int))
        columns = {name: v[rows] for name, v in vars(prediction).items() if v is not None}
        there = Prediction(**columns)
        found = judged(spend[rows], spend[rows] > 0, there, best[rows])
        for metric in (*DIRECTIONS, *CONFUSION, *CONFUSION_HIGH_VALUE):
            assert drawn[metric][draw] == pytest.approx(found[metric]), metric


def test_intervals_hold_the_estimate_and_narrow_with_more_customers():
    widths = []
    for n in (500, 8000):
        spend, prediction = skewed(n)
        outcome = Outcome(spend, spend > 0, in_the_top_decile(spend))
        judge = Judge(outcome, resample_weights(n, 200, seed=0))
        drawn = judge.draws(prediction)
        for metric in DIRECTIONS:
            low, high = interval(drawn[metric])
            if metric != "decile_mape":  # an absolute error is larger in every resample
                assert low <= drawn[metric][0] <= high, metric
        low, high = interval(drawn["spearman"])
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_those_expected_to_buy_nothing_share_a_rank_and_the_others_keep_theirs():
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    probability = np.array([0.9, 0.1, 0.7, 0.2, 0.3])  # 2.8 of 5 buy nothing
    assert list(with_the_silent_tied(values, probability)) == [5, 3, 4, 3, 3]
    for most_buy in (np.ones(5), np.full(5, 0.5)):
        assert list(with_the_silent_tied(values, most_buy)) == list(values)
    assert set(with_the_silent_tied(values, np.zeros(5))) == {5}


def test_an_order_of_noise_among_the_silent_costs_rank_correlation():
    rng = np.random.default_rng(0)
    probability = np.where(np.arange(4000) < 1200, rng.uniform(0.6, 0.9, 4000), 0.1)
    spend = (rng.random(4000) < probability) * rng.gamma(2, 50, 4000)
    values = probability + rng.normal(0, 0.02, 4000)
    tied = with_the_silent_tied(values, probability)
    by = {
        name: judged(spend, spend > 0, Prediction(values, ranking=ranking))["spearman"]
        for name, ranking in (("all", values), ("tied", tied))
    }
    assert by["tied"] > by["all"] + 0.05
    assert by["tied"] == pytest.approx(spearmanr(tied, spend)[0])


def test_what_a_ranking_cannot_have_is_nan():
    spend, prediction = skewed()
    ranking = Prediction(prediction.score)
    of_spend = {"sum_ratio", "mae", "rmse", "decile_mape"}
    of_purchase = {"average_precision", "precision", "recall", "f1", "ece"}
    of_interval = {"coverage", "interval_width"}
    for best, of_high_value in ((in_the_top_decile(spend), set()), (None, HIGH_VALUE)):
        found = judged(spend, spend > 0, ranking, best)
        unknown = {metric for metric in DIRECTIONS if np.isnan(found[metric])}
        assert unknown == of_spend | of_purchase | of_interval | of_high_value


def test_a_window_without_spend_has_no_ratio_and_breaks_nothing():
    nothing = np.zeros(20)
    found = judged(nothing, nothing, Prediction(np.arange(20.0), np.ones(20), np.full(20, 0.5)))
    assert all(np.isnan(found[m]) for m in ("sum_ratio", "normalized_gini", "auroc_active"))
    assert found["mae"] == 1


def test_more_is_better_once_a_metric_is_turned():
    assert goodness("mae", np.array([1.0])) > goodness("mae", np.array([2.0]))
    assert goodness("sum_ratio", np.array([0.9])) > goodness("sum_ratio", np.array([1.2]))
    assert goodness("spearman", np.array([0.9])) > goodness("spearman", np.array([0.2]))
    promised, short, long = goodness("coverage", np.array([0.90, 0.85, 0.97]))
    assert promised > short > long
    assert goodness("interval_width", np.array([1.0])) > goodness("interval_width", np.array([2.0]))


def test_whoever_spends_exactly_an_end_of_the_interval_is_held():
    spend = np.array([0.0, 5.0, 20.0, 20.1, -1.0])
    low, high = np.array([0.0, 5, 10, 10, 0]), np.array([0.0, 9, 20, 20, 10])
    found = judged(spend, spend > 0, Prediction(spend, low=low, high=high))
    assert found["coverage"] == pytest.approx(3 / 5)
    assert found["interval_width"] == pytest.approx((0 + 4 + 10 + 10 + 10) / spend.sum())


def test_an_interval_with_one_end_or_upside_down_is_refused():
    for ends in ({"low": np.zeros(2)}, {"high": np.ones(2)}):
        with pytest.raises(ValueError, match="two ends"):
            Prediction(np.ones(2), **ends)
    with pytest.raises(ValueError, match="above high"):
        Prediction(np.ones(2), low=np.array([0.0, 2.0]), high=np.ones(2))


def test_a_prediction_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="expected_spend"):
        Prediction(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="high_value_probability"):
        Prediction(np.ones(2), high_value_probability=np.array([1.0, np.nan]))


def test_an_outcome_of_other_customers_is_refused():
    for columns in (([], []), ([1, 2], [1]), ([1, 2], [1, 1], [0])):
        with pytest.raises(ValueError, match="same customers"):
            Outcome(*columns)
