"""The gate lets a good challenger through and stops each bad one by the rule meant for it."""

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from ml import backtest, lightgbm_hurdle, promotion, tier_evaluation, tier_policy
from ml.baselines import BASELINES, Estimator
from ml.promotion import Challenger, Champion, Decision

SMALL = lightgbm_hurdle.Config(rounds=60, learning_rate=0.1, min_data_in_leaf=20)
HURDLE = Estimator(partial(lightgbm_hurdle.fit, config=SMALL), lightgbm_hurdle.predict)
NAME = "hurdle"
# The spend rate is what this shop's customers really do, so nothing can be better than it.
BEATABLE = {name: BASELINES[name] for name in ("mean", "order_count", "recency")}
POLICY = tier_policy.read_policy()


class Judged(NamedTuple):
    board: backtest.Backtest
    tiers: list[tier_evaluation.TierResult]


def judge(shop, estimator=HURDLE, features=None, labels=None, **settings):
    """The scoreboard of a challenger, and the tiers that it would have drawn."""
    labels = shop.labels if labels is None else labels
    kept, said = promotion.remembered(estimator)
    board = backtest.run(
        shop.features if features is None else features,
        labels,
        settings.pop("origins", shop.days[-4:]),
        settings.pop("horizon_days", shop.horizon_days),
        **{"models": {NAME: kept}, "baselines": BEATABLE, "resamples": 50, **settings},
    )
    windows = tier_evaluation.evaluate_windows(said, labels, POLICY)
    return Judged(board, tier_evaluation.summed(windows.values()))


def fitted(shop, estimator=HURDLE, features=None, labels=None, horizon_days=None):
    """The final model, of all closed windows, as the gate sees it."""
    features = shop.features if features is None else features
    labels = shop.labels if labels is None else labels
    model = estimator.fit(features, labels, horizon_days or shop.horizon_days)
    newest = features[features["as_of_date"] == features["as_of_date"].max()]
    return Challenger(
        getattr(model, "horizon_days", shop.horizon_days),
        getattr(model, "features", lightgbm_hurdle.feature_columns(features, labels)),
        promotion.ask(estimator.predict, model, newest.reset_index(drop=True)),
        shop.days[-1] + timedelta(days=shop.horizon_days),
    )


def case(shop, judged, challenger, champion=None, features=None):
    return promotion.Case(
        board=judged.board,
        name=NAME,
        challenger=challenger,
        horizon_days=shop.horizon_days,
        learned_days=shop.horizon_days,
        columns=lightgbm_hurdle.feature_columns(
            shop.features if features is None else features, shop.labels
        ),
        tiers=judged.tiers,
        champion=champion,
    )


def no_difference(judged, good):
    """A champion of the challenger's own configuration."""
    metrics, gain = promotion.no_difference(judged.board, NAME)
    return Champion("7", good.as_of_date, good.features, metrics, gain)


def broken(shop, judged, challenger, champion=None, features=None) -> list[str]:
    verdict = promotion.decide(case(shop, judged, challenger, champion, features))
    return [rule for rule, _ in verdict.broken]


@pytest.fixture(scope="module")
def shop(shop):
    """Without last year: the season is another matter."""
    return replace(shop, features=shop.features.drop(columns="spend_same_window_last_year_30d"))


@pytest.fixture(scope="module")
def judged(shop):
    return judge(shop)


@pytest.fixture(scope="module")
def good(shop):
    return fitted(shop)


@pytest.fixture(scope="module")
def champion(shop, judged, good):
    return no_difference(judged, good)


def test_a_good_challenger_is_promoted_and_every_rule_holds(shop, judged, good):
    verdict = promotion.decide(case(shop, judged, good))
    assert verdict.broken == ()
    assert verdict.decision == Decision.promoted
    assert json.loads(json.dumps(verdict.numbers, allow_nan=False)) == verdict.numbers


def test_a_feature_that_holds_the_label_is_too_good(shop):
    leaky = shop.features.assign(next_spend=shop.labels["spend"])
    found = broken(shop, judge(shop, features=leaky), fitted(shop, features=leaky))
    assert found == ["not_too_good"]


