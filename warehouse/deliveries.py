"""A shop's daily deliveries: whether the files of a day have come, and what the day then was.

The files of a day lie in landing/<source>/<day>/. Copy them beside it, on the same file system,
and rename the folder into place: a rename is seen whole or not at all. `now` is UTC, naive.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from pathlib import Path

from warehouse.connections import connect, one_row
from warehouse.loading import Report
from warehouse.settings import Refused, TierhouseError, WrongUsage
from warehouse.source import Source, landing_day

NOT_YET = 75  # the exit code that asks to come again later, EX_TEMPFAIL in sysexits.h


class State(StrEnum):
    """What there is of a day. none: no files, and the source allows that."""

    arrived = "arrived"
    awaited = "awaited"
    none = "none"
    missing = "missing"


class Outcome(StrEnum):
    """What a day was, once it is loaded.

    late: its grace was over. corrected: other files of the day had been loaded. repeated: all of
    its files had. empty: its new files hold no rows. none: it has no files, and may have none.
    """

    on_time = "on_time"
    late = "late"
    corrected = "corrected"
    repeated = "repeated"
    empty = "empty"
    none = "none"


@dataclass(frozen=True)
class Arrival:
    """What was found of one day's delivery; `due` is when its grace is over."""

    day: date
    folder: Path
    due: datetime
    state: State
    message: str


def look(source: Source, landing: Path, day: date, now: datetime) -> Arrival:
    """What there is of a day's files.

    A folder with none of the source's files is the same as no folder. A delivery that lacks a
    table's files is waited for as well; it is missing when the grace is over, even where a day
    may have no files. So is a day where the source itself has no folder: a landing place that is
    not mounted looks like that.
    Raises WrongUsage: the day is still to come. TierhouseError: the folder cannot be read.
    """
    folder = landing_day(landing, source, day)
    begins = datetime.combine(day, time())
    due = begins + timedelta(hours=source.grace_hours)
    may_be_missing = False
    try:
        files = {file for table in _find(source, folder).values() for file in table}
    except WrongUsage:
        lack = f"{folder} is not there, or holds no file that the source {source.name!r} reads."
        may_be_missing = source.missing_day == "allowed" and folder.parent.is_dir()
    except Refused as refusal:
        lack = str(refusal)
    else:
        message = f"Delivery of {day}: {len(files)} files in {folder}."
        return Arrival(day, folder, due, State.arrived, message)
    if begins > now + timedelta(days=1):
        raise WrongUsage(f"{day} is still to come, and nothing of it is in {folder.parent}.")
    if now < due:
        state, advice = State.awaited, f"It is waited for until {due:%Y-%m-%d %H:%M} UTC."
    elif may_be_missing:
        state, advice = State.none, "The source allows a day without files."
    else:
        state = State.missing
        advice = (
            f"It was due by {due:%Y-%m-%d %H:%M} UTC. Load the day again when the files have "
            f"come, or declare `missing_day: allowed` in {source.folder / 'source.yml'}."
        )
    return Arrival(day, folder, due, state, f"Delivery of {day}: {state}. {lack} {advice}")


def version(url: str, source: Source, day: date) -> datetime:
    """When a delivery of this day counts as delivered, which orders the versions of a row.

    Midnight, or a moment after what came on that day before: so a second delivery of a day
    corrects the first, and every delivery of a later day corrects both.
    """
    midnight = datetime.combine(day, time())
    with connect(url) as connection:
        (newest,) = one_row(
            connection,
            "select max(delivered_at) from ops.files "
            "where source = %s and delivered_at >= %s and delivered_at < %s",
            source.name,
            midnight,
            midnight + timedelta(days=1),
        )
    return midnight if newest is None else newest + timedelta(microseconds=1)


def outcome(arrival: Arrival, report: Report, delivered_at: datetime, now: datetime) -> Outcome:
    """What the day was. delivered_at: the `version` under which it was loaded."""
    if not any(table.new_files for table in report.tables):
        return Outcome.repeated
    if not any(table.read for table in report.tables):
        return Outcome.empty
    if delivered_at > datetime.combine(arrival.day, time()):
        return Outcome.corrected
    return Outcome.on_time if now < arrival.due else Outcome.late


def _find(source: Source, folder: Path) -> Mapping[str, list[Path]]:
    try:
        next(folder.iterdir(), None)  # a glob takes a folder that may not be read for an empty one
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise TierhouseError(f"{folder} cannot be read: {error.strerror}.") from None
    return source.find(folder)
