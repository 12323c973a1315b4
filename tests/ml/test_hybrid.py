from dataclasses import replace
from datetime import date, timedelta

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ml import backtest as judging
from ml import (
    customer_hash,
    horizons,
    hybrid,
    lightgbm_hurdle,
    lookalikes,
    sequence,
    sequence_model,
    streams,
    training_loop,
)

HORIZON_DAYS = 30
CUTOFFS = (160, 200, 240)  # days since 1970-01-01
TO_PREDICT = 280
CONFIG = hybrid.Config(
    sequence=training_loop.Config(
        network=sequence.Config(
            dim=8, layers=1, heads=1, category_buckets=16, product_buckets=16, max_events=32
        ),
        pretraining_epochs=1,
        epochs=1,
        batch_size=64,
        learning_rate=1e-2,
    ),
    trees=lightgbm_hurdle.Config(rounds=40, feature_fraction=0.8, min_data_in_leaf=20),
)


def table_of(customers=120, seed=0):
    """Customers who look at one of two categories at a time: the newest tells what comes next."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 25, customers)
    who = np.repeat(np.arange(customers), count)
    known_on = np.concatenate([np.sort(rng.integers(20, TO_PREDICT + 40, n)) for n in count])
    seconds = (known_on - 1) * 86_400 + 36_000
    is_first = np.r_[True, who[1:] != who[:-1]]
    return pa.table({
        "customer_id": [f"c{i:04}" for i in who],
        "known_on": pa.array(known_on.astype(np.int32)).cast(pa.date32()),
        "occurred_at": pa.array(seconds).cast(pa.timestamp("s")),
        "kind": rng.integers(1, 4, who.size),
        "category_code": rng.choice([70_000, 80_001], who.size),
        "product_bucket": rng.integers(1, 8193, who.size),
        "log_amount": rng.normal(3, 1, who.size),
        "seconds_since_last": np.where(is_first, np.nan, np.r_[0, np.diff(seconds)]),
        "hour": np.full(who.size, 10),
        "weekday": (known_on + 2) % 7 + 1,
        })  # fmt: skip


def events_of(customers=120, seed=0):
    return streams.from_table(table_of(customers, seed))


def rows_of(events, days, seed=1):
    """Who looked at category 70,000 last buys; hardly anybody else does."""
    rng = np.random.default_rng(seed)
    ids = [customer.decode() for customer in events.customer_ids] + ["newcomer"]
    day = pd.to_datetime(np.repeat(days, len(ids)), unit="D")
    frame = pd.DataFrame({"customer_id": ids * len(days), "as_of_date": day})
    cuts = streams.cut(events, frame["customer_id"], frame["as_of_date"], 512)
    newest = np.where(cuts.lengths > 0, events.category_code[np.maximum(cuts.end - 1, 0)], 0)
    buys = rng.random(len(frame)) < np.where(newest == 70_000, 0.9, 0.1)
    frame["tenure_days"] = rng.exponential(100, len(frame))
    spend = np.where(buys, rng.lognormal(4.5, 0.5, len(frame)), 0.0)
    labels = frame[["customer_id", "as_of_date"]].assign(
        spend=spend, is_purchased=buys, is_high_value=spend > 120
    )
    return frame, labels


TABLE = table_of()
EVENTS = streams.from_table(TABLE)
FRAME, LABELS = rows_of(EVENTS, CUTOFFS)
TODAY, _ = rows_of(EVENTS, (TO_PREDICT,))


def fit(labels=LABELS, frame=FRAME, events=EVENTS, config=CONFIG):
    return hybrid.fit(frame, labels, HORIZON_DAYS, events, config)


@pytest.fixture(scope="module")
def fitted():
    return fit()


def same(a, b):
    for name in ("expected_spend", "purchase_probability", "high_value_probability", "ranking"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_chances_are_the_mean_of_both_and_amounts_are_the_trees(fitted):
    wide = hybrid.widened(fitted.network, TODAY, EVENTS)
    said = hybrid.ask(fitted.trees, wide, num_threads=1)
    trees = lightgbm_hurdle.ask(fitted.trees, TODAY, num_threads=1)
    network = sequence_model.predict(fitted.network, TODAY, EVENTS)
    assert (trees.purchase != network.purchase_probability).any()
    mean = (trees.purchase + network.purchase_probability) / 2
    np.testing.assert_allclose(said.purchase, mean, rtol=1e-6)
    mean = (trees.high_value + network.high_value_probability) / 2
    np.testing.assert_allclose(said.high_value, mean, rtol=1e-6)
    np.testing.assert_array_equal(said.amount, trees.amount)
    same(hybrid.predict(fitted, TODAY, EVENTS), lightgbm_hurdle.settle(fitted.trees, TODAY, said))


def test_what_happens_after_the_day_changes_no_answer(fitted):
    later = EVENTS.known_on > TO_PREDICT
    assert later.any()
    changed = replace(
        EVENTS,
        kind=np.where(later, 9, EVENTS.kind).astype(np.int8),
        log_amount=np.where(later, 20, EVENTS.log_amount).astype(np.float32),
    )
    same(hybrid.predict(fitted, TODAY, changed), hybrid.predict(fitted, TODAY, EVENTS))


def test_what_happens_after_the_newest_cutoff_is_not_learned_from(fitted):
    later = EVENTS.known_on > max(CUTOFFS)
    changed = replace(EVENTS, log_amount=np.where(later, 20, EVENTS.log_amount).astype(np.float32))
    frame, _ = rows_of(EVENTS, (max(CUTOFFS),))
    same(hybrid.predict(fit(events=changed), frame, EVENTS), hybrid.predict(fitted, frame, EVENTS))


def test_from_the_events_it_learns_what_features_do_not_tell():
    config = replace(CONFIG, sequence=replace(CONFIG.sequence, epochs=15, patience=50))
    fitted = fit(config=config)
    assert fitted.trees.features == ("tenure_days",)
    others = events_of(customers=400, seed=7)
    frame, labels = rows_of(others, (TO_PREDICT,), seed=8)
    by_events = hybrid.predict(fitted, frame, others).purchase_probability
    by_features = lightgbm_hurdle.predict(fitted.trees, frame).purchase_probability
    buys = labels["is_purchased"]
    gap = [p[buys].mean() - p[~buys].mean() for p in (by_events, by_features)]
    assert gap[0] > gap[1] + 0.1


def test_a_stored_hybrid_answers_as_before_through_mlflow_and_is_no_pickle(fitted, tmp_path):
    today = date(1970, 1, 1) + timedelta(days=TO_PREDICT)
    shorter = LABELS.assign(horizon_days=14)
    outlook = horizons.fit(fitted.trees, FRAME, shorter, today, fitted.network)
    (tmp_path / "data").mkdir()
    horizons.to_files(outlook, tmp_path / "data")
    mlflow.pyfunc.save_model(
        tmp_path / "model", loader_module="ml.horizons", data_path=str(tmp_path / "data"),
        pip_requirements=["lightgbm"],
    )  # fmt: skip
    stored = {f.suffix for f in (tmp_path / "model" / "data").rglob("*") if f.is_file()}
    assert stored == {".json", ".safetensors", ".txt"}
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = served.predict({"customers": TODAY, "events": TABLE})
    expected = hybrid.predict(fitted, TODAY, EVENTS)
    np.testing.assert_array_equal(found["expected_spend"], expected.expected_spend)
    np.testing.assert_array_equal(found["purchase_probability"], expected.purchase_probability)
    np.testing.assert_array_equal(found["high_value_probability"], expected.high_value_probability)
    with pytest.raises(ValueError, match="reads the events too"):
        served.predict(TODAY)
    for file in sorted((tmp_path / "data").rglob("*")):
        if file.is_file():
            kept = file.read_bytes()
            broken = bytearray(kept)
            broken[len(kept) // 2] ^= 1
            file.write_bytes(broken)
            with pytest.raises(ValueError, match=r"not what was written|cannot be read"):
                horizons.from_files(tmp_path / "data")
            file.write_bytes(kept)
    (tmp_path / "data" / f"{HORIZON_DAYS}d" / "high_value.txt").unlink()
    with pytest.raises(ValueError, match=r"high_value\.txt is not what was written"):
        horizons.from_files(tmp_path / "data")


def test_without_a_high_value_label_nobody_is_asked_about_it():
    fitted = fit(LABELS.drop(columns="is_high_value"))
    assert hybrid.predict(fitted, TODAY, EVENTS).high_value_probability is None


def test_draws_are_uniform_repeatable_and_of_two_purposes_independent():
    names = [f"c{i:04}" for i in range(4000)]
    one, two = (customer_hash.uniform(names, purpose) for purpose in ("one", "two"))
    assert np.abs(np.quantile(one, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 0.03
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.05
    np.testing.assert_array_equal(customer_hash.uniform(names[::-1], "one"), one[::-1])
    assert customer_hash.uniform(["c0001"], "one") == pytest.approx(one[1])


def test_a_share_of_labels_is_the_same_customers_and_totals_stay_those_of_everybody():
    seen = []

    def fit(frame, labels, horizon_days):
        seen.append(set(frame["customer_id"]))
        assert frame["customer_id"].tolist() == labels["customer_id"].tolist()
        return lightgbm_hurdle.fit(frame, labels, horizon_days, CONFIG.trees)

    frame = FRAME.assign(spend_30d=1.0, orders_30d=1, spend_same_window_last_year_30d=2.0)
    frame["orders_same_window_last_year_30d"] = 1
    estimator = judging.Estimator(fit, lightgbm_hurdle.predict)
    model = judging.of_share(estimator, 0.5).fit(frame, LABELS, HORIZON_DAYS)
    judging.of_share(estimator, 0.7).fit(frame, LABELS, HORIZON_DAYS)
    assert seen[0] < seen[1] < set(FRAME["customer_id"])
    everybody = FRAME["customer_id"].nunique()
    assert model.season.last_year_spend == pytest.approx(2.0 * everybody)
    assert model.season.last_year_buyers == pytest.approx(everybody)
    with pytest.raises(ValueError, match="is nobody"):
        judging.of_share(estimator, 1e-6).fit(frame, LABELS, HORIZON_DAYS)


def test_the_nearest_are_those_of_the_smallest_angle_and_equals_come_by_name():
    names = np.array(["e", "d", "c", "b", "a", "zero"])
    vectors = np.array([[1, 0], [3, 0.3], [0, 1], [5, 0.5], [-1, 0], [0, 0]], dtype=np.float32)
    found = lookalikes.nearest(names, vectors, "e", 5)
    assert found["customer_id"].tolist() == ["b", "d", "c", "a", "zero"]
    assert found["rank"].tolist() == [1, 2, 3, 4, 5]
    expected = 1 - 1 / np.hypot(1, 0.1)
    np.testing.assert_allclose(found["distance"], [expected, expected, 1, 2, 1], atol=1e-7)
    assert lookalikes.nearest(names, vectors, "e", 2)["customer_id"].tolist() == ["b", "d"]
    with pytest.raises(ValueError, match="nobody has no embedding"):
        lookalikes.nearest(names, vectors, "nobody", 2)