def test_a_perfect_order_is_too_good_however_good_the_baselines_are(shop, good):
    leaky = shop.features.assign(next_spend=shop.labels["spend"])

    def predict(model, frame):
        told = lightgbm_hurdle.predict(model, frame)
        return replace(told, score=frame["next_spend"].to_numpy())

    knows = Estimator(HURDLE.fit, predict)
    baselines = {"nearly": Estimator(lambda *_: None, lambda _, frame: predict_nearly(frame))}
    judged = judge(shop, knows, features=leaky, baselines=baselines)
    assert judged.board.pooled[NAME]["normalized_gini_gain"] < promotion.GAIN_MOST
    assert broken(shop, judged, good) == ["not_too_good"]


def predict_nearly(frame):
    spend = frame["next_spend"].to_numpy()
    noise = np.random.default_rng(0).lognormal(0, 0.8, spend.size)
    return backtest.Prediction(score=spend * noise)


def test_one_number_for_everybody_is_refused(shop, judged, good):
    def predict(model, frame):
        told = lightgbm_hurdle.predict(model, frame)
        same = np.full(len(frame), told.score.mean())
        return replace(told, score=same, expected_spend=same)

    constant = Estimator(HURDLE.fit, predict)
    assert "different_answers" in broken(shop, judge(shop, constant), good)
    assert broken(shop, judged, fitted(shop, constant)) == ["different_answers"]


def test_what_is_not_a_number_is_refused(shop, judged):
    def predict(model, frame):
        told = lightgbm_hurdle.predict(model, frame)
        return replace(told, expected_spend=np.where(frame.index == 3, np.nan, told.score))

    holes = Estimator(HURDLE.fit, predict)
    with pytest.raises(ValueError, match="one finite number"):
        judge(shop, holes)
    assert broken(shop, judged, fitted(shop, holes)) == ["an_answer"]


def test_a_model_without_a_probability_is_refused(shop, judged, good):
    ranks = backtest.Prediction(score=np.arange(5.0), expected_spend=np.arange(5.0))
    assert broken(shop, judged, replace(good, answer=ranks)) == ["an_answer"]


def test_what_was_learned_from_shuffled_labels_beats_no_baseline(shop, good):
    def fit(frame, labels, horizon_days):
        told = ["spend", "orders", "is_purchased"]
        shuffled = labels[told].sample(frac=1, random_state=0).reset_index(drop=True)
        return HURDLE.fit(
            frame.reset_index(drop=True),
            labels.reset_index(drop=True).assign(**shuffled),
            horizon_days,
        )

    found = broken(shop, judge(shop, Estimator(fit, HURDLE.predict)), good)
    assert "better_than_baselines" in found


def test_a_model_of_another_horizon_is_refused(shop, judged):
    longer = shop.labels.assign(horizon_days=90)
    assert broken(shop, judged, fitted(shop, labels=longer, horizon_days=90)) == ["horizon"]


def test_a_model_without_a_column_is_refused(shop, champion):
    less = shop.features.drop(columns="spend_90d")
    judged, challenger = judge(shop, features=less), fitted(shop, features=less)
    assert broken(shop, judged, challenger) == ["every_feature"]
    # The champion's columns count, whatever the table has lost or gained since.
    told = replace(champion, gain={"normalized_gini_gain_low": 0.0})
    assert broken(shop, judged, challenger, told, features=less) == ["every_feature"]
    without = tuple(name for name in champion.features if name != "spend_90d")
    assert broken(shop, judged, challenger, replace(told, features=without)) == []


def test_totals_three_times_too_high_are_refused_though_the_order_is_right(shop, good):
    def predict(model, frame):
        told = lightgbm_hurdle.predict(model, frame)
        return replace(told, expected_spend=3 * told.expected_spend)

    assert broken(shop, judge(shop, Estimator(HURDLE.fit, predict)), good) == ["right_total"]


