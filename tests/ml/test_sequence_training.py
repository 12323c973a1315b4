import json
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import distributed, multiprocessing

from ml import seals, sequence, sequence_model, sequence_training, streams, weights
from ml.sequence_model import embed, from_files, intent, predict, to_files
from ml.sequence_reasons import SAID, attributions, explain
from ml.sequence_training import fit, pretrain
from ml.training_loop import Config

HORIZON_DAYS = 30
CUTOFFS = (160, 200, 240, 280)  # days since 1970-01-01
UNTIL = date(1970, 1, 1) + timedelta(days=CUTOFFS[-1])
TINY = sequence.Config(dim=16, layers=1, heads=2, category_buckets=16, product_buckets=16)
CONFIG = Config(
    network=TINY, pretraining_epochs=1, epochs=12, batch_size=64, learning_rate=1e-2,
    checkpoint_steps=4, patience=50,
)  # fmt: skip
QUICK = replace(CONFIG, epochs=2, validate_steps=5)


def events_of(customers=150, seed=0):
    """Customers who look at one of two categories at a time: the newest tells what comes next."""
    rng = np.random.default_rng(seed)
    tables = []
    for i in range(customers):
        known_on = np.sort(rng.integers(20, CUTOFFS[-1] + 60, rng.integers(1, 40)))
        n = known_on.size
        seconds = (known_on - 1) * 86_400 + 36_000
        tables.append({
            "customer_id": np.full(n, f"c{i:04}"),
            "known_on": known_on,
            "occurred_at": seconds,
            "kind": rng.integers(1, 4, n),
            "category_code": rng.choice([70_000, 80_001], n),
            "product_bucket": rng.integers(1, 8193, n),
            "log_amount": rng.normal(3, 1, n) * (rng.random(n) < 0.5),
            "seconds_since_last": np.r_[np.nan, np.diff(seconds)],
            "hour": np.full(n, 10),
            "weekday": (known_on + 2) % 7 + 1,
        })  # fmt: skip
    table = pa.table({k: np.concatenate([t[k] for t in tables]) for k in tables[0]})
    for name, kind in (("known_on", pa.date32()), ("occurred_at", pa.timestamp("s"))):
        place = table.schema.get_field_index(name)
        whole = table[name].cast(pa.int32()) if name == "known_on" else table[name]
        table = table.set_column(place, name, whole.cast(kind))
    return streams.from_table(table)


def rows_of(events, days=CUTOFFS, seed=1):
    """Who looked at category 70,000 last spends a hundred or so; nobody else does but a few."""
    rng = np.random.default_rng(seed)
    ids = [customer.decode() for customer in events.customer_ids] + ["newcomer"]
    day = pd.to_datetime(np.repeat(days, len(ids)), unit="D")
    frame = pd.DataFrame({"customer_id": ids * len(days), "as_of_date": day})
    cuts = streams.cut(events, frame["customer_id"], frame["as_of_date"], 512)
    newest = np.where(cuts.lengths > 0, events.category_code[np.maximum(cuts.end - 1, 0)], 0)
    buys = rng.random(len(frame)) < np.where(newest == 70_000, 0.85, 0.1)
    frame["tenure_days"] = np.where(rng.random(len(frame)) < 0.2, np.nan, rng.exponential(100))
    spend = np.where(buys, rng.lognormal(4.5, 0.5, len(frame)), 0.0)
    labels = frame[["customer_id", "as_of_date"]].assign(
        horizon_days=HORIZON_DAYS, spend=spend, is_purchased=buys, is_high_value=spend > 120,
        is_purchased_7d=np.where(frame["as_of_date"] == frame["as_of_date"].max(), np.nan, buys),
    )  # fmt: skip
    return frame, labels


EVENTS = events_of()
FRAME, LABELS = rows_of(EVENTS)


class Killed(Exception):
    pass


