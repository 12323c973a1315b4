"""What hysteresis costs and saves: sixty days of tiers on a real shop, held, and drawn anew.

    make bench
    .venv/bin/python -m bench.tiers ~/online_retail_II.xlsx --source online_retail \
        --first 2011-07-10

The model learns once, from windows that closed before the first day, and scores every day from the
features of that day, as `tierhouse score` does. What the customers then spent in the horizon after
each day says what the first tier was worth. Beside the policy's hysteresis it tries others, so that
a default can be chosen.

    .venv/bin/python -m bench.tiers --origins 2017-08-01,2017-09-01,2017-10-01 --horizon 91

Instead of the replay: tiers on days whose windows the model had not seen. What the first tier
brought, beside the share that the best tenth brought on the scoreboard, and whether realised spend
per customer is in the order of the tiers.
"""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pandas as pd

from bench.machine import installation, time_tierhouse
from ml import backtest, cutoffs, lightgbm_hurdle, promotion, tier_evaluation, tiers
from ml.tier_policy import Policy, Tier, make_policy, read_policy
from warehouse import building
from warehouse.building import read_history
from warehouse.connections import open_warehouse
from warehouse.settings import DUCKDB_FILE, Settings, Target

Frame = pd.DataFrame

MODEL = "lightgbm_hurdle"
DAYS = 60
HORIZON_DAYS = 90
MARGINS, WAITS = (0.0, 0.05, 0.1, 0.15, 0.2), (0, 1, 3, 7, 14)
TEXTS = ("customer_id", "as_of_date")


@dataclass(frozen=True)
class Replay:
    """moves: customers in another tier than the day before, a day. up_and_back: of these, those who
    had left the tier they came into within the fortnight before. size: of the first tier, a day.
    captured: the share of all spend in the horizon after each day that the first tier brought.
    captured_as_many: what the same number of customers brought who were ranked first that day.
    """

    moves: float
    back_again: float
    size: float
    captured: float
    captured_as_many: float


def replay(days: Mapping[date, Frame], policy: Policy) -> Replay:
    """days: by day, customer_id, the policy's columns, tenure_days, expected_spend and spend."""
    previous: tiers.Previous | None = None
    last: dict[int, pd.Series] = {}
    moves, back, sizes, captured, as_many = [], [], [], 0.0, 0.0
    for place, (day, frame) in enumerate(days.items()):
        drawn = tiers.assign(frame, policy, day, previous)
        previous = tiers.Previous(day, drawn)
        rank = drawn["tier_rank"].to_numpy()
        now = pd.Series(rank, index=frame["customer_id"].to_numpy())
        before = drawn["previous_tier_rank"].to_pandas().to_numpy(dtype=float, na_value=np.nan)
        moved = np.isfinite(before) & (before != rank)
        if place:
            moves.append(moved.sum())
            movers = now[moved]
            was_here = pd.DataFrame({n: past.reindex(movers.index) for n, past in last.items()})
            back.append(int(was_here.eq(movers, axis=0).any(axis=1).sum()))
        last = {n: past for n, past in last.items() if n > place - 14} | {place: now}
        spend = frame["spend"].to_numpy()
        top = rank == 1
        sizes.append(top.sum())
        captured += spend[top].sum() / spend.sum()
        best = np.argsort(-frame["expected_spend"].to_numpy(), kind="stable")[: top.sum()]
        as_many += spend[best].sum() / spend.sum()
    return Replay(
        float(np.mean(moves)), float(np.mean(back)), float(np.mean(sizes)),
        captured / len(days), as_many / len(days),
    )  # fmt: skip


def scored_days(features: Frame, labels: Frame, first: date, days: int) -> dict[date, Frame]:
    """Each day's customers with what a model that learned before the first day says of them, and
    what they then spent."""
    start, end = pd.Timestamp(first), pd.Timestamp(first + timedelta(days=days))
    closed = features["as_of_date"] + pd.Timedelta(days=HORIZON_DAYS) <= start
    known = features[closed].reset_index(drop=True)
    told = known[list(TEXTS)].merge(labels, "left", list(TEXTS), validate="one_to_one")
    model = lightgbm_hurdle.fit(known, told, HORIZON_DAYS)
    found = {}
    replayed = features[features["as_of_date"].between(start, end, inclusive="left")]
    for day, frame in replayed.groupby("as_of_date", sort=True):
        said = lightgbm_hurdle.predict(model, frame.reset_index(drop=True))
        kept = frame[["customer_id", "as_of_date", "tenure_days"]].reset_index(drop=True)
        kept["expected_spend"] = np.asarray(said.expected_spend).round(2)
        kept = kept.merge(labels[[*TEXTS, "spend"]], "left", list(TEXTS))
        found[pd.Timestamp(str(day)).date()] = kept
    return found