def test_windows_that_reach_into_the_judged_one_are_refused(shop, good):
    """Days ten apart, judged as windows of ten days, while the labels are of thirty."""
    day = {d: shop.days[0] + timedelta(days=10 * i) for i, d in enumerate(shop.days)}
    features, labels = (
        frame.assign(as_of_date=pd.to_datetime(frame["as_of_date"].dt.date.map(day)))
        for frame in (shop.features, shop.labels.drop(columns="horizon_days"))
    )
    origins = [day[d] for d in shop.days[-4:]]
    judged = judge(shop, HURDLE, features, labels, origins=origins, horizon_days=10, step_days=10)
    assert {"horizon", "unseen_windows"} <= set(broken(shop, judged, good))
    told = judged._replace(board=replace(judged.board, horizon_days=shop.horizon_days))
    assert "unseen_windows" in broken(shop, told, good)


def test_what_was_learned_by_heart_is_too_good(shop, good):
    """A model of every window, the judged ones too, whatever it is given to learn from."""
    keen = replace(SMALL, rounds=400, learning_rate=0.1, num_leaves=31, min_data_in_leaf=5)
    model = lightgbm_hurdle.fit(shop.features, shop.labels, shop.horizon_days, keen)
    judged = judge(shop, Estimator(lambda *_: model, lightgbm_hurdle.predict))
    assert "not_too_good" in broken(shop, judged, good)


def test_an_older_challenger_never_replaces_a_champion_that_knows_more(
    shop, judged, good, champion
):
    newer = replace(champion, as_of_date=good.as_of_date + timedelta(days=1))
    assert broken(shop, judged, good, newer) == ["newer_than_champion"]


def test_a_refresh_of_the_champion_replaces_it(shop, judged, good, champion):
    assert broken(shop, judged, good, champion) == []


def test_comparing_a_configuration_with_itself_finds_no_difference_at_all(shop, judged, champion):
    refits = dict.fromkeys(shop.days[-4:], promotion.REFIT)
    metrics, gain = promotion.compare(
        judged.board,
        NAME,
        shop.features,
        shop.labels,
        HURDLE,
        promotion.as_judged(None, refits, 30, HURDLE),
    )
    known = {name: metrics[name] for name in champion.metrics if name in metrics}
    for metric in backtest.DIRECTIONS:
        assert known[metric] == pytest.approx(judged.board.pooled[NAME][metric], nan_ok=True)
    for name, value in champion.gain.items():
        assert gain[name] == value == 0


def test_a_challenger_worse_than_the_champion_is_refused_though_it_beats_the_baselines(shop, good):
    """The challenger's ranks are blurred; the paired difference says how much was lost."""

    def predict(model, frame):
        told = lightgbm_hurdle.predict(model, frame)
        noise = np.random.default_rng(1).lognormal(0, 0.5, len(frame))
        return replace(told, score=told.score * noise)

    blurred = Estimator(HURDLE.fit, predict)
    judged = judge(shop, blurred)
    refits = dict.fromkeys(shop.days[-4:], promotion.REFIT)
    metrics, gain = promotion.compare(
        judged.board, NAME, shop.features, shop.labels, blurred,
        promotion.as_judged(None, refits, 30, HURDLE),
    )  # fmt: skip
    lost = judged.board.pooled[NAME]["normalized_gini"] - metrics["normalized_gini"]
    assert gain["normalized_gini_gain"] == pytest.approx(lost)
    assert lost < 0
    champion = Champion("7", good.as_of_date, good.features, metrics, gain)
    assert broken(shop, judged, good, champion) == ["no_worse_than_champion"]
    assert broken(shop, judged, good) == []


def test_what_is_more_than_trees_has_to_be_surely_better_than_they_are(shop, judged, good):
    """The trees beside themselves: as good is not enough for what costs more."""

    def over(low: float) -> list[str]:
        gain = {"normalized_gini_gain": 0.002, "normalized_gini_gain_low": low}
        dearer = replace(case(shop, judged, good), over_simpler=gain)
        return [rule for rule, _ in promotion.decide(dearer).broken]

    assert over(0.001) == []
    assert over(0.0) == over(-0.001) == ["worth_its_cost"]
    kept, again = promotion.recorded(HURDLE)
    board = judge(shop, kept).board
    _, gain = promotion.compare(board, NAME, shop.features, shop.labels, again, again)
    verdict = promotion.decide(replace(case(shop, judged, good), over_simpler=gain))
    assert [rule for rule, _ in verdict.broken] == ["worth_its_cost"]
    assert verdict.numbers["metrics"]["normalized_gini"]["gain_over_simpler"] == 0