def killed_at(step, stage):
    def callback(report):
        if (report["stage"], report["step"]) == (stage, step):
            raise Killed

    return callback


def bits(model):
    return {k: v.numpy().tobytes() for k, v in model.network.state_dict().items()}


def prediction_of(model, frame=FRAME):
    found = predict(model, frame, EVENTS)
    return np.stack(
        [found.expected_spend, found.purchase_probability, found.high_value_probability]
    )


@pytest.fixture(scope="module")
def fitted():
    reports = []
    return fit(FRAME, LABELS, HORIZON_DAYS, EVENTS, CONFIG, callback=reports.append), reports


@pytest.fixture(scope="module")
def quick():
    return fit(FRAME, LABELS, HORIZON_DAYS, EVENTS, QUICK)


def test_what_the_newest_events_tell_of_the_future_is_learned(fitted):
    model, _ = fitted
    others = events_of(seed=7)
    frame, labels = rows_of(others, days=(320,), seed=8)
    found = predict(model, frame, others)
    assert pd.Series(found.score).rank().corr(labels["spend"].rank()) > 0.5
    looked = streams.cut(others, frame["customer_id"], frame["as_of_date"], 512)
    keen = others.category_code[np.maximum(looked.end - 1, 0)] == 70_000
    keen &= looked.lengths > 0
    assert found.purchase_probability[keen].mean() > 0.6
    assert found.purchase_probability[~keen].mean() < 0.3


def test_the_total_of_the_newest_training_window_is_met(fitted):
    newest = (FRAME["as_of_date"] == FRAME["as_of_date"].max()).to_numpy()
    total = predict(fitted[0], FRAME[newest], EVENTS).expected_spend.sum()
    assert total == pytest.approx(LABELS["spend"][newest].sum(), rel=1e-4)


def test_progress_is_told_at_every_step(fitted):
    _, reports = fitted
    for stage in ("pretraining", "fine-tuning"):
        told = [r for r in reports if r["stage"] == stage]
        assert [r["step"] for r in told] == list(range(1, told[0]["steps"] + 1))
        assert told[-1]["loss"] < told[0]["loss"]
        rates = [r["learning_rate"] for r in told]
        assert max(rates) == pytest.approx({"pretraining": 2e-3, "fine-tuning": 1e-2}[stage])
        assert rates[-1] < 0.2 * max(rates)
        by_task = [sum(v for k, v in r.items() if k.startswith("loss_")) for r in told]
        assert by_task == pytest.approx([r["loss"] for r in told], rel=1e-5)


def test_the_same_seed_gives_the_same_bits_whatever_the_order_of_the_rows(quick):
    order = np.random.default_rng(0).permutation(len(FRAME))
    torch.manual_seed(99)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    again = fit(FRAME.iloc[order], LABELS.iloc[order], HORIZON_DAYS, EVENTS, QUICK)
    assert bits(again) == bits(quick)
    assert again.calibration == quick.calibration
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    other = fit(FRAME, LABELS, HORIZON_DAYS, EVENTS, replace(QUICK, seed=1))
    assert bits(other) != bits(quick)


