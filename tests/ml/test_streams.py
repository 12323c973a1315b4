from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml import streams
from ml.streams import Streams, batches, cut, find, from_table, read, windows

DAY = 86_400


def table_of(rows):
    """Rows of (customer_id, day known) or with a dict of what is not as usual."""
    full = []
    for customer, known_on, *other in rows:
        usual = {
            "customer_id": customer,
            "known_on": known_on,
            "occurred_at": (known_on - 1) * DAY + 3_600,
            "kind": 1,
            "category_code": 5,
            "product_bucket": 9,
            "log_amount": 2.0,
            "seconds_since_last": 60,
            "hour": 1,
            "weekday": 3,
        }
        full.append({**usual, **(other[0] if other else {})})
    table = pa.Table.from_pylist(full)
    places = {name: table.schema.get_field_index(name) for name in ("known_on", "occurred_at")}
    known_on = table["known_on"].cast(pa.int32()).cast(pa.date32())
    occurred_at = table["occurred_at"].cast(pa.timestamp("s")).cast(pa.timestamp("us"))
    table = table.set_column(places["known_on"], "known_on", known_on)
    return table.set_column(places["occurred_at"], "occurred_at", occurred_at)


THREE = [("a", 10), ("a", 10), ("a", 12), ("b", 11), ("c", 9), ("c", 20)]


def days(*numbers):
    return np.array(numbers, dtype="datetime64[D]")


def test_a_cut_holds_what_the_day_knew_and_nothing_later():
    cuts = cut(from_table(table_of(THREE)), list("aaabbcx"), days(9, 10, 12, 10, 11, 30, 30), 512)
    found = list(zip(cuts.start, cuts.end, strict=True))
    assert found == [(0, 0), (0, 2), (0, 3), (3, 3), (3, 4), (4, 6), (0, 0)]


@settings(max_examples=60, deadline=None)
@given(
    known=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 9)), min_size=1, max_size=40),
    asked=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 10)), max_size=12),
    max_events=st.integers(1, 6),
)
def test_a_cut_is_what_filtering_the_rows_would_give(known, asked, max_events):
    known = sorted(known)
    cuts = cut(
        from_table(table_of(known)),
        [customer for customer, _ in asked],
        days(*(day for _, day in asked)),
        max_events,
    )
    for (customer, day), start, end in zip(asked, cuts.start, cuts.end, strict=True):
        by_hand = [i for i, (c, known_on) in enumerate(known) if c == customer and known_on <= day]
        assert list(range(start, end)) == by_hand[-max_events:]


def test_of_a_hundred_thousand_events_the_newest_are_read():
    customer = from_table(table_of([("a", 1 + i // 100) for i in range(1_000)]))
    many = 100_000
    repeated = {name: np.resize(getattr(customer, name), many) for name in streams.DTYPES}
    repeated["known_on"] = np.arange(many, dtype=np.int32)
    cuts = cut(
        Streams(customer.customer_ids, np.array([0, many]), **repeated), ["a"], days(90_000), 512
    )
    assert (cuts.start[0], cuts.end[0]) == (90_001 - 512, 90_001)


def test_memory_mapped_streams_read_as_those_in_memory(tmp_path):
    kept = from_table(table_of(THREE))
    streams.to_files([table_of(THREE)], 6, tmp_path)
    mapped = streams.from_files(tmp_path)
    assert isinstance(mapped.kind, np.memmap)
    asked = list("abc"), days(10, 20, 20), 512
    batches_of = [read(events, cut(events, *asked)) for events in (kept, mapped)]
    for one, other in zip(*batches_of, strict=True):
        np.testing.assert_array_equal(one, other)


def test_files_of_two_streams_are_no_stream(tmp_path):
    streams.to_files([table_of(THREE)], 6, tmp_path)
    np.save(tmp_path / "kind.npy", np.ones(5, dtype=np.int8))
    with pytest.raises(ValueError, match="write the stream again"):
        streams.from_files(tmp_path)


def test_parts_of_a_table_are_written_as_the_whole_is_read(tmp_path):
    whole = table_of(THREE)
    for at in range(len(THREE) + 1):
        streams.to_files([whole[:at], whole[at:]], len(THREE), tmp_path)
        one, other = streams.from_files(tmp_path), from_table(whole)
        for name, values in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), values)


def test_parts_that_are_no_stream_are_refused(tmp_path):
    whole = table_of(THREE)
    for parts in ([whole[3:], whole[:3]], [whole[2:3], whole[:2]]):
        with pytest.raises(ValueError, match="must be sorted"):
            streams.to_files(parts, sum(len(part) for part in parts), tmp_path)
    with pytest.raises(ValueError, match="3 events instead of the 6"):
        streams.to_files([whole[:3]], 6, tmp_path)
    with pytest.raises(ValueError, match="more than the 3"):
        streams.to_files([whole], 3, tmp_path)


def test_nobodys_files_are_a_stream_of_nobody(tmp_path):
    streams.to_files([], 0, tmp_path)
    nobody = streams.from_files(tmp_path)
    assert list(cut(nobody, ["a"], days(5), 512).lengths) == [0]


def test_chunks_of_a_table_change_nothing():
    whole = table_of(THREE)
    for at in range(len(THREE) + 1):
        one, other = from_table(pa.concat_tables([whole[:at], whole[at:]])), from_table(whole)
        for name, values in vars(other).items():
            np.testing.assert_array_equal(getattr(one, name), values)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("b", 1), ("a", 1)], "sorted"),
        ([("a", 1), ("b", 1), ("a", 2)], "sorted"),
        ([("a", 2), ("a", 1)], "sorted"),
        ([("a", 1, {"kind": 17})], "kind must lie from 1 to 16"),
        ([("a", 1, {"weekday": 0})], "weekday must lie"),
        ([("a", 1, {"log_amount": None}), ("b", 1)], "log_amount is null in 1 events"),
        ([("a", 1), (None, 1)], "customer_id is null in 1 events"),
    ],
)
def test_rows_that_are_no_stream_are_refused(rows, words):
    with pytest.raises(ValueError, match=words):
        from_table(table_of(rows))


