"""How long models take to learn and to score, beside bare LightGBM on the same arrays.

    make bench
    .venv/bin/python -m bench.modelling --cutoffs 12 --customers 100000 --scored 1000000

Nothing is read from a warehouse: the customers are drawn here, from an MBG/NBD world with every
numeric column of features.customer_features, as a shop has them that records everything. Each way
runs in a process of its own, which says the seconds that count; its peak memory is of the whole
process. Training has its frame in memory, as `tierhouse train` does. Scoring sees a part of the
customers at a time, as `tierhouse score` does, and drawing them is not counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import lightgbm as lgb
import numpy as np
import pandas as pd
import yaml

from bench.machine import CORES, GIB, page, time_command
from ml import btyd, lightgbm_hurdle, reasons
from warehouse.settings import PROJECT

Array = np.ndarray
Frame = pd.DataFrame

FEATURES = PROJECT / "dbt_project" / "models" / "features" / "customer_features.yml"
HORIZON_DAYS = 90
HISTORY_DAYS = 730
NEWEST = pd.Timestamp("2026-01-01")
ROWS = 100_000  # scored at a time
R, ALPHA, A, B = 0.6, 60.0, 0.8, 3.0  # of the world's order days; ALPHA in days
HIGH_VALUE = 0.9  # quantile of spend
UNKNOWN = 0.3  # share of nulls in a column that may have them
BARELY_EXPLAINED = 50  # one of so many customers
# The ways, as the result calls them.
LEARN, LEARN_BARE = "training", "bare training"
SCORE, SCORE_BARE = "scoring", "bare predict"
EXPLAIN, EXPLAIN_BARE = "reasons too", "bare contributions"
BG_NBD, MBG_NBD = "fit of BG/NBD", "fit of MBG/NBD"


@dataclass(frozen=True)
class Sizes:
    cutoffs: int
    customers: int
    scored: int


@dataclass(frozen=True)
class Run:
    """rows: customers, each as often as there are cutoffs. seconds, processor_seconds: what counts.
    peak_bytes: of the whole process."""

    rows: int
    seconds: float
    processor_seconds: float
    peak_bytes: int


class Stopwatch:
    """Wall and processor seconds of what is run under it."""

    def __init__(self) -> None:
        self.seconds = self.processor_seconds = 0.0

    def __enter__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.began[0]
        self.processor_seconds += time.process_time() - self.began[1]


def main() -> None:
    """Run each way in a process of its own, print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cutoffs", type=int, default=12)
    parser.add_argument("--customers", type=int, default=100_000, help="of each cutoff")
    parser.add_argument("--scored", type=int, default=1_000_000, help="customers")
    parser.add_argument("--only", choices=WAYS, action="append", metavar="WAY",
                        help=f"one or more of: {', '.join(WAYS)}")  # fmt: skip
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sizes = Sizes(given.cutoffs, given.customers, given.scored)
    if given.run:
        way, folder = given.run
        watch = Stopwatch()
        rows = WAYS[way](sizes, Path(folder), watch)
        print(json.dumps([rows, watch.seconds, watch.processor_seconds]))
        return
    wanted = set(given.only or WAYS)
    if wanted & NEED_MODEL:
        wanted.add(LEARN)
    runs: dict[str, Run] = {}
    with TemporaryDirectory(prefix="tierhouse-bench-") as folder:
        for way in WAYS:
            if way not in wanted:
                continue
            asked = [f"--{name}={number}" for name, number in asdict(sizes).items()]
            command = [sys.executable, "-m", "bench.modelling", "--run", way, folder, *asked]
            said, run = time_command(command)
            rows, seconds, processor_seconds = json.loads(said)
            runs[way] = Run(rows, seconds, processor_seconds, run.peak_bytes)
            print(f"{way}: {runs[way].seconds:.1f} s", file=sys.stderr)
    text = _page(sizes, runs)
    print(text)
    if given.write:
        given.write.write_text(text)