def held_out(features: Frame, labels: Frame, origins: Sequence[date], horizon: int) -> str:
    """Tiers of a tenth, a fifth and so on, and those of the policy, on each origin, as Markdown."""
    tenth = make_policy([Tier(name=f"{share:.0%}", share=share) for share in (0.1, 0.2, 0.3, 0.4)])
    estimator, said = promotion.remembered(backtest.MODELS[MODEL])
    board = backtest.run(
        features, labels, origins, horizon, {MODEL: estimator}, {}, resamples=1,
        say=lambda what: print(what, file=sys.stderr),
    )  # fmt: skip
    lines = [
        "| origin | best tenth of the board | first tier of 10 % | precision, recall | spend per "
        "customer by tier | ordered | spend per customer by the policy's tier | ordered |",
        "|---|--:|--:|--:|---|---|---|---|",
    ]
    by_tenth, by_policy = (
        tier_evaluation.evaluate_windows(said, labels, policy) for policy in (tenth, read_policy())
    )
    for origin in board.origins:
        day = origin.as_of_date
        top = tier_evaluation.top_tier(by_tenth[day])
        brought = tier_evaluation.metrics({day: by_tenth[day]})["top_tier_capture"]
        cells = [
            f"{origin.models[MODEL]['capture_top10']:.4f}",
            f"{brought:.4f}",
            f"{top.precision:.3f}, {top.recall:.3f}",
        ]
        for results in (by_tenth[day], by_policy[day]):
            means = [one.realised_spend / max(one.customers, 1) for one in results]
            cells += [
                ", ".join(f"{mean:,.2f}" for mean in means),
                "yes" if tier_evaluation.is_ordered(results) else "no",
            ]
        lines.append(f"| {day} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(held: Mapping[tuple[float, int], Replay], chosen: tuple[float, int]) -> str:
    """The result as Markdown."""
    plain = held[0.0, 0]
    lines = [
        "| margin | days | moves a day | of plain | back within 14 days | in the first tier | it "
        "captured | as many would have | loss |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (margin, wait), one in held.items():
        mark = " **policy**" if (margin, wait) == chosen else ""
        loss = 1 - one.captured / one.captured_as_many
        lines.append(
            f"| {margin:g} | {wait}{mark} | {one.moves:.1f} | {one.moves / plain.moves:.2f} "
            f"| {one.back_again:.1f} | {one.size:.0f} | {one.captured:.4f} "
            f"| {one.captured_as_many:.4f} | {loss:.2%} |"
        )
    return "\n".join(lines) + "\n"


def read(file: Path, days: Sequence[date], horizon: int) -> tuple[Frame, Frame]:
    """The features of these days, every one as a number, and their labels."""
    with duckdb.connect(str(file), read_only=True) as connection:
        asked = {"days": [day.isoformat() for day in days], "horizon": horizon}
        there = "where as_of_date in (select unnest($days)::date)"
        frame = connection.execute(
            f"select * from features.customer_features {there} order by as_of_date, customer_id",
            {"days": asked["days"]},
        ).df()
        labels = connection.execute(
            "select customer_id, as_of_date, spend::double as spend, is_purchased, is_high_value "
            f"from features.customer_labels {there} and horizon_days = $horizon",
            asked,
        ).df()
    keys = {"as_of_date": "datetime64[us]"}
    texts = [n for n in frame if frame[n].dtype.kind not in "fiub" and n not in TEXTS]
    frame = frame.drop(columns=texts).astype(keys)
    numbers = {name: float for name in frame if name not in TEXTS}
    return frame.astype(numbers), labels.astype(keys)


def needed_days(first_order: date, first: date, days: int) -> list[date]:
    """Of the replay."""
    learned = cutoffs.training_cutoffs(first, first_order, HORIZON_DAYS)
    return sorted({*learned, *(first + timedelta(days=n) for n in range(days))})


def measure(settings: Settings, first: date, days: int) -> str:
    """The replay, on an installation whose days are built."""
    first_order = read_history(open_warehouse(settings)).first
    needed = needed_days(first_order, first, days)
    frame, labels = read(settings.home / DUCKDB_FILE, needed, HORIZON_DAYS)
    found = scored_days(frame, labels, first, days)
    policy = read_policy()
    rule = policy.hysteresis
    chosen = (0.0, 0) if rule is None else (rule.margin, rule.days)
    held = {}
    for margin, wait in sorted({*product(MARGINS, WAITS), chosen}):
        said = {"hysteresis": {"margin": margin, "days": wait}} if margin or wait else {}
        held[margin, wait] = replay(found, make_policy(policy.tiers, **said))
    described = (
        f"{days} days from {first}, {len(found[first]):,} customers on the first; the model "
        f"learned from windows of {HORIZON_DAYS} days that closed before. Moves are customers in "
        f"another tier than the day before. The loss is of what as many customers, ranked first "
        f"that day, brought in the {HORIZON_DAYS} days after it."
    )
    return f"{textwrap.fill(described, 80)}\n\n{page(held, chosen)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", nargs="?", default="")
    parser.add_argument("--source", default="complete_journey")
    parser.add_argument("--first", type=date.fromisoformat, default=date(2017, 8, 1))
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--origins", default="")
    parser.add_argument("--horizon", type=int, default=HORIZON_DAYS)
    asked = parser.parse_args()
    origins = [date.fromisoformat(day) for day in asked.origins.split(",") if day]
    with TemporaryDirectory() as place, installation(Path(place)) as settings:
        time_tierhouse(settings, "load", asked.source, *([asked.path] if asked.path else []))
        urls = open_warehouse(settings)
        first_order = read_history(urls).first
        if origins:
            days = cutoffs.backtest_days(origins, first_order, asked.horizon)
        else:
            days = needed_days(first_order, asked.first, asked.days)
        print(f"Building {len(days)} days", file=sys.stderr)
        building.build(urls, days, settings.home, Target.duckdb, horizon_days=asked.horizon)
        if origins:
            features, labels = read(settings.home / DUCKDB_FILE, days, asked.horizon)
            print(held_out(features, labels, origins, asked.horizon))
        else:
            print(measure(settings, asked.first, asked.days))


if __name__ == "__main__":
    main()
