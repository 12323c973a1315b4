"""When a shop is busy: hours of the day, weekdays, the year, Black Friday."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np

CLOSED = date(2026, 1, 1)  # the first day that is not simulated: no clock is read
HOUR, DAY = 3_600, 86_400  # seconds

_WEEK = np.array([0.95, 0.90, 0.92, 0.98, 1.08, 1.15, 1.02])  # Monday first; mean 1
_HOURS = np.array(
    [3, 2, 1, 1, 1, 2, 5, 9, 14, 18, 20, 21, 22, 20, 18, 18, 19, 21, 24, 27, 27, 23, 15, 7]
)
_BLACK_FRIDAY = {-1: 1.2, 0: 3.0, 1: 2.0, 2: 1.6, 3: 2.2}  # days after it -> how busy


@dataclass(frozen=True)
class Clock:
    """The shop's busy time: one day of it is an average day of 2025.

    A Poisson process that follows the seasons is a plain one in busy time (Cinlar 1975, time
    change by the integrated rate), so orders are drawn evenly in busy time and mapped back.
    passed: busy days passed at the start of every hour, shape (24 * days + 1,), increasing.
    """

    days: int
    passed: np.ndarray

    @property
    def end(self) -> int:
        """Seconds from the opening to the end of the last day."""
        return self.days * DAY

    def busy_days(self, seconds: np.ndarray) -> np.ndarray:
        """Busy days from the opening until `seconds`, any shape."""
        hours = np.clip(seconds / HOUR, 0, len(self.passed) - 1)
        whole = np.minimum(hours.astype(np.int64), len(self.passed) - 2)
        before = self.passed[whole]
        return before + (hours - whole) * (self.passed[whole + 1] - before)

    def seconds(self, busy_days: np.ndarray) -> np.ndarray:
        """The whole second at which so many busy days have passed; the inverse of `busy_days`."""
        hours = np.interp(busy_days, self.passed, np.arange(len(self.passed)))
        return (hours * HOUR).astype(np.int64)


def clock(days: int) -> Clock:
    """The busy time of the `days` days before CLOSED."""
    daily = intensities(CLOSED - timedelta(days=days), days)
    hourly = np.outer(daily, _HOURS / _HOURS.sum()).ravel()
    return Clock(days, np.concatenate([[0.0], np.cumsum(hourly)]))


def intensities(first: date, days: int) -> np.ndarray:
    """How busy each of `days` days is, from `first` on; the mean over 2025 is 1."""
    mean = np.mean([_raw_intensity(date(2025, 1, 1) + timedelta(days=n)) for n in range(365)])
    return np.array([_raw_intensity(first + timedelta(days=n)) for n in range(days)]) / mean


def markdowns(days: int) -> np.ndarray:
    """Percent off in the shop's sales on each of the last `days` days, 0 outside of sales."""
    each = (CLOSED - timedelta(days=days - n) for n in range(days))
    return np.array([_markdown(day) for day in each], dtype=np.int64)


def black_friday(year: int) -> date:
    """The day after the fourth Thursday of November."""
    first = date(year, 11, 1)
    return first + timedelta(days=(3 - first.weekday()) % 7 + 22)


def _raw_intensity(day: date) -> float:
    autumn = 1 + 0.12 * np.cos(2 * np.pi * (day.timetuple().tm_yday - 335) / 365.25)
    christmas = 1.35 if (12, 1) <= (day.month, day.day) <= (12, 20) else 1.0
    after = (day - black_friday(day.year)).days
    return float(autumn * christmas * _WEEK[day.weekday()] * _BLACK_FRIDAY.get(after, 1.0))


def _markdown(day: date) -> int:
    if (day - black_friday(day.year)).days in (0, 1, 2, 3):
        return 25
    return 20 if day.month in (1, 7) and day.day <= 14 else 0
