"""Which days a model learns from and which it is judged on. Days in, days out.

A cutoff c with horizon H has features from before c and labels from [c, c + H). Training windows of
one model may overlap each other; none of them reaches into the window it is judged on.
"""

from collections.abc import Collection
from datetime import date, timedelta

STEP_DAYS = 30
MAX_CUTOFFS = 24
MIN_HISTORY_DAYS = 30
ORIGINS = 4
SHORTER_HORIZONS = (180, 90, 30)


class NotEnoughHistory(ValueError):
    """The shop's history is too short for what was asked."""


def training_cutoffs(
    as_of: date,
    first_day: date,
    horizon_days: int,
    step_days: int = STEP_DAYS,
    max_count: int = MAX_CUTOFFS,
    min_history_days: int = MIN_HISTORY_DAYS,
) -> tuple[date, ...]:
    """Days whose window closed by as_of, newest first: as_of - H, as_of - H - step, ...

    first_day: date of the first order. A cutoff has at least min_history_days of orders before it.
    """
    _positive(horizon_days=horizon_days, step_days=step_days, max_count=max_count)
    newest = as_of - timedelta(days=horizon_days)
    oldest = first_day + timedelta(days=min_history_days)
    if newest < oldest:
        raise NotEnoughHistory(
            f"a model as of {as_of} needs one closed window of {horizon_days} days after "
            f"{min_history_days} days of orders, so orders from "
            f"{newest - timedelta(days=min_history_days)} or before; the first order is of "
            f"{first_day}. "
            "Use a shorter horizon, a later day, or load more history."
        )
    count = min(max_count, (newest - oldest).days // step_days + 1)
    return tuple(newest - timedelta(days=step_days * i) for i in range(count))


def newer_cutoffs(as_of: date, than: date, step_days: int = STEP_DAYS) -> tuple[date, ...]:
    """Days after `than` and a step apart from as_of back, newest first: horizons shorter than the
    one that `than` was chosen for have closed windows there."""
    _positive(step_days=step_days)
    count = (as_of - than).days // step_days
    days = (as_of - timedelta(days=step_days * i) for i in range(1, count + 1))
    return tuple(day for day in days if day > than)


def test_origins(
    as_of: date,
    first_day: date,
    horizon_days: int,
    count: int = ORIGINS,
    step_days: int = STEP_DAYS,
    min_history_days: int = MIN_HISTORY_DAYS,
) -> tuple[date, ...]:
    """Days to judge a model on, newest first; the newest one's window closes on as_of.

    Each has at least one training cutoff of its own, else NotEnoughHistory.
    """
    _positive(horizon_days=horizon_days, step_days=step_days, count=count)
    newest = as_of - timedelta(days=horizon_days)
    origins = tuple(newest - timedelta(days=step_days * i) for i in range(count))
    latest_first_day = origins[-1] - timedelta(days=horizon_days + min_history_days)
    if first_day > latest_first_day:
        raise NotEnoughHistory(
            f"{count} test origins {step_days} days apart with a horizon of {horizon_days} days, "
            f"each with a closed training window before it, need orders from {latest_first_day} or "
            f"before as of {as_of}; the first order is of {first_day}. "
            "Use a shorter horizon, fewer origins, or load more history."
        )
    return origins


test_origins.__test__ = (
    False  # the name is the domain's; pytest would collect it wherever it is imported
)


def learned_horizon(as_of: date, first_day: date, horizon_days: int) -> int:
    """The length of the windows to learn from by as_of: the horizon, where one has closed.

    Else the longest of SHORTER_HORIZONS that leaves as many days for its cutoffs, or the horizon
    where none does.
    """
    known_days = (as_of - first_day).days - MIN_HISTORY_DAYS
    if horizon_days <= known_days:
        return horizon_days
    fitting = (days for days in SHORTER_HORIZONS if 2 * days <= known_days)
    return next(fitting, horizon_days)


def backtest_days(origins: Collection[date], first_day: date, learned_days: int) -> list[date]:
    """The origins and every cutoff that their models learn from, oldest first."""
    learned = (day for o in origins for day in training_cutoffs(o, first_day, learned_days))
    return sorted({*origins, *learned})


def training_cutoffs_among(
    days: Collection[date],
    origin: date,
    horizon_days: int,
    step_days: int = STEP_DAYS,
    max_count: int = MAX_CUTOFFS,
) -> tuple[date, ...]:
    """The training cutoffs of a test origin that are among the days at hand, newest first.

    They end where the days at hand end. Raises ValueError where there is none, or one is left out
    between two that are there: a model must not learn from less than it seems to.
    """
    _positive(horizon_days=horizon_days, step_days=step_days, max_count=max_count)
    newest = origin - timedelta(days=horizon_days)
    wanted = [newest - timedelta(days=step_days * i) for i in range(max_count)]
    there = [day for day in wanted if day in days]
    missing = [day for day in wanted if not there or (day > there[-1] and day not in days)]
    if missing:
        shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"the test origin {origin} needs training windows of {horizon_days} days that closed "
            f"before it, and there are no features of {shown}; build these days first"
        )
    return tuple(there)


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