@pytest.mark.parametrize(("stage", "step"), [("pretraining", 3), ("fine-tuning", 10)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(quick, tmp_path, stage, step):
    given = FRAME, LABELS, HORIZON_DAYS, EVENTS, replace(QUICK, checkpoint_steps=2)
    with pytest.raises(Killed):
        fit(*given, checkpoints=tmp_path, callback=killed_at(step, stage))
    reports = []
    resumed = fit(*given, checkpoints=tmp_path, callback=reports.append)
    assert reports[0]["step"] == step - step % 2 + 1
    assert bits(resumed) == bits(quick)
    assert resumed.calibration == quick.calibration


def test_a_checkpoint_of_other_data_or_another_config_is_refused(tmp_path):
    given = EVENTS, UNTIL, QUICK
    with pytest.raises(Killed):
        pretrain(*given, checkpoints=tmp_path, callback=killed_at(4, "pretraining"))
    with pytest.raises(ValueError, match="another configuration or other data"):
        pretrain(EVENTS, UNTIL, replace(QUICK, clip_norm=2.0), tmp_path)
    with pytest.raises(ValueError, match="another configuration or other data"):
        pretrain(EVENTS, date(1970, 5, 1), QUICK, tmp_path)
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="not what was written"):
        pretrain(*given, checkpoints=tmp_path)


def validation_loss(model):
    """By the customers that were held out, worked out again from the answers."""
    days = sequence_model.days_of(FRAME)
    _, is_held_out = sequence_training._split(FRAME, days, HORIZON_DAYS, model.config)
    answers = sequence_model.ask(model, FRAME[is_held_out], EVENTS)
    targets = LABELS[is_held_out].reindex(columns=sequence.TASKS).to_numpy(dtype=np.float32)
    sums, counts = sequence.value_losses(answers, torch.from_numpy(targets))
    return float((sums / counts.clamp(min=1)).sum())


def test_training_stops_where_the_held_out_customers_say_so_and_keeps_what_did_best(tmp_path):
    reports = []
    config = replace(CONFIG, epochs=40, patience=2, learning_rate=3e-2, validate_steps=4)
    given = FRAME, LABELS, HORIZON_DAYS, EVENTS, replace(config, checkpoint_steps=4)
    model = fit(*given, callback=reports.append)
    told = [r for r in reports if "validation_loss" in r]
    losses = [r["validation_loss"] for r in told]
    assert told[-1]["step"] < told[-1]["steps"]
    assert np.argmin(losses) == len(losses) - 3
    assert validation_loss(model) == pytest.approx(min(losses), rel=1e-5)
    assert validation_loss(model) < losses[-1]
    with pytest.raises(Killed):
        fit(*given, checkpoints=tmp_path, callback=killed_at(told[-2]["step"], "fine-tuning"))
    assert bits(fit(*given, checkpoints=tmp_path)) == bits(model)


def test_held_out_customers_are_learned_from_only_where_their_windows_do_not_meet():
    days = np.repeat([100, 110, 129, 130, 160], 200)
    frame = pd.DataFrame({"customer_id": [f"c{i}" for i in range(200)] * 5})
    is_learned, is_held_out = sequence_training._split(frame, days, 30, CONFIG)
    chosen = set(frame["customer_id"][is_held_out])
    assert 20 < len(chosen) < 60 and set(days[is_held_out]) == {160}
    is_chosen = frame["customer_id"].isin(chosen).to_numpy()
    assert is_learned[~is_chosen].all()
    assert set(days[is_learned & is_chosen]) == {100, 110, 129, 130}
    is_learned, _ = sequence_training._split(frame, days, 31, CONFIG)
    assert set(days[is_learned & is_chosen]) == {100, 110, 129}


def test_pretraining_reads_nothing_that_became_known_later():
    later = EVENTS.known_on > CUTOFFS[-1]
    assert later.any()
    changed = replace(EVENTS, kind=np.where(later, 9, EVENTS.kind))
    one, other = pretrain(EVENTS, UNTIL, QUICK), pretrain(changed, UNTIL, QUICK)
    assert all(torch.equal(one[k], other[k]) for k in one)
    known = replace(EVENTS, kind=np.where(later, EVENTS.kind, 9).astype(np.int8))
    assert any(not torch.equal(one[k], v) for k, v in pretrain(known, UNTIL, QUICK).items())


def test_nothing_known_after_the_as_of_day_moves_a_prediction(quick):
    early = FRAME[FRAME["as_of_date"] == FRAME["as_of_date"].min()]
    later = EVENTS.known_on > CUTOFFS[0]
    changed = replace(EVENTS, kind=np.where(later, 9, EVENTS.kind))
    one, other = predict(quick, early, EVENTS), predict(quick, early, changed)
    np.testing.assert_array_equal(one.score, other.score)
    late = FRAME[FRAME["as_of_date"] == FRAME["as_of_date"].max()]
    one, other = predict(quick, late, EVENTS), predict(quick, late, changed)
    assert (one.score != other.score).any()


def test_rows_are_answered_in_their_own_order_and_each_as_if_alone(quick):
    order = np.random.default_rng(0).permutation(len(FRAME))
    whole = prediction_of(quick)
    np.testing.assert_allclose(prediction_of(quick, FRAME.iloc[order]), whole[:, order], rtol=1e-4)
    np.testing.assert_allclose(prediction_of(quick, FRAME.iloc[[5]])[:, 0], whole[:, 5], rtol=1e-4)


def test_a_customer_without_events_and_features_of_any_size_are_answered(quick):
    odd = pd.DataFrame({
        "customer_id": ["nobody", "c0001", "c0002", "c0003"],
        "as_of_date": pd.Timestamp("1970-10-01"),
        "tenure_days": [np.nan, np.inf, -3e38, 1e9],
    })  # fmt: skip
    found = predict(quick, odd, EVENTS)  # Prediction itself refuses what is not finite
    assert (found.expected_spend >= 0).all()
    largest = LABELS["spend"].max() * quick.calibration
    assert found.expected_spend.max() <= largest * 1.0001


def test_odd_streams_get_finite_answers(quick):
    """One event, a hundred thousand, categories that nobody had, any money, times out of order."""
    last = np.array([1, 100_000, 6])
    n, day = int(last.sum()), CUTOFFS[-1]
    known_on = np.concatenate([[day], np.sort(np.arange(100_000) % day), np.full(6, day)])
    at = (known_on - 1) * 86_400
    at[-6:] = [10**11, -(10**11), 5, 0, at[0], 3]
    money = np.zeros(n)
    money[-6:] = [0.0, -1e9, 1e9, -5.0, np.inf, np.nan]
    with np.errstate(invalid="ignore"):
        log_amount = np.sign(money) * np.log1p(np.abs(money))
    since = np.full(n, -5.0)
    odd = streams.Streams(
        np.array([b"many", b"one", b"zany"]), np.r_[0, np.cumsum(last[[1, 0, 2]])],
        *(
            np.r_[column[1:-6], column[:1], column[-6:]].astype(streams.DTYPES[name])
            for name, column in {
                "known_on": known_on, "occurred_at": at, "kind": np.full(n, 16),
                "category_code": np.full(n, 2**28), "product_bucket": np.full(n, 8192),
                "log_amount": log_amount, "seconds_since_last": since, "hour": np.full(n, 23),
                "weekday": np.full(n, 7),
            }.items()
        ),
    )  # fmt: skip
    asked = pd.DataFrame({
        "customer_id": ["many", "one", "zany", "none"], "as_of_date": pd.Timestamp(UNTIL),
        "tenure_days": np.nan,
    })  # fmt: skip
    found = predict(quick, asked, odd)  # Prediction itself refuses what is not finite
    assert found.expected_spend.shape == (4,)
    assert np.isfinite(embed(quick, asked, odd)).all()
    reasons, together = explain(quick, asked, odd, 200)
    assert reasons.groupby("customer_id")["events"].sum().to_dict() == {
        "many": 128, "one": 1, "zany": 6,
    }  # fmt: skip
    assert np.isfinite(reasons["effect"]).all() and np.isfinite(reasons["amount"]).all()
    assert together[3] == 1


def test_intent_is_answered_for_the_days_that_the_labels_had(quick):
    found = intent(quick, FRAME, EVENTS)
    assert list(found) == ["is_purchased_7d"]
    assert found["is_purchased_7d"].between(0, 1).all()


def test_only_what_the_labels_ask_is_answered_and_a_model_of_events_alone_can_be_had():
    asked = LABELS[["spend", "is_purchased"]]
    model = fit(FRAME[["customer_id", "as_of_date"]], asked, HORIZON_DAYS, EVENTS, QUICK)
    found = predict(model, FRAME, EVENTS)
    assert model.features == () and found.high_value_probability is None
    assert intent(model, FRAME, EVENTS).empty


def test_a_longer_horizon_than_learned_holds_more_spend_and_chances(quick):
    longer = replace(quick, horizon_days=2 * HORIZON_DAYS)
    one, two = predict(quick, FRAME, EVENTS), predict(longer, FRAME, EVENTS)
    np.testing.assert_allclose(two.expected_spend, 2 * one.expected_spend)
    not_at_all = (1 - one.purchase_probability) ** 2
    np.testing.assert_allclose(two.purchase_probability, 1 - not_at_all)


def test_embeddings_are_one_vector_for_each_row(quick):
    found = embed(quick, FRAME, EVENTS)
    assert found.shape == (len(FRAME), 16) and found.dtype == np.float32
    assert np.isfinite(found).all() and found.std(axis=0).min() > 0


def test_nothing_to_learn_is_refused():
    with pytest.raises(ValueError, match="none of the 604 training rows has spend"):
        fit(FRAME, LABELS.assign(spend=-1.0), HORIZON_DAYS, EVENTS, QUICK)


def test_a_column_that_is_missing_is_named(quick):
    with pytest.raises(ValueError, match="tenure_days"):
        predict(quick, FRAME.drop(columns="tenure_days"), EVENTS)


def test_a_stored_model_predicts_as_before(quick, tmp_path):
    to_files(quick, tmp_path)
    read = from_files(tmp_path)
    np.testing.assert_array_equal(prediction_of(read), prediction_of(quick))
    assert replace(read, network=quick.network) == quick


def test_one_flipped_bit_of_the_weights_is_refused_before_they_are_parsed(
    quick, tmp_path, monkeypatch
):
    to_files(quick, tmp_path)
    path = tmp_path / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    def parsed(_):
        raise AssertionError("parsed")

    monkeypatch.setattr(weights.safetensors, "load", parsed)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not what was written"):
        from_files(tmp_path)


def test_weights_of_another_network_and_another_format_are_refused(quick, tmp_path):
    to_files(quick, tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**about, "features": ["a", "b"]}))
    with pytest.raises(ValueError, match=r"model\.json is not what was written"):
        from_files(tmp_path)
    seals.seal(tmp_path)
    with pytest.raises(ValueError, match="of another network"):
        from_files(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**about, "format": 0}))
    seals.seal(tmp_path)
    with pytest.raises(ValueError, match="of another format"):
        from_files(tmp_path)


