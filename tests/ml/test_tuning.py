import json
from dataclasses import replace
from datetime import timedelta
from functools import partial

import numpy as np
import optuna
import pandas as pd
import pytest

from ml import backtest, cutoffs, lightgbm_hurdle, tuning
from ml.baselines import Estimator
from ml.lightgbm_hurdle import Config

# Far from good, so that a few trials find better.
POOR = Config(rounds=20, num_leaves=4, min_data_in_leaf=400, feature_fraction=0.1)


@pytest.fixture(scope="module")
def small(shop):
    """150 of its customers."""
    features, labels = (
        rows[rows["customer_id"] < "c0150"].reset_index(drop=True)
        for rows in (shop.features, shop.labels)
    )
    return replace(shop, features=features, labels=labels)


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(tuning, "SPACE", {**tuning.SPACE, "rounds": tuning.Span(20, 60)})


def tune(shop, **settings):
    asked = {"origins": shop.days[-6:-4], "not_after": shop.days[-4], "trials": 5, "default": POOR}
    asked |= {"features": shop.features, "labels": shop.labels, "horizon_days": shop.horizon_days}
    return tuning.tune(**{**asked, **settings})


@pytest.fixture(scope="module")
def tuned(small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "SPACE", {**tuning.SPACE, "rounds": tuning.Span(20, 60)})
        return tune(small)


def test_the_default_is_tried_first_and_what_is_found_is_never_worse(tuned):
    assert tuned.tried[0].config == POOR
    assert tuned.tried[0].score == tuned.default_score
    assert tuned.score == max(trial.score for trial in tuned.tried) > tuned.default_score
    assert tuned.trials == 5
    assert len({trial.config for trial in tuned.tried}) == 5


def test_the_scores_are_those_of_the_scoreboard(tuned, small):
    models = {
        name: Estimator(partial(lightgbm_hurdle.fit, config=config), lightgbm_hurdle.predict)
        for name, config in {"found": tuned.config, "default": POOR}.items()
    }
    board = backtest.run(
        small.features, small.labels, small.days[-6:-4], small.horizon_days, models, {}, resamples=0
    )
    assert board.pooled["found"]["normalized_gini"] == tuned.score
    assert board.pooled["default"]["normalized_gini"] == tuned.default_score
    assert tuned.gain_low <= tuned.gain <= tuned.gain_high


def test_the_same_seed_finds_the_same_and_another_seed_looks_elsewhere(tuned, small):
    again, other = tune(small), tune(small, seed=1, trials=2)
    assert again.tried == tuned.tried
    assert (again.gain_low, again.gain_high) == (tuned.gain_low, tuned.gain_high)
    assert other.tried[1].config != tuned.tried[1].config


def test_what_came_on_or_after_the_judged_day_changes_nothing(tuned, small):
    """All that the scoreboard will read is made nonsense, and so is what is still open by then."""
    rng = np.random.default_rng(0)
    unseen = pd.Timestamp(small.days[-4]) - pd.Timedelta(days=small.horizon_days)
    features, labels = small.features.copy(), small.labels.copy()
    for frame, column in ((features, "spend_90d"), (labels, "spend")):
        later = (frame["as_of_date"] > unseen).to_numpy()
        assert later.any()
        frame.loc[later, column] = rng.random(later.sum()) * 1e6
    again = tune(small, features=features, labels=labels)
    assert again.tried == tuned.tried


def test_a_window_that_reaches_past_the_judged_day_is_refused(small):
    late = small.days[-6] + timedelta(days=small.horizon_days)
    assert tune(small, origins=[small.days[-6]], not_after=late, trials=1).not_after == late
    with pytest.raises(ValueError, match="would have seen what it is judged"):
        tune(small, origins=[small.days[-6]], not_after=late - timedelta(days=1))


