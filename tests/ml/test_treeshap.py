import lightgbm as lgb
import numpy as np
import pytest

from ml import treeshap

ROUNDS = 30


def shop(rows=600, seed=0, nulls=True):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, 6)).astype(np.float32)
    values[:, 3] = rng.integers(0, 4, rows)
    if nulls:
        values[rng.random(rows) < 0.3, 1] = np.nan
        values[rng.random(rows) < 0.3, 2] = np.nan
    target = values[:, 0] + np.nan_to_num(values[:, 1]) * values[:, 3] + rng.normal(size=rows)
    # A null of column 2 is the only thing that matters of it: its split is known or not known.
    return values, target + 2 * np.isnan(values[:, 2])


def booster(values, target, **parameters):
    asked = {"num_leaves": 15, "verbosity": -1, "num_threads": 1, **parameters}
    return lgb.train(asked, lgb.Dataset(values, target), num_boost_round=ROUNDS)


@pytest.mark.parametrize("nulls", [True, False], ids=["nulls seen", "no nulls seen"])
@pytest.mark.parametrize("leaves", [2, 15, 31, 200])
def test_looked_up_contributions_are_lightgbms_own(nulls, leaves):
    values, target = shop(nulls=nulls)
    model = booster(values, target, num_leaves=leaves, min_data_in_leaf=3)
    asked, _ = shop(seed=1)  # with nulls, whether training had any or not
    for kind in (np.float32, np.float64):
        found = treeshap.fast_contributions(model, asked.astype(kind), num_threads=2)
        expected = treeshap.contributions(model, asked.astype(kind))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_most_boosters_are_looked_up_and_deep_ones_asked():
    values, target = shop()
    assert treeshap._tables(booster(values, target)) is not None
    assert treeshap._tables(booster(values, target, num_leaves=200, min_data_in_leaf=1)) is None


def test_splits_otherwise_than_by_a_threshold_are_left_to_lightgbm():
    values, target = shop(nulls=False)
    data = lgb.Dataset(values, target, categorical_feature=[3])
    asked = {"verbosity": -1, "num_threads": 1, "min_data_per_group": 1, "cat_smooth": 1}
    model = lgb.train(asked, data, num_boost_round=ROUNDS)
    assert treeshap._tables(model) is None
    np.testing.assert_array_equal(
        treeshap.fast_contributions(model, values), treeshap.contributions(model, values)
    )


def test_the_sides_of_a_threshold_are_the_same_for_single_floats():
    values, target = shop()
    model = booster(values, target)
    thresholds = [
        split.threshold for table in treeshap._tables(model).all for split in table.splits
    ]
    known = np.float32([threshold for threshold in thresholds if threshold < 1e30])
    edge = np.repeat(known[:, None], 6, axis=1)
    found = treeshap.fast_contributions(model, edge)
    np.testing.assert_allclose(found, treeshap.contributions(model, edge), rtol=0, atol=1e-12)


def test_nobody_has_no_contributions():
    values, target = shop()
    assert treeshap.fast_contributions(booster(values, target), values[:0]).shape == (0, 7)


def test_contributions_that_do_not_add_up_to_the_score_are_refused(monkeypatch):
    values, target = shop()
    model = booster(values, target)
    tables = treeshap._tables(model)
    monkeypatch.setattr(
        treeshap, "_tables", lambda booster: treeshap.Tables(tables.all[:-1], tables.average)
    )
    with pytest.raises(ValueError, match="contributions and score differ"):
        treeshap.fast_contributions(model, values)
