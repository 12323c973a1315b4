"""Arrays become columns, columns become Parquet files."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simulator.seasons import CLOSED, Clock

_DIGITS = np.frombuffer("".join(f"{n:04d}" for n in range(10_000)).encode(), dtype="<u4")


def ids(before: str, part: int, count: int, after: str = "") -> pa.Array:
    """`count` texts of a part: `before`, the part in 4 digits, 1 on in 8 digits, `after`."""
    numbers = np.arange(1, count + 1, dtype=np.int64)
    width, at = len(before) + 12 + len(after), len(before)
    letters = np.empty((count, width), dtype=np.uint8)
    letters[:, :at] = np.frombuffer(before.encode("ascii"), dtype=np.uint8)
    letters[:, at : at + 4] = _DIGITS[part : part + 1].view(np.uint8)
    letters[:, at + 4 : at + 8] = _DIGITS[numbers // 10_000].view(np.uint8).reshape(-1, 4)
    letters[:, at + 8 : at + 12] = _DIGITS[numbers % 10_000].view(np.uint8).reshape(-1, 4)
    letters[:, at + 12 :] = np.frombuffer(after.encode("ascii"), dtype=np.uint8)
    offsets = np.arange(0, width * (count + 1), width, dtype=np.int32)
    return pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(letters))


def coded(
    names: pa.Array | Sequence[str], codes: np.ndarray, missing: np.ndarray | None = None
) -> pa.Array:
    """names[code] for each code, without making the strings; None where `missing`."""
    indices = pa.array(codes.astype(np.int32, copy=False), mask=missing)
    dictionary = names if isinstance(names, pa.Array) else pa.array(names)
    return pa.DictionaryArray.from_arrays(indices, dictionary, safe=False)


def pick(rng: np.random.Generator, shares: Sequence[float], count: int) -> np.ndarray:
    """`count` codes from 0 on, by share (shares sum to 1)."""
    return np.searchsorted(np.cumsum(shares)[:-1], rng.random(count)).astype(np.int64)


def timestamps(
    seconds: np.ndarray, clock: Clock, missing: np.ndarray | None = None
) -> pa.TimestampArray:
    """Seconds since the opening as UTC timestamps without an offset."""
    opened = datetime.combine(CLOSED - timedelta(days=clock.days), datetime.min.time(), UTC)
    micros = (seconds + int(opened.timestamp())) * 1_000_000
    return pa.array(micros, mask=missing).cast(pa.timestamp("us"))


def write(table: pa.Table, path: Path) -> None:
    """One row group, so that a dictionary is written once; its statistics would help nobody."""
    options: dict[str, Any] = {
        "use_dictionary": [f.name for f in table.schema if pa.types.is_dictionary(f.type)],
        "dictionary_pagesize_limit": 64 << 20,  # bytes: the session_ids of a part
        "compression": "zstd",
        "compression_level": 1,
        "write_statistics": False,
        "store_schema": False,
    }
    pq.write_table(table, path, row_group_size=max(table.num_rows, 1), **options)