@cache
def columns() -> Mapping[str, Mapping]:
    """Every numeric feature: what its yml says."""
    models = yaml.safe_load(FEATURES.read_text(encoding="utf-8"))["models"]
    return {
        column["name"]: column
        for column in models[-1]["columns"]
        if column["data_type"] not in ("text", "date")
    }


def draw(rng: np.random.Generator, values: Array) -> Frame:
    """Fill values (n, columns()) with customers, and return what each of them did next.

    Who orders how often and until when is what MBG/NBD says, so that it has something to find; what
    an order is worth is the customer's own. The other columns follow how often they ordered, or
    nothing at all.
    """
    n = len(values)
    at = {name: place for place, name in enumerate(columns())}
    rate, leaves = rng.gamma(R, 1 / ALPHA, n), rng.beta(A, B, n)
    tenure = rng.integers(2, HISTORY_DAYS, n)
    orders, last = np.ones(n, dtype=int), np.zeros(n, dtype=int)
    is_there = rng.random(n) >= leaves
    open_ = np.flatnonzero(is_there)
    now = np.zeros(n)
    while open_.size:
        now[open_] += np.maximum(rng.exponential(1 / rate[open_]), 1)
        open_ = open_[now[open_] < tenure[open_]]
        orders[open_] += 1
        last[open_] = now[open_]
        stays = rng.random(open_.size) >= leaves[open_]
        is_there[open_[~stays]] = False
        open_ = open_[stays]
    worth = rng.lognormal(3.5, 0.8, n)
    repeats, recency = orders - 1, tenure - last
    for name, about in columns().items():
        values[:, at[name]] = _column(rng, name, about, orders, worth)
    for days in (7, 14, 30, 60, 90, 180, 365):
        some = rng.binomial(repeats, np.minimum(days / tenure, 1))
        some = np.where(recency <= days, np.maximum(some, 1), 0)
        values[:, at[f"orders_{days}d"]] = some
        values[:, at[f"spend_{days}d"]] = some * worth
    known = {
        "tenure_days": tenure,
        "recency_days": recency,
        "frequency_orders": orders,
        "order_gap_mean_days": np.where(repeats > 0, last / np.maximum(repeats, 1), np.nan),
        "average_order_value": worth,
        "first_order_value": worth * rng.lognormal(0, 0.3, n),
        "monetary_total": worth * orders,
    }
    for name, numbers in known.items():
        values[:, at[name]] = numbers
    bought = rng.poisson(rate * HORIZON_DAYS) * is_there
    spend = bought * worth * rng.lognormal(0, 0.4, n)
    return pd.DataFrame(
        {
            "spend": spend,
            "is_purchased": bought > 0,
            "is_high_value": spend > np.quantile(spend, HIGH_VALUE),
        }
    )


def _column(
    rng: np.random.Generator, name: str, about: Mapping, orders: Array, worth: Array
) -> Array:
    """Numbers of the column's unit, and nulls where it may have them."""
    unit, n = about["config"]["meta"]["unit"], len(orders)
    if unit == "flag":
        return np.ones(n)
    if unit == "currency":
        numbers = worth * rng.lognormal(0, 0.5, n)
    elif unit == "days":
        numbers = rng.integers(1, HISTORY_DAYS, n)
    elif unit in ("0 to 1", "-1 to 1", "ratio"):
        numbers = rng.beta(1, 3, n)
    elif unit == "1 to 5":
        numbers = rng.integers(1, 6, n)
    elif about["data_type"] == "integer":
        numbers = rng.poisson(orders)
    else:
        numbers = rng.gamma(2, 1, n)
    if any(constraint["type"] == "not_null" for constraint in about.get("constraints", [])):
        return numbers
    if "last_year" in name:
        return np.where(rng.random(n) < UNKNOWN, numbers, 0)
    return np.where(rng.random(n) < UNKNOWN, np.nan, numbers)