def test_what_was_said_of_a_day_is_said_again_without_fitting(shop):
    fits = []

    def fit(*learned):
        fits.append(learned)
        return HURDLE.fit(*learned)

    kept, again = promotion.recorded(Estimator(fit, HURDLE.predict))
    board = judge(shop, kept).board
    found = judge(shop, again).board
    assert len(fits) == 4
    assert found.pooled[NAME] == pytest.approx(board.pooled[NAME], nan_ok=True)


def test_the_champion_is_itself_only_on_windows_it_has_not_seen(shop):
    """Trained when two of the four windows were still to come."""
    knew_until = shop.days[-2]
    told = {
        "origins": shop.days[-4:],
        "asked_days": 30,
        "columns": ("a", "b"),
        "features": ("a",),
        "horizon_days": 30,
        "knows_until": knew_until,
    }
    judged = promotion.how_judged(**told)
    assert judged == {
        day: "itself" if day >= knew_until else "refit" for day in sorted(shop.days[-4:])
    }
    for change in ({"asked_days": 90}, {"columns": ("b",)}):
        assert set(promotion.how_judged(**{**told, **change}).values()) == {"refit"}
    estimator = promotion.as_judged("itself", judged, 30, Estimator(lambda *_: "refit", None))
    for day in shop.days[-4:]:
        cutoff = pd.DataFrame({"as_of_date": [pd.Timestamp(day) - pd.Timedelta(days=30)]})
        assert estimator.fit(cutoff, cutoff, 30) == judged[day]


def with_metrics(judged, **metrics):
    board = judged.board
    pooled = {**board.pooled, NAME: {**board.pooled[NAME], **metrics}}
    return judged._replace(board=replace(board, pooled=pooled))


@pytest.mark.parametrize(
    ("metrics", "champions", "rule"),
    [
        ({"sum_ratio": 1.26}, {}, "right_total"),
        ({"sum_ratio": 0.79}, {}, "right_total"),
        ({"sum_ratio": 1.24}, {"sum_ratio": 0.8}, None),
        ({"sum_ratio": 1.1}, {"sum_ratio": 1.04}, "right_total"),
        ({"sum_ratio": 0.92}, {"sum_ratio": 1.04}, None),
        ({"sum_ratio": np.nan}, {}, "right_total"),
        ({"ece": 0.11}, {}, "right_probability"),
        ({"ece": np.nan}, {}, "right_probability"),
        ({"ece": 0.09}, {"ece": 0.06}, "right_probability"),
        ({"ece": 0.09}, {"ece": 0.08}, None),
        ({"coverage": 0.84}, {}, "right_intervals"),
        ({"coverage": 0.96}, {}, "right_intervals"),
        ({"coverage": 0.90}, {}, None),
        ({"coverage": np.nan}, {}, None),
        ({"normalized_gini_gain": 0.0}, {}, "better_than_baselines"),
        ({"normalized_gini_gain_low": -0.011}, {}, "better_than_baselines"),
        ({"normalized_gini_gain_low": -0.009}, {}, None),
        ({"normalized_gini_gain_low": np.nan}, {}, "better_than_baselines"),
        ({"normalized_gini_gain_low": 0.151}, {}, "not_too_good"),
        ({"normalized_gini": 0.991}, {}, "not_too_good"),
    ],
)
def test_the_bounds_are_where_the_rules_say(shop, judged, good, champion, metrics, champions, rule):
    told = replace(champion, metrics={**champion.metrics, **champions}) if champions else None
    found = broken(shop, with_metrics(judged, **metrics), good, told)
    assert found == ([rule] if rule else [])


def test_only_a_new_kind_of_model_has_to_be_surely_better_than_the_rules(
    shop, judged, good, champion
):
    unsure = with_metrics(judged, normalized_gini_gain=0.003, normalized_gini_gain_low=-0.006)
    refresh = dict.fromkeys(champion.gain, 0.0)
    assert broken(shop, unsure, good, replace(champion, gain=refresh)) == []
    new_kind = {**refresh, "normalized_gini_gain": 0.002}
    told = replace(champion, gain=new_kind)
    assert broken(shop, unsure, good, told) == ["better_than_baselines"]


