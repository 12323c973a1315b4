"""Score every customer of a day, part by part."""

import contextlib
import json
import os
import tempfile
from datetime import date
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.entities.model_registry import ModelVersion

from ml import horizons, lightgbm_hurdle, reasons, sufficiency
from ml.metrics import Prediction
from ml.pipelines import policies, segmenting
from ml.pipelines.policies import read_policy
from ml.pipelines.reading import Say, events_until, parts, spill_day
from ml.pipelines.registry import find_champion, load, trained_as_of
from ml.pipelines.tracking import REGISTERED, open_mlflow
from ml.streams import Streams
from ml.sufficiency import Rung
from ml.tier_policy import Policy
from warehouse import versions
from warehouse.building import read_history
from warehouse.connections import Urls, exclusive
from warehouse.settings import Settings, TierhouseError


def score(settings: Settings, urls: Urls, as_of: date, say: Say) -> str:
    """Score every customer of the day, draw tiers and segments, write all out of sight.

    With the champion; where there is none, with the best method that needs no training, and the
    score says which. Raises TierhouseError: a champion that knows later days, or a day not built.
    """
    history = read_history(urls)
    open_mlflow(settings, urls)
    champion = find_champion()
    policy = read_policy(settings)
    if champion is not None and trained_as_of(champion) > as_of:
        raise TierhouseError(
            f"The champion (version {champion.version}) learned from what happened up to "
            f"{trained_as_of(champion)}, so its scores of {as_of} would know the future. Train "
            f"one as of that day in an installation of its own (TIERHOUSE_HOME), or score a "
            f"later day."
        )
    outlook = None
    if champion is not None:
        say(f"Loading version {champion.version}")
        outlook = load(champion)
    families = reasons.read_families()
    scratch = settings.home / "scratch-scores"
    scratch.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as files:
        place = files.enter_context(tempfile.TemporaryDirectory(dir=scratch))
        file = Path(place) / "features.arrow"
        say("Reading features")
        events = None
        with exclusive(urls.warehouse, "build"):  # what is hashed is what is read
            begun = versions.begin(urls, as_of)
            input_hash = versions.input_hash(urls, as_of)
            day = versions.read_day(urls, as_of)
            spill_day(urls, as_of, file, [*_texts_of(families), segmenting.RFM])
            if outlook is not None and outlook.network is not None:
                events = files.enter_context(events_until(settings, urls, as_of))
        if champion is None or outlook is None:
            history_days = (as_of - history.first).days
            scored = _score_without_model(file, history_days, settings.horizon_days)
        else:
            scored = _score_parts(champion, outlook, file, events, families, say)
        version = versions.Version(
            as_of_date=as_of,
            horizon_days=scored.forecast.asked_days,
            model_name=scored.model_name,
            model_version=scored.model_version,
            policy_version=policy.version,
            input_hash=input_hash,
            previous_version_id=begun.previous_version_id,
        )
        say("Drawing tiers")
        drawn = _tiers(urls, scored, policy, as_of, begun.previous)
        say("Grouping customers")
        grouped = segmenting.group(
            settings, urls, as_of, scored.shopping, drawn["expected_spend"].to_numpy(),
            begun.previous_version_id,
        )  # fmt: skip
        say("Writing")
        versions.keep_policy(urls, policy.version, policy.to_json())
        written = versions.write_version(
            urls,
            version,
            _scores(scored, as_of),
            drawn,
            segments=grouped,
            day=day,
            fencing_token=begun.fencing_token,
            run_id=settings.dag_run,
        )
    seen = (
        "which nobody sees until it is published"
        if written
        else "which is what analysts read already"
    )
    return (
        f"Scored {len(scored.customer_id):,} customers of {as_of} {scored.how} as "
        f"{version.version_id}, {seen}."
    )


class _Scored(NamedTuple):
    """A day's customers, what is expected of them, why (as the JSON that schema.sql describes), and
    by what; how: the same in words. history: of policies.HISTORY, what the day has. shopping: how
    they shop (`segmenting.COLUMNS`)."""

    customer_id: pa.ChunkedArray
    history: pd.DataFrame
    shopping: pd.DataFrame
    forecast: horizons.Forecast
    reasons: pa.ChunkedArray
    model_name: str
    model_version: str
    how: str


def _score_parts(
    champion: ModelVersion,
    outlook: horizons.Outlook,
    file: Path,
    events: Streams | None,
    families: reasons.Families,
    say: Say,
) -> _Scored:
    """The trees and the reasons part by part; what is true of the shop, of all parts together."""
    wanted = {"as_of_date", *policies.HISTORY, *horizons.population_columns(outlook)}
    threads = os.cpu_count() or 1
    customers, said, why, told, shopping = [], [], [], [], []
    for features in parts(file):
        part = horizons.widened(outlook, features, events)
        customers.append(pa.array(part["customer_id"], pa.string()))
        said.append(horizons.ask(outlook, part, threads))
        why.append(_reasons(outlook.asked, part, families, threads))
        told.append(part[[name for name in part if name in wanted]])
        shopping.append(part.filter(segmenting.COLUMNS))
        say(f"Scored {sum(map(len, customers)):,} customers")
    answers = {
        days: lightgbm_hurdle.joined([answered[days] for answered in said])
        for days in outlook.models
    }
    day = pd.concat(told, ignore_index=True)
    return _Scored(
        pa.chunked_array(customers),
        _history(day),
        pd.concat(shopping, ignore_index=True),
        horizons.settle(outlook, day, answers),
        pa.chunked_array(why),
        REGISTERED,
        str(champion.version),
        f"with model version {champion.version}",
    )