def closed_windows(sizes: Sizes) -> tuple[Frame, Frame]:
    """Features and labels of all customers of all cutoffs, oldest first."""
    rows = sizes.customers
    values = np.empty((len(columns()), sizes.cutoffs * rows)).T
    labels = []
    for place in range(sizes.cutoffs):
        part = values[place * rows : (place + 1) * rows]
        labels.append(draw(np.random.default_rng([0, place]), part))
    frame = pd.DataFrame(values, columns=list(columns()), copy=False)
    days = [NEWEST - pd.DateOffset(months=back) for back in reversed(range(sizes.cutoffs))]
    frame["as_of_date"] = np.repeat(np.array(days, dtype="datetime64[ns]"), rows)
    frame["customer_id"] = np.tile([f"{place:032x}" for place in range(rows)], sizes.cutoffs)
    return frame, pd.concat(labels, ignore_index=True)


def parts_of_a_day(sizes: Sizes) -> Iterator[Frame]:
    """Features of some of the customers to score, again and again until that was all of them."""
    for start in range(0, sizes.scored, ROWS):
        values = np.empty((len(columns()), min(ROWS, sizes.scored - start))).T
        draw(np.random.default_rng([1, start]), values)
        frame = pd.DataFrame(values, columns=list(columns()), copy=False)
        yield frame.assign(as_of_date=NEWEST)