def test_an_empty_table_is_a_stream_of_nobody():
    nobody = from_table(table_of(THREE)[:0])
    batch = read(nobody, cut(nobody, ["a", "b"], days(5, 6), 512))
    assert list(batch.length) == [0, 0]
    assert windows(nobody, date(2020, 1, 1), 4).start.size == 0


def test_every_number_of_a_batch_is_finite_whatever_the_events_say():
    odd = [
        ("a", 10, {"log_amount": float(np.log1p(1e9)), "seconds_since_last": None}),
        ("a", 11, {"log_amount": -float(np.log1p(1e9)), "occurred_at": 99 * DAY}),
        ("a", 12, {"log_amount": 0.0, "occurred_at": -(10**11), "seconds_since_last": -5}),
        ("a", 13, {"log_amount": float("nan"), "seconds_since_last": 10**12}),
        ("a", 13, {"log_amount": float("inf"), "occurred_at": 10**11, "category_code": 2**28}),
    ]
    customer = from_table(table_of(odd))
    batch = read(customer, cut(customer, ["a"], days(13), 512))
    assert batch.length[0] == 5
    assert all(np.isfinite(values).all() for values in batch)
    assert (batch.days >= 0).all()
    assert list(batch.has_gap[0]) == [0, 1, 1, 1, 1]


def test_time_is_told_from_the_event_before_and_to_the_cutoff():
    customer = from_table(table_of([("a", 10, {"seconds_since_last": 3_599})]))
    batch = read(customer, cut(customer, ["a"], days(12), 512))
    assert batch.gap[0, 0] == pytest.approx(np.log(3_600))
    assert batch.days[0, 0] == pytest.approx(3 - 1 / 24)
    assert batch.age[0, 0] == pytest.approx(np.log(4 - 1 / 24))


def test_padding_is_zero_in_every_column():
    three = from_table(table_of(THREE))
    batch = read(three, cut(three, ["a", "b"], days(20, 20), 512))
    assert list(batch.length) == [3, 1]
    assert all((values[1, 1:] == 0).all() for values in batch[:-1])
    assert all((values[1, :1] != 0).all() for values in batch[:-1])


def test_windows_hold_every_known_event_once():
    rows = [("a", 1 + i) for i in range(11)] + [("b", 3)] + [("c", 50)]
    pieces = windows(from_table(table_of(rows)), date(1970, 1, 11), 4)
    held = [i for start, end in zip(*pieces[:2], strict=True) for i in range(start, end)]
    assert sorted(held) == [*range(10), 11]
    assert pieces.lengths.max() == 4
    assert set(pieces.day) == {10}


def test_every_row_comes_once_in_batches_of_like_length_in_an_order_of_the_seed():
    lengths = np.random.default_rng(0).integers(0, 500, 5_000)
    found = batches(lengths, 32, (0, 1))
    assert sorted(np.concatenate(found)) == list(range(5_000))
    assert {len(rows) for rows in found} <= set(range(16, 33))
    padded = sum(lengths[rows].max() * len(rows) for rows in found)
    assert padded < 1.1 * lengths.sum()
    again, other = batches(lengths, 32, (0, 1)), batches(lengths, 32, (0, 2))
    assert all((a == b).all() for a, b in zip(found, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(found, other, strict=True))
    first = [lengths[rows].mean() for rows in found]
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.3


def test_customers_are_found_by_bytes_whatever_the_language():
    known = from_table(table_of([("Zoë", 1), ("a", 1), ("é", 1)]))
    assert list(find(known, ["é", "Zoë", "zoë", "", "a-longer-name"])) == [2, 0, -1, -1, -1]