def test_effects_of_events_sum_to_what_they_move_together(fitted):
    frame = FRAME.tail(40)
    effects, at_events, at_blank = attributions(fitted[0], frame, EVENTS)
    moved = at_events - at_blank
    assert np.abs(moved).max() > 0.5
    np.testing.assert_allclose(effects.sum(axis=1), moved, atol=0.02 * np.abs(moved).max())


def test_the_occasion_that_tells_the_future_is_named_first_and_all_add_up(fitted):
    frame = FRAME.tail(151).iloc[50:110]
    found, together = explain(fitted[0], frame, EVENTS, 1_000)
    cuts = streams.cut(EVENTS, frame["customer_id"], frame["as_of_date"], 128)
    assert found["events"].sum() == cuts.lengths.sum()
    summed = np.log(found["effect"]).groupby(found["customer_id"]).sum()
    moved = pd.Series(np.log(together), index=frame["customer_id"])
    assert moved.abs().max() > 0.5
    summed = summed.reindex(moved.index, fill_value=0.0)
    np.testing.assert_allclose(summed, moved, atol=0.02 * moved.abs().max())
    first = found[found["rank"] == 1].set_index("customer_id")["happened_on"]
    newest = pd.to_datetime(EVENTS.occurred_at[cuts.end - 1], unit="s").normalize()
    newest = pd.Series(newest, index=frame["customer_id"])[first.index]
    several = (cuts.lengths >= 5)[cuts.lengths > 0]
    assert (first == newest)[several].mean() > 0.7
    assert (found["happened_on"] < found["as_of_date"]).all()
    some, _ = explain(fitted[0], frame.head(5), EVENTS, 3)
    alone = found[found["customer_id"].isin(frame["customer_id"].head(5)) & (found["rank"] <= 3)]
    pd.testing.assert_frame_equal(some, alone.reset_index(drop=True), rtol=1e-3)
    assert explain(fitted[0], FRAME.tail(1), EVENTS)[0].empty


