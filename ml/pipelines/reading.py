"""What the pipelines read from the warehouse, as frames and streams."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
from psycopg.errors import UndefinedTable

from ml import reasons, streams
from ml.streams import Streams
from warehouse.connections import Urls, connect, read_arrow, spill_arrow
from warehouse.settings import Settings, TierhouseError, WrongUsage

Say = Callable[[str], None]  # hears what comes next
Build = Callable[[Sequence[date], int], None]  # features of these days, labels of this horizon

KEYS = ("customer_id", "as_of_date")
TABLE = "features.customer_features"
_EVENTS = f"select customer_id, {', '.join(streams.DTYPES)} from features.customer_events"
_IN_ORDER = 'order by customer_id collate "C", position'


@contextmanager
def history_may_be_short() -> Iterator[None]:
    """The core says ValueError when the history is too short; a person reads it as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(str(error)) from None


def read_days(urls: Urls, days: Sequence[date], customer_id: str = "") -> pd.DataFrame:
    """Features of these days, or of one customer there: keys, then every feature as float64 (null
    is NaN).

    Raises TierhouseError: a day is not built.
    """
    frame = _read_frame(
        urls,
        f"select {_selected(urls)} from {TABLE} "
        f"where as_of_date = any(string_to_array($1, ',')::date[]) "
        f"and ($2::text = '' or customer_id = $2) order by 2, 1",
        listed(days),
        customer_id,
    )
    built = {stamp.date() for stamp in frame["as_of_date"].unique()}
    if absent := sorted(set(days) - built):
        raise TierhouseError(
            f"The features of {absent[0]} are not built. Run `tierhouse build --as-of {absent[0]}` "
            f"first."
        )
    return frame


def is_built(urls: Urls, day: date) -> bool:
    with connect(urls.warehouse) as connection:
        try:
            found = connection.execute(
                f"select 1 from {TABLE} where as_of_date = %s limit 1".encode(), [day]
            )
            return found.fetchone() is not None
        except UndefinedTable:
            return False


def read_labels(urls: Urls, days: Sequence[date], horizons: Sequence[int]) -> pd.DataFrame:
    """What came after these days, in the windows that are closed."""
    return _read_frame(
        urls,
        "select customer_id, as_of_date::timestamp as as_of_date, horizon_days, spend::float8 as "
        "spend, orders, is_purchased, is_high_value from features.customer_labels where "
        "horizon_days = any(string_to_array($2, ',')::integer[]) and "
        "as_of_date = any(string_to_array($1, ',')::date[]) order by 2, 1, 3",
        listed(days),
        ",".join(map(str, sorted(set(horizons)))),
    )


def closed_labels(urls: Urls, frame: pd.DataFrame, horizon_days: int) -> pd.DataFrame:
    """What came after, row by row of a frame of closed days."""
    days = [stamp.date() for stamp in frame["as_of_date"].unique()]
    labels = read_labels(urls, days, [horizon_days]).drop(columns="horizon_days")
    joined = frame[list(KEYS)].merge(labels, how="left", on=list(KEYS), validate="one_to_one")
    if joined["spend"].isna().any():
        raise TierhouseError(
            f"There are no labels of {horizon_days} days for {joined['as_of_date'].max():%Y-%m-%d}:"
            f" its window is not closed."
        )
    return joined


def with_intent(urls: Urls, labels: pd.DataFrame) -> pd.DataFrame:
    """The labels with is_purchased_7d, _14d and _30d beside them, null where not known."""
    from ml.sequence import INTENT_DAYS

    days = [stamp.date() for stamp in labels["as_of_date"].unique()]
    found = read_labels(urls, days, INTENT_DAYS)
    for n in INTENT_DAYS:
        of_window = found.loc[found["horizon_days"] == n, [*KEYS, "is_purchased"]]
        named = of_window.rename(columns={"is_purchased": f"is_purchased_{n}d"})
        labels = labels.merge(
            named.astype({f"is_purchased_{n}d": float}), how="left", on=list(KEYS)
        )
    return labels


@contextmanager
def events_until(settings: Settings, urls: Urls, until: date) -> Iterator[Streams]:
    """All events that were known on the day, in files of their own while they are read: memory
    holds a part of them at a time."""
    scratch = settings.home / "scratch-events"
    scratch.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place)
        file = folder / "events.arrow"
        query = f"{_EVENTS} where known_on <= $1::date {_IN_ORDER}"
        rows = spill_arrow(urls.warehouse, query, [until.isoformat()], file)
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
            tables = (
                pa.Table.from_batches([reader.get_batch(number)])
                for number in range(reader.num_record_batches)
            )
            streams.to_files(tables, rows, folder)
        file.unlink()
        yield streams.from_files(folder)


def events_of(urls: Urls, customer_id: str, until: date) -> Streams:
    """A customer's events that were known on the day."""
    query = f"{_EVENTS} where known_on <= $1::date and customer_id = $2 {_IN_ORDER}"
    return streams.from_table(read_arrow(urls.warehouse, query, [until.isoformat(), customer_id]))


def spill_day(urls: Urls, day: date, file: Path, texts: Sequence[str]) -> None:
    """The features of a day in an Arrow file: memory holds a part of it at a time."""
    query = f"select {_selected(urls, texts)} from {TABLE} where as_of_date = $1::date order by 1"
    spill_arrow(urls.warehouse, query, [day.isoformat()], file)


def parts(file: Path) -> Iterator[pd.DataFrame]:
    """The rows of an Arrow file, reasons.ROWS_AT_ONCE at a time at most."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        kept: list[pa.RecordBatch] = []
        for number in range(reader.num_record_batches):
            kept.append(reader.get_batch(number))
            is_last = number == reader.num_record_batches - 1
            if is_last or sum(batch.num_rows for batch in kept) >= reasons.ROWS_AT_ONCE:
                yield _to_frame(pa.Table.from_batches(kept))
                kept = []


def listed(days: Sequence[date]) -> str:
    return ",".join(day.isoformat() for day in days)


def _selected(urls: Urls, texts: Sequence[str] = ()) -> str:
    """The keys, every feature as a double, and these columns of text where the table has them."""
    with connect(urls.warehouse) as connection:
        columns = connection.execute(
            "select column_name, case data_type when 'boolean' then '::integer::float8' "
            "when 'text' then '' else '::float8' end from information_schema.columns "
            "where table_schema = 'features' and table_name = 'customer_features' and (data_type "
            "not in ('text', 'date', 'timestamp without time zone') or column_name = any(%s)) "
            "order by ordinal_position",
            [list(texts)],
        ).fetchall()
    features = ", ".join(f"{name}{cast} as {name}" for name, cast in columns)
    return f"customer_id, as_of_date::timestamp as as_of_date, {features}"


def _read_frame(urls: Urls, query: str, *parameters: object) -> pd.DataFrame:
    return _to_frame(read_arrow(urls.warehouse, query, parameters))


def _to_frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.string(): pd.StringDtype()}.get)