def train(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    """Leaves the model in the folder, for the ways that score."""
    frame, labels = closed_windows(sizes)
    with watch:
        model = lightgbm_hurdle.fit(frame, labels, HORIZON_DAYS)
    lightgbm_hurdle.to_files(model, folder)
    return len(frame)


def train_bare(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    """The boosters alone, from arrays that are there: what LightGBM itself takes."""
    frame, labels = closed_windows(sizes)
    values = lightgbm_hurdle.matrix(frame, list(columns()))
    del frame
    bought = labels["is_purchased"].to_numpy()
    spend = labels["spend"].to_numpy()
    config = lightgbm_hurdle.Config()
    with watch:
        for objective, rows, target in (
            ("binary", values, bought.astype(float)),
            ("tweedie", values[bought], spend[bought]),
            ("binary", values, labels["is_high_value"].to_numpy(dtype=float)),
        ):
            asked = {**lightgbm_hurdle.parameters(config), "objective": objective}
            data = lgb.Dataset(rows, target, params=asked)
            lgb.train(asked, data, num_boost_round=config.rounds)
    return len(values)


def score(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    return _score(sizes, folder, watch, None)


def explain(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    return _score(sizes, folder, watch, reasons.read_families())


def _score(sizes: Sizes, folder: Path, watch: Stopwatch, families: reasons.Families | None) -> int:
    """As `tierhouse score` does: part by part, and what is true of the shop at the end."""
    model = lightgbm_hurdle.from_files(folder)
    wanted = ["as_of_date", *lightgbm_hurdle.population_columns(model)]
    said, told = [], []
    for part in parts_of_a_day(sizes):
        with watch:
            said.append(lightgbm_hurdle.ask(model, part, CORES))
            told.append(part[wanted])
            if families is not None:
                moved = reasons.effects(model, part, families, CORES)
                reasons.top_reasons(part, moved, families)
    with watch:
        day = pd.concat(told, ignore_index=True)
        found = lightgbm_hurdle.settle(model, day, lightgbm_hurdle.joined(said))
    _refuse_unless_finite(found.expected_spend)
    return len(day)


def predict_bare(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    model = lightgbm_hurdle.from_files(folder)
    for part in parts_of_a_day(sizes):
        values = lightgbm_hurdle.matrix(part, model.features)
        with watch:
            for booster in (model.purchase, model.amount, model.high_value):
                if booster is not None:
                    booster.predict(values, num_threads=CORES)
    return sizes.scored


def contributions_bare(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    """Of a few customers: for a million it takes a quarter of an hour."""
    model = lightgbm_hurdle.from_files(folder)
    few = replace(sizes, scored=max(sizes.scored // BARELY_EXPLAINED, 1))
    for part in parts_of_a_day(few):
        values = lightgbm_hurdle.matrix(part, model.features)
        with watch:
            for booster in (model.purchase, model.amount):
                booster.predict(values, pred_contrib=True, num_threads=CORES)
    return few.scored


def fit_bg_nbd(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    return _fit(btyd.fit_bg_nbd, sizes, watch)


def fit_mbg_nbd(sizes: Sizes, folder: Path, watch: Stopwatch) -> int:
    return _fit(btyd.fit_mbg_nbd, sizes, watch)


def _fit(fit: Callable[[Array, Array, Array], object], sizes: Sizes, watch: Stopwatch) -> int:
    names = ["frequency_orders", "tenure_days", "recency_days"]
    histories = pd.concat([part[names] for part in parts_of_a_day(sizes)])
    orders, tenure, recency = histories.to_numpy().T
    with watch:
        found = fit(orders - 1, (tenure - recency) / 7, tenure / 7)
    print(f"{found}; drawn with r {R}, alpha {ALPHA / 7:.3g}, a {A}, b {B}", file=sys.stderr)
    return len(histories)


def _refuse_unless_finite(spend: Array) -> None:
    if not np.isfinite(spend).all():
        sys.exit("Somebody has no score, so the times mean nothing.")


WAYS: Mapping[str, Callable[[Sizes, Path, Stopwatch], int]] = {
    LEARN: train,
    LEARN_BARE: train_bare,
    SCORE: score,
    SCORE_BARE: predict_bare,
    EXPLAIN: explain,
    EXPLAIN_BARE: contributions_bare,
    BG_NBD: fit_bg_nbd,
    MBG_NBD: fit_mbg_nbd,
}
NEED_MODEL = {SCORE, SCORE_BARE, EXPLAIN, EXPLAIN_BARE}  # which training leaves behind
RATIOS = ((LEARN, LEARN_BARE), (SCORE, SCORE_BARE), (EXPLAIN, EXPLAIN_BARE))


def _page(sizes: Sizes, runs: Mapping[str, Run]) -> str:
    """The result as Markdown."""
    described = (
        f"Simulated customers with {len(columns())} features: {sizes.cutoffs} cutoffs of "
        f"{sizes.customers:,} to learn from, {sizes.scored:,} of a day to score. The bare ways are "
        f"LightGBM alone on the same arrays with the same parameters; contributions it is asked "
        f"for few customers, and the ratio is per customer. Processor seconds are of all threads "
        f"together. Memory is that of the process, with what the rows were made with."
    )
    table = ["| way | customers | s | CPU s | customers/s | GiB |",
             "|:--|--:|--:|--:|--:|--:|"]  # fmt: skip
    table += [
        f"| {way} | {run.rows:,} | {run.seconds:.1f} | {run.processor_seconds:.1f} "
        f"| {run.rows / run.seconds:,.0f} | {run.peak_bytes / GIB:.2f} |"
        for way, run in runs.items()
    ]
    ratios = ["| ratio per customer | of seconds | of CPU seconds |", "|:--|--:|--:|"]
    for way, bare in RATIOS:
        if way in runs and bare in runs:
            ours, theirs = runs[way], runs[bare]
            scale = theirs.rows / ours.rows
            wall = scale * ours.seconds / theirs.seconds
            processor = scale * ours.processor_seconds / theirs.processor_seconds
            ratios.append(f"| {way} / {bare} | {wall:.2f} | {processor:.2f} |")
    libraries = f"LightGBM {lgb.__version__}, NumPy {np.__version__}"
    return page("How long models take", described, table, ratios, libraries)


if __name__ == "__main__":
    main()