def test_reasons_are_said_in_words_with_the_money_and_the_days(quick):
    day = CUTOFFS[-1]
    events = [
        *[(day - 12, 1, amount) for amount in (15.2, 20.0, 10.0)],
        (day - 3, 2, -1_234.5), (day - 3, 3, 0.0), (day - 1, 3, 0.0), (day - 1, 3, 0.0),
    ]  # fmt: skip
    when, kind, amount = (np.array(values) for values in zip(*events, strict=True))
    at = when * 86_400 + 3_600
    one = streams.Streams(
        np.array([b"c0001"]), np.array([0, len(events)]), (when + 1).astype(np.int32), at,
        kind.astype(np.int8), np.full(7, 5, np.int32), np.full(7, 9, np.int16),
        (np.sign(amount) * np.log1p(np.abs(amount))).astype(np.float32),
        np.r_[np.nan, np.diff(at)].astype(np.float32), np.full(7, 1, np.int8),
        np.full(7, 3, np.int8),
    )  # fmt: skip
    asked = pd.DataFrame({
        "customer_id": ["c0001"], "as_of_date": pd.Timestamp(UNTIL), "tenure_days": 3.0,
    })  # fmt: skip
    found = explain(quick, asked, one, 9).occasions
    assert set(found["text_en"]) == {
        "Bought 3 items for 45.20, 12 days ago",
        "Returned 1 item for 1,234.50, 3 days ago",
        "1 product view, 3 days ago",
        "2 product views, yesterday",
    }
    assert "12 天前购买 3 项商品，共 45.20" in set(found["text_zh"])
    assert found["rank"].tolist() == [1, 2, 3, 4]
    assert np.log(found["effect"]).abs().is_monotonic_decreasing


