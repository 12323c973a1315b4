"""What a window of a year ago says of the next one: its spend and buyers. Frames in, totals out.

A seasonal naive forecast with damped drift (Hyndman & Athanasopoulos, "Forecasting: principles and
practice", 5.2 and 8.2), for the customers who are there before the window begins.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit, logit

Frame = pd.DataFrame

LAST_YEAR = re.compile(r"spend_same_window_last_year_(\d+)d")
RECENT_DAYS = 30  # whose buyers show how many a longer history knows
LOOKBACKS = (60, 90, 180, 365)  # days that are looked back for them, RECENT_DAYS among them


@dataclass(frozen=True)
class Season:
    """What the newest training window brought, and its last year: sums over its customers.

    window_days: of the columns that are compared, the nearest to the horizon (as a ratio); sums
    of theirs are scaled to the horizon. last_year_spend, last_year_buyers: of the same window a
    year before, by everybody; None where the history does not reach back so far.
    """

    window_days: int
    spend: float
    buyers: float
    last_year_spend: float | None
    last_year_buyers: float | None


def of_newest(frame: Frame, labels: Frame, days: int) -> Season | None:
    """The season of the newest day of the frame, whose labels are of so many days; None where the
    frame has no windows of last year."""
    windows = [int(found[1]) for c in frame if (found := LAST_YEAR.fullmatch(str(c)))]
    if not windows:
        return None
    window = min(windows, key=lambda n: max(n / days, days / n))
    newest = (frame["as_of_date"] == frame["as_of_date"].max()).to_numpy()
    last_year = _last_year(frame[newest], window, days)
    return Season(
        window_days=window,
        spend=float(labels["spend"].to_numpy(dtype=float)[newest].sum()),
        buyers=float(labels["is_purchased"].to_numpy(dtype=float)[newest].sum()),
        last_year_spend=None if last_year is None else last_year[0],
        last_year_buyers=None if last_year is None else last_year[1],
    )


def columns(season: Season) -> tuple[str, ...]:
    """All that `totals` reads of a day, where the frame has it."""
    window = season.window_days
    compared = (
        f"{measure}_{which}{window}d"
        for which in ("", "same_window_last_year_")
        for measure in ("spend", "orders")
    )
    looked_at = (f"orders_{n}d" for n in (RECENT_DAYS, *LOOKBACKS))
    return tuple(dict.fromkeys((*compared, *looked_at, "tenure_days")))


def totals(season: Season, day: Frame, days: int) -> tuple[float | None, float | None]:
    """What the customers of a day are expected to spend together in so many days, and how many of
    them buy; None where nobody knows.

    Last year's window holds everybody who bought in it, also those who were new. What part of such
    a window is owed to those who were there before it is seen in the newest training window: what
    its customers brought over what everybody did, who are now all known. And what the shop has
    grown by since last year is seen there as well, and counts by half (in the logarithm), because
    growth does not go on as it was.
    """
    window = season.window_days
    last_year = _last_year(day, window, days)
    if last_year is None:
        return None, None
    everybody = (
        float(day[f"spend_{window}d"].sum()) * days / window,
        float((day[f"orders_{window}d"] > 0).sum()),
    )
    found = []
    for known, by_all, then, before in zip(
        (season.spend, season.buyers),
        everybody,
        last_year,
        (season.last_year_spend, season.last_year_buyers),
        strict=True,
    ):
        if not (known > 0 and by_all > 0 and then > 0):
            found.append(None)
            continue
        share = known / by_all
        growth = known / before / share if before is not None and before > 0 else 1.0
        found.append(then * _known_today(share, day, days) * float(np.sqrt(growth)))
    return found[0], found[1]


def _last_year(day: Frame, window: int, days: int) -> tuple[float, float] | None:
    """Spend and buyers of the window that began a year before the day; None where not known."""
    spend = day[f"spend_same_window_last_year_{window}d"]
    if spend.isna().all():
        return None
    buyers = (day[f"orders_same_window_last_year_{window}d"] > 0).sum()
    return float(spend.sum()) * days / window, float(buyers)


def _known_today(share: float, day: Frame, days: int) -> float:
    """The share that is owed to known customers, had the history been as long as it is today.

    A history takes everybody for new who bought before it began, and a young one is wrong about
    many. The odds that a buyer is known grow as a power of its length (`_power`).
    """
    today = float(day["tenure_days"].max())  # of the shop's first order
    if not (0 < share < 1 and today > days):
        return share
    return float(expit(logit(share) + _power(day, today) * np.log(today / (today - days))))


def _power(day: Frame, today: float) -> float:
    """By which the odds that a buyer is known grow with the length of the history: 0 or more.

    The slope, both in the logarithm, over how far one looks back from the last RECENT_DAYS for an
    earlier order of those who bought in them. One month's buyers, so no season is in it.
    """
    orders = day[f"orders_{RECENT_DAYS}d"]
    bought = orders > 0
    seen: dict[float, float] = {
        n - RECENT_DAYS: (day[f"orders_{n}d"] > orders)[bought].mean()
        for n in LOOKBACKS
        if n <= today and f"orders_{n}d" in day
    }
    seen[today - RECENT_DAYS] = (day["tenure_days"] >= RECENT_DAYS)[bought].mean()
    points = [(back, share) for back, share in seen.items() if back > 0 and 0 < share < 1]
    if len(points) < 2:
        return 0.0
    back, share = np.array(points).T
    return max(float(np.polyfit(np.log(back), logit(share), 1)[0]), 0.0)
