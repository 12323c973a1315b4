from datetime import date, datetime, time, timedelta
from pathlib import Path

import pytest
from shop_files import canonical

from warehouse.connections import connect
from warehouse.deliveries import Arrival, Outcome, State, look, outcome, version
from warehouse.loading import Report, TableReport
from warehouse.settings import TierhouseError, WrongUsage
from warehouse.source import Source, read_source

DAY = date(2026, 11, 5)
MIDNIGHT = datetime.combine(DAY, time())
GRACE = timedelta(hours=6)


@pytest.fixture
def landing(tmp_path) -> Path:
    (tmp_path / "landing" / "shop").mkdir(parents=True)
    return tmp_path / "landing"


def shop(folder: Path, **settings) -> Source:
    """A source that needs order_lines; the other tables may be absent."""
    tables = {"order_lines": {"optional": False}}
    return read_source(str(canonical(folder / "shop", tables, grace_hours=6, **settings)))


@pytest.fixture
def strict(tmp_path) -> Source:
    return shop(tmp_path / "strict")


@pytest.fixture
def lenient(tmp_path) -> Source:
    return shop(tmp_path / "lenient", missing_day="allowed")


def deliver(landing: Path, *names: str) -> None:
    folder = landing / "shop" / "2026-11-05"
    folder.mkdir()
    for name in names:
        (folder / name).touch()


@pytest.mark.parametrize("hours", [-48, 0, 5.9, 6, 100])
def test_files_that_are_there_are_there_at_any_time(strict, landing, hours):
    deliver(landing, "order_lines.csv", "customers.csv")
    found = look(strict, landing, DAY, MIDNIGHT + timedelta(hours=hours))
    assert found.state is State.arrived
    assert found.folder == landing / "shop" / "2026-11-05"
    assert "2 files" in found.message


def test_a_day_is_waited_for_until_its_grace_is_over_to_the_second(strict, lenient, landing):
    last = MIDNIGHT + GRACE - timedelta(seconds=1)
    for source in (strict, lenient):
        assert look(source, landing, DAY, MIDNIGHT - timedelta(hours=24)).state is State.awaited
        assert look(source, landing, DAY, last).state is State.awaited
    assert look(strict, landing, DAY, MIDNIGHT + GRACE).state is State.missing
    assert look(lenient, landing, DAY, MIDNIGHT + GRACE).state is State.none


def test_a_folder_without_the_sources_files_is_no_delivery(strict, landing):
    without = look(strict, landing, DAY, MIDNIGHT + GRACE)
    deliver(landing, "README.txt", ".order_lines.csv")
    assert look(strict, landing, DAY, MIDNIGHT + GRACE) == without


def test_half_a_delivery_is_waited_for_and_never_allowed(lenient, landing):
    deliver(landing, "customers.csv")
    assert look(lenient, landing, DAY, MIDNIGHT).state is State.awaited
    found = look(lenient, landing, DAY, MIDNIGHT + GRACE)
    assert found.state is State.missing
    assert "order_lines" in found.message


def test_a_landing_place_that_is_not_mounted_is_no_day_without_files(lenient, tmp_path):
    assert look(lenient, tmp_path / "away", DAY, MIDNIGHT + GRACE).state is State.missing


def test_a_folder_that_cannot_be_read_is_an_error_and_not_an_absence(lenient, landing):
    folder = landing / "shop" / "2026-11-05"
    folder.symlink_to(folder)
    with pytest.raises(TierhouseError, match="cannot be read"):
        look(lenient, landing, DAY, MIDNIGHT + GRACE)


def test_nothing_is_waited_for_that_lies_more_than_a_day_ahead(strict, landing):
    with pytest.raises(WrongUsage, match="still to come"):
        look(strict, landing, DAY, MIDNIGHT - timedelta(hours=24, seconds=1))


def test_a_missing_day_says_in_one_line_where_it_was_looked_for_and_what_to_do(strict, landing):
    message = look(strict, landing, DAY, MIDNIGHT + GRACE).message
    for word in (str(landing / "shop" / "2026-11-05"), "2026-11-05 06:00 UTC", "missing_day"):
        assert word in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("new_files", "rows", "is_first", "hours", "expected"),
    [
        (1, 9, True, 5.9, Outcome.on_time),
        (1, 9, True, 6, Outcome.late),
        (1, 9, False, 5.9, Outcome.corrected),
        (1, 9, False, 100, Outcome.corrected),
        (0, 0, False, 100, Outcome.repeated),
        (1, 0, True, 1, Outcome.empty),
        (1, 0, False, 100, Outcome.empty),
    ],
)
def test_what_a_day_was(new_files, rows, is_first, hours, expected):
    arrival = Arrival(DAY, Path(), MIDNIGHT + GRACE, State.arrived, "")
    table = TableReport("order_lines", new_files, rows, rows, 0, 0, 0, 0, {})
    delivered_at = MIDNIGHT if is_first else MIDNIGHT + timedelta(microseconds=1)
    now = MIDNIGHT + timedelta(hours=hours)
    assert outcome(arrival, Report([table], [], []), delivered_at, now) is expected


def test_each_delivery_of_a_day_is_newer_than_the_one_before_and_older_than_the_next_day(
    strict, urls
):
    def deliver(source: str, delivered_at: datetime) -> None:
        with connect(urls.warehouse) as connection:
            connection.execute(
                "insert into ops.files (source, file_hash, file_name, path, delivered_at, run_id) "
                "values (%s, md5(random()::text), 'a', 'a', %s, 'test')",
                (source, delivered_at),
            )

    tomorrow = MIDNIGHT + timedelta(days=1)
    deliver("another", MIDNIGHT)
    deliver("shop", tomorrow)
    deliver("shop", MIDNIGHT - timedelta(microseconds=1))
    assert version(urls.warehouse, strict, DAY) == MIDNIGHT
    versions = []
    for _ in range(3):
        versions.append(version(urls.warehouse, strict, DAY))
        deliver("shop", versions[-1])
    assert versions == sorted(set(versions))
    assert versions[0] == MIDNIGHT and versions[-1] < tomorrow