def _score_without_model(file: Path, history_days: int, horizon_days: int) -> _Scored:
    frame = pd.concat(parts(file), ignore_index=True)
    days = sorted({horizon_days, *horizons.HORIZONS})
    rung = sufficiency.below_the_model(frame, history_days)
    answers = [sufficiency.predict_with(rung, frame, horizon) for horizon in days]
    if any(answer.rung != rung for answer in answers):  # one rung answers for every horizon
        rung = Rung.spend_rate
        answers = [sufficiency.predict_with(rung, frame, horizon) for horizon in days]
    said = {h: answer.prediction for h, answer in zip(days, answers, strict=True)}
    return _Scored(
        pa.chunked_array([pa.array(frame["customer_id"], pa.string())]),
        _history(frame),
        frame.filter(segmenting.COLUMNS),
        horizons.together(said, horizon_days),
        pa.chunked_array([pa.nulls(len(frame), pa.string())]),
        str(rung),
        "untrained",
        f"without a model, by {rung} (`tierhouse train` says why there is none),",
    )


def _scores(scored: _Scored, day: date) -> pa.RecordBatchReader:
    """The rows of scores.customer_scores, horizon by horizon."""
    forecast, customers = scored.forecast, len(scored.customer_id)
    due = np.datetime64(day) + forecast.next_order_days.astype("timedelta64[D]")  # NaN is NaT
    nothing = {
        "expected_spend_low": pa.nulls(customers, pa.float64()),
        "expected_spend_high": pa.nulls(customers, pa.float64()),
        "high_value_probability": pa.nulls(customers, pa.float64()),
        "next_order_date": pa.nulls(customers, pa.date32()),
        "reasons": pa.nulls(customers, pa.string()),
    }

    def table(days: int, found: Prediction) -> pa.Table:
        only_asked = (
            {}
            if days != forecast.asked_days
            else {
                "expected_spend_low": _money(found.low, customers),
                "expected_spend_high": _money(found.high, customers),
                "high_value_probability": _numbers(found.high_value_probability, customers),
                "next_order_date": pa.array(due, pa.date32()),
                "reasons": scored.reasons,
            }
        )
        return pa.table({
            "customer_id": scored.customer_id,
            "horizon_days": pa.array(np.full(customers, days, np.int32)),
            "expected_spend": _money(found.expected_spend, customers),
            "purchase_probability": _numbers(found.purchase_probability, customers),
            **nothing,
            **only_asked,
        })  # fmt: skip

    tables = (table(days, found) for days, found in forecast.by_horizon.items())
    first = next(tables)
    batches = (batch for one in chain([first], tables) for batch in one.to_batches())
    return pa.RecordBatchReader.from_batches(first.schema, batches)


def _numbers(values: np.ndarray | None, customers: int) -> pa.Array:
    return pa.nulls(customers, pa.float64()) if values is None else pa.array(values)


def _money(values: np.ndarray | None, customers: int) -> pa.Array:
    return _numbers(values if values is None else values.round(2), customers)


def _history(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in policies.HISTORY if name in frame]]


def _tiers(
    urls: Urls, scored: _Scored, policy: Policy, day: date, before: versions.Published | None
) -> pa.Table:
    """The rows of scores.customer_tiers: drawn by what is written."""
    forecast = scored.forecast
    days = policy.horizon_days or forecast.asked_days
    policies.refuse_horizon(days, forecast.by_horizon)
    frame = scored.history.assign(**policies.forecasts(forecast.by_horizon[days]))
    policies.refuse_missing(policy, days, frame)
    frame["customer_id"] = pd.array(scored.customer_id, dtype=pd.StringDtype())
    drawn = policies.draw(urls, frame, policy, day, before)
    spend = np.asarray(forecast.asked.expected_spend).round(2)
    return drawn.append_column("expected_spend", pa.array(spend))


def _reasons(
    model: lightgbm_hurdle.Model, part: pd.DataFrame, families: reasons.Families, threads: int
) -> pa.Array:
    moved = reasons.effects(model, part, families, num_threads=threads)
    found = reasons.top_reasons(part, moved, families)
    said = [
        {"reason": family, "effect": float(f"{effect:.4g}"), "en": en, "zh": zh}
        for family, effect, en, zh in zip(
            found.family, found.effect, found.text_en, found.text_zh, strict=True
        )
    ]
    ends = pairwise(found.offsets)
    return pa.array([json.dumps(said[a:b], ensure_ascii=False) for a, b in ends], pa.string())


def _texts_of(families: reasons.Families) -> list[str]:
    """The columns of text that a sentence says."""
    said = (sentence for family in families.all for sentence in family.sentences)
    parts = (part for sentence in said for texts in sentence.texts.values() for part in texts)
    return sorted({part.column for part in parts if part.style == "name"})