@pytest.mark.parametrize(("low", "rules"), [(-0.009, []), (-0.011, ["no_worse_than_champion"])])
def test_a_champion_may_be_better_by_no_more_than_a_hundredth(
    shop, judged, good, champion, low, rules
):
    told = replace(champion, gain={**champion.gain, "normalized_gini_gain_low": low})
    assert broken(shop, judged, good, told) == rules


def test_a_champion_whose_loss_cannot_be_had_is_not_replaced(shop, judged, good, champion):
    told = replace(champion, gain={})
    assert broken(shop, judged, good, told) == ["no_worse_than_champion"]


def test_a_tier_off_by_more_than_five_points_is_refused(shop, judged, good):
    told = case(shop, judged, good)
    total = sum(tier.realised_spend for tier in told.tiers)
    expected = sum(tier.expected_spend for tier in told.tiers)
    exact = [replace(t, expected_spend=t.realised_spend / total * expected) for t in told.tiers]
    for points, holds in ((0.049, True), (0.051, False), (-0.051, False)):
        moved = points * expected
        first = replace(exact[0], expected_spend=exact[0].expected_spend + moved)
        last = replace(exact[-1], expected_spend=exact[-1].expected_spend - moved)
        verdict = promotion.decide(replace(told, tiers=[first, *exact[1:-1], last]))
        assert [rule for rule, _ in verdict.broken] == ([] if holds else ["right_tiers"])
    nobody = [replace(tier, realised_spend=0.0) for tier in told.tiers]
    assert [r for r, _ in promotion.decide(replace(told, tiers=nobody)).broken] == ["right_tiers"]


def test_the_note_names_every_rule_every_reason_and_every_metric(shop, judged, good):
    verdict = promotion.decide(case(shop, with_metrics(judged, ece=0.2), good))
    verdict = promotion.also_refused(verdict, "same_champion", "another one came first")
    note = promotion.to_markdown(verdict, "Version 8")
    assert note.startswith("# Version 8\n\n**Refused:** ")
    for rule in promotion.RULES:
        assert f"| {rule.name} |" in note
    for metric in backtest.DIRECTIONS:
        assert f"| {metric} |" in note
    for tier in POLICY.tiers:
        assert f"| {tier.name} |" in note
    assert "off by 0.200" in note and "off by 0.200" in verdict.reasons
    assert "| same_champion | another one came first |" in note
    tables = [line for line in note.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {4, 7}


P, R, B = Decision.promoted, Decision.refused, Decision.rolled_back


@pytest.mark.parametrize(
    ("rows", "champion", "before"),
    [
        ([], "1", None),
        ([(P, "1", None)], "1", None),
        ([(P, "1", None), (P, "2", "1")], "2", "1"),
        ([(P, "1", None), (P, "2", "1"), (R, "3", "2")], "2", "1"),
        ([(P, "1", None), (P, "2", "1"), (P, "3", "2"), (B, "2", "3")], "2", "1"),
        ([(P, "1", None), (P, "2", "1"), (B, "1", "2")], "1", None),
        ([(P, "1", None), (P, "2", "1"), (P, "1", "2"), (B, "2", "1")], "2", "1"),
        ([(P, "5", "4")], "5", "4"),  # the table is younger than the first champion
        ([(P, "1", None), (P, "2", "1")], "9", "2"),  # somebody moved the alias elsewhere
        ([(P, "8", None), (P, "9", "8"), (P, "1", None)], "1", None),  # a new MLflow
    ],
)
def test_a_rollback_goes_back_one_champion_at_a_time(rows, champion, before):
    assert promotion.champion_before(rows, champion) == before


def test_rolling_back_again_and_again_ends_at_the_first_champion():
    rows, champion = [], None
    for version in "1232":
        rows.append((P, version, champion))
        champion = version
    seen = []
    while (before := promotion.champion_before(rows, champion)) is not None:
        rows.append((B, before, champion))
        champion = before
        seen.append(before)
    assert seen == ["3", "2", "1"]