def test_every_kind_of_event_has_words_in_both_languages():
    assert set(SAID) == set(range(1, sequence.KINDS))
    for said in SAID.values():
        assert said.en[0] != said.en[1] and all("{n}" in text for text in (said.en[1], said.zh))


def losses_of_each_step(config):
    reports = []
    fit(FRAME, LABELS, HORIZON_DAYS, EVENTS, config, callback=reports.append)
    return [(r["stage"], r["step"], r["loss"], r.get("validation_loss")) for r in reports]


def one_of_two(rank, store, config):
    distributed.init_process_group(
        "gloo", f"file://{store}", timedelta(minutes=2), world_size=2, rank=rank
    )
    try:
        return losses_of_each_step(config)
    finally:
        distributed.destroy_process_group()


def the_other(_, *given):
    one_of_two(1, *given)


def test_two_processes_learn_what_one_does(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    network = replace(TINY, dropout=0.0, blank_share=0.0)  # chance is each process' own
    config = replace(QUICK, network=network, max_steps=6, pretraining_batch_size=25)
    given = tmp_path / "store", config
    other = multiprocessing.spawn(the_other, given, nprocs=1, join=False)
    together = one_of_two(0, *given)
    assert other.join(timeout=120)
    alone = losses_of_each_step(config)
    assert len(alone) == 12
    assert [step[:2] for step in together] == [step[:2] for step in alone]
    for i in (2, 3):
        one, two = (np.array([step[i] for step in run], dtype=float) for run in (alone, together))
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)