def test_the_search_ends_at_the_first_trial_that_outlasts_its_seconds(small):
    ticks = iter(range(0, 1000, 10))
    found = tune(small, trials=None, seconds=35, clock=lambda: next(ticks))
    assert found.trials == 3  # begun after 10, 20 and 30 seconds; at 40 it is over
    ticks = iter(range(0, 1000, 10))
    found = tune(small, trials=2, seconds=1000, clock=lambda: next(ticks))
    assert found.trials == 2


def test_without_time_the_default_comes_back_with_no_gain(small):
    found = tune(small, trials=None, seconds=1e-9)
    assert (found.config, found.trials) == (POOR, 1)
    assert (found.gain, found.gain_low, found.gain_high) == (0, 0, 0)
    assert "nothing beats the default" in tuning.summary(found)


@pytest.mark.parametrize("limits", [{}, {"trials": 0}, {"seconds": -1}])
def test_a_search_without_an_end_is_refused(small, limits):
    with pytest.raises(ValueError, match=r"when to stop|must be more than 0"):
        tune(small, **{"trials": None, **limits})


def test_windows_in_which_nobody_spent_are_refused(small):
    empty = small.labels.copy()
    empty.loc[empty["as_of_date"] == pd.Timestamp(small.days[-5]), "spend"] = 0.0
    with pytest.raises(ValueError, match="nobody spent anything"):
        tune(small, labels=empty, trials=1)


def test_who_is_of_high_value_is_neither_asked_nor_a_feature(tuned, small):
    told = small.labels["spend"] > 50
    features = small.features.assign(is_high_value=told)
    found = tune(small, features=features, labels=small.labels.assign(is_high_value=told), trials=2)
    assert found.tried == tuned.tried[:2]


def test_only_what_is_searched_differs_from_the_default(small):
    default = replace(POOR, season_limit=1.5, bagging_fraction=0.7, seed=3)
    found = tune(small, default=default, trials=2)
    kept = {name: getattr(default, name) for name in ("season_limit", "bagging_fraction", "seed")}
    for trial in found.tried:
        assert {name: getattr(trial.config, name) for name in kept} == kept


def test_every_setting_searched_is_one_of_the_models_and_its_default_lies_inside():
    for name, span in tuning.SPACE.items():
        assert span.low <= getattr(POOR, name) <= span.high
        assert name == "rounds" or span.low < getattr(Config(), name) < span.high


def test_tuning_windows_close_on_the_oldest_test_day_and_are_fewer_where_history_is_short(small):
    oldest = min(small.days[-4:])
    there = tuning.tuning_origins(oldest, small.first_day, 30)
    assert there[0] == oldest - timedelta(days=30)
    assert len(there) == tuning.ORIGINS
    room_for_two = oldest - timedelta(days=30 + 30 + 30 + 30)
    assert len(tuning.tuning_origins(oldest, room_for_two, 30)) == 2
    with pytest.raises(cutoffs.NotEnoughHistory):
        tuning.tuning_origins(oldest, oldest - timedelta(days=89), 30)


def test_what_was_tuned_later_is_not_judged_earlier(small):
    origins = small.days[-4:]
    assert tuning.may_be_judged_from(min(origins), origins)
    assert not tuning.may_be_judged_from(min(origins) + timedelta(days=1), origins)


def test_json_gives_the_configuration_back(tuned):
    back = json.loads(json.dumps(tuning.to_json(tuned)))
    assert Config(**back["config"]) == tuned.config
    assert back["not_after"] == tuned.not_after.isoformat()


def test_the_summary_fits_a_terminal_and_says_that_it_is_optimistic(tuned):
    said = tuning.summary(tuned)
    assert max(map(len, said.splitlines())) <= 80
    assert "too optimistic" in said


def test_optuna_says_nothing_and_the_caller_hears_every_trial(small, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    heard = []
    tune(small, trials=2, say=heard.append)
    assert [line.split(":")[0] for line in heard] == ["Trial 1 of 2", "Trial 2 of 2"]
    assert capfd.readouterr() == ("", "")
