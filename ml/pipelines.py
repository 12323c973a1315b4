"""Read, call the pure core, record in MLflow, write. The only module of `ml` that does I/O."""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from importlib.metadata import version as installed_version
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.artifacts import download_artifacts, load_dict
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from psycopg.errors import UndefinedTable
from psycopg.types.json import Jsonb

from ml import backtest as judging
from ml import (
    cutoffs,
    figures,
    horizons,
    intervals,
    lightgbm_hurdle,
    lookalikes,
    model_card,
    promotion,
    reasons,
    streams,
    sufficiency,
    tiers,
    tuning,
)
from ml.baselines import Estimator
from ml.classifiers import CLASSIFIERS
from ml.metrics import DIRECTIONS, Prediction
from ml.promotion import Decision
from ml.streams import Streams
from ml.sufficiency import Rung
from warehouse import embeddings, pseudonyms, publishing
from warehouse.building import read_history, refuse_days_outside
from warehouse.connections import (
    Urls,
    connect,
    exclusive,
    make_database,
    read_arrow,
    spill_arrow,
)
from warehouse.settings import PROJECT, Settings, TierhouseError, WrongUsage

if TYPE_CHECKING:
    from ml import sequence_training

MODEL = "lightgbm_hurdle"
REGISTERED = "customer_value"  # the experiment of training and the registered model
BACKTESTS = "customer_value_backtests"
TUNINGS = "customer_value_tuning"
SEQUENCE = "customer_sequence"  # the same of the model behind embeddings
ALIAS = "champion"
KEYS = ("customer_id", "as_of_date")
TABLE = "features.customer_features"
EVENTS = "features.customer_events"
EXPLAINED = 2_000  # customers whom the figures of a training explain
WITHOUT_CHAMPION = "Until there is a champion, `tierhouse score` does without a model."
ABOUT = "Expected net spend and purchase probability of every customer of a day."

Estimators = Mapping[str, Estimator]
Say = Callable[[str], None]  # hears what comes next
Build = Callable[[Sequence[date], int], None]  # features of these days, labels of this horizon


@dataclass(frozen=True)
class Trained:
    """What training did; `backtest` is None when the champion was fresh enough, or the shop has too
    little data for a model."""

    message: str
    backtest: judging.Backtest | None


def newest_origins(urls: Urls, as_of: date, horizon_days: int) -> Sequence[date]:
    """The newest days whose windows were closed on `as_of`.

    Raises WrongUsage: too little history for them.
    """
    history = read_history(urls)
    with _history_may_be_short():
        return cutoffs.test_origins(min(as_of, history.last), history.first, horizon_days)


def backtest(
    settings: Settings,
    urls: Urls,
    origins: Sequence[date],
    horizon_days: int,
    chosen: Sequence[str],
    build: Build,
    say: Say,
    label_share: float = 1.0,
) -> judging.Backtest:
    """Judge models and baselines on these origins and record it all in MLflow.

    Builds the days it needs. chosen: names of models and baselines; none chosen are all of them but
    those of judging.ON_EVENTS. label_share: of the customers whose labels are learned from.
    Raises WrongUsage: an origin whose window is not closed, too little history before it, or a name
    that nobody has.
    """
    models, baselines, on_events = _candidates(chosen)
    history = read_history(urls)
    refuse_days_outside(history, origins)
    not_closed = [day for day in origins if (history.last - day).days < horizon_days]
    if not_closed:
        raise WrongUsage(
            f"What the {horizon_days} days from {not_closed[0]} brought is not known yet: the "
            f"newest order is of {history.last}. Choose earlier origins or a shorter horizon."
        )
    policy = _policy(settings)
    learned_days = cutoffs.learned_horizon(min(origins), history.first, horizon_days)
    with _history_may_be_short():
        needed = cutoffs.backtest_days(origins, history.first, learned_days)
    build(needed, horizon_days)
    say("Reading features")
    frame = _read_days(urls, needed)
    labels = _read_labels(urls, needed, [horizon_days, learned_days])
    events = None
    if on_events:
        say("Reading events")
        events = _read_events(urls, max(needed))
        models = {**models, **judging.on_events(on_events, events, say)}
    if label_share < 1:
        models, baselines = (
            {name: judging.of_share(one, label_share) for name, one in group.items()}
            for group in (models, baselines)
        )
    judged = judging.run(
        frame, labels, origins, horizon_days, models, baselines, learned_days=learned_days, say=say
    )
    say("Recording in MLflow")
    _open_mlflow(settings, urls, BACKTESTS)
    tags = {
        **_tags(settings, max(origins), horizon_days),
        "data_hash": _data_hash(frame, labels, events),
        "seed": str(judging.SEED),
    }
    with mlflow.start_run(run_name=f"{horizon_days} days from {max(origins)}", tags=tags):
        mlflow.log_params(
            {
                "horizon_days": horizon_days,
                "origins": _listed(origins),
                "candidates": ", ".join(judged.pooled),
                "label_share": label_share,
            }
        )
        _log_input(frame, labels, "evaluation")
        _log_scoreboard(judged, tags)
        _log_figures(judged)
        if MODEL in judged.pooled:
            rows = [asdict(row) for row in _tiers_of_newest(judged, policy)]
            mlflow.log_table(pd.DataFrame(rows), "tiers.json")
    return judged


def train(
    settings: Settings, urls: Urls, as_of: date, max_age_days: int | None, build: Build, say: Say
) -> Trained:
    """Judge on closed windows, fit on all of them, register, and ask the gate about the alias.

    What the gate (`ml.promotion`) passes becomes the champion; what it refuses is registered, and
    the champion stays. A champion no older than `max_age_days` on `as_of` is kept, so that a daily
    run trains weekly. Where the data are too little for a model (`ml.sufficiency`) none is trained.
    """
    history = read_history(urls)
    refuse_days_outside(history, [as_of])
    _open_mlflow(settings, urls)
    champion = _champion()
    if champion is not None and max_age_days is not None:
        trained_on = _trained_as_of(champion)
        if 0 <= (as_of - trained_on).days <= max_age_days:
            return Trained(
                f"The champion (version {champion.version}, as of {trained_on}) is fresh enough "
                f"as of {as_of}: nothing to train.",
                None,
            )

    horizon = settings.horizon_days
    policy = _policy(settings)
    tags = _tags(settings, as_of, horizon)
    known_until = min(as_of, history.last)  # a window is closed when its last day is loaded
    origins, learned_from, days = _days_of_training(known_until, history.first, horizon)
    build(days, horizon)
    say("Reading features")
    everything = _read_days(urls, days)
    report = _assess(urls, everything, known_until, history.first, horizon)
    if report.rung != Rung.lightgbm_hurdle:
        return Trained(f"{sufficiency.to_text(report)}\n\n{WITHOUT_CHAMPION}", None)
    known = everything["as_of_date"] <= pd.Timestamp(learned_from[0])
    frame = everything[known].reset_index(drop=True)
    labels = _closed_labels(urls, frame, horizon)
    config, where_from = _settings_of_trees(horizon, min(origins))
    say(f"Judging on {len(origins)} windows")
    estimator = judging.hurdle(config)
    remembered, said = promotion.remembered(estimator)
    models = {**judging.MODELS, MODEL: remembered}
    judged = judging.run(frame, labels, origins, horizon, models, say=say)
    say(f"Fitting {MODEL} on {len(learned_from)} days")
    learned = frame["as_of_date"].isin(pd.to_datetime(list(learned_from)))
    columns = lightgbm_hurdle.feature_columns(frame, labels)
    model = lightgbm_hurdle.fit(frame[learned], labels[learned], horizon, config)
    model = replace(model, intervals=_intervals(judged, said, labels, len(learned_from)))
    say("Fitting the other horizons")
    outlook = horizons.fit(
        model, everything, _read_labels(urls, days, horizons.HORIZONS), known_until
    )
    standing = _judge_champion(champion, model, estimator, judged, frame, labels, say)
    drawn = promotion.summed_tiers(said, labels, policy)
    frame, labels = frame[learned], labels[learned]
    del everything
    verdict = promotion.decide(
        promotion.Case(
            board=judged,
            name=MODEL,
            challenger=_challenger(model, frame, as_of),
            horizon_days=horizon,
            learned_days=horizon,
            columns=columns,
            tiers=drawn,
            champion=standing,
        )
    )

    say("Recording in MLflow")
    with mlflow.start_run(run_name=f"train {as_of}", tags=tags):
        mlflow.log_params(
            {
                "as_of_date": as_of.isoformat(),
                "horizon_days": horizon,
                "origins": _listed(origins),
                "cutoffs": _listed(learned_from),
                "settings": where_from,
                **asdict(model.config),
            }
        )
        mlflow.log_text(sufficiency.to_markdown(report), "sufficiency.md")
        _log_input(frame, labels, "training")
        _log_scoreboard(judged, tags)
        _log_figures(judged)
        mlflow.log_figure(figures.importance(model), "figures/feature_importance.png")
        _log_explanation(model, frame)
        card = model_card.to_markdown(outlook, judged, MODEL, as_of, learned_from, report)
        mlflow.log_text(card, "model_card.md")
        version = _register(outlook, frame, tags, card)
    _write_evaluation(urls, judged, policy, version)
    became = _promote(urls, version, as_of, champion, verdict)
    return Trained(
        f"Version {version} of {REGISTERED} is registered{became} It learned from "
        f"{len(learned_from)} days, {learned_from[-1]} to {learned_from[0]}.",
        judged,
    )


def _days_of_training(
    known_until: date, first_day: date, horizon_days: int
) -> tuple[Sequence[date], Sequence[date], list[date]]:
    """The origins to judge on, the cutoffs to learn from, and all days that training reads, oldest
    first; neither origins nor cutoffs where the history is too short for a model."""
    try:
        origins = cutoffs.test_origins(known_until, first_day, horizon_days)
        learned_from = cutoffs.training_cutoffs(known_until, first_day, horizon_days)
        judged_on = cutoffs.backtest_days(origins, first_day, horizon_days)
    except cutoffs.NotEnoughHistory:
        newest = known_until - timedelta(days=horizon_days)
        has_closed = newest >= first_day + timedelta(days=cutoffs.MIN_HISTORY_DAYS)
        return (), (), [newest, known_until] if has_closed else [known_until]
    newer = cutoffs.newer_cutoffs(known_until, learned_from[0])
    return origins, learned_from, sorted({*learned_from, *judged_on, *newer, known_until})


def _assess(
    urls: Urls, frame: pd.DataFrame, known_until: date, first_day: date, horizon_days: int
) -> sufficiency.Report:
    """frame: features of known_until, and of the newest day with a closed window."""
    newest = known_until - timedelta(days=horizon_days)
    today = frame[frame["as_of_date"] == pd.Timestamp(known_until)]
    labels = _read_labels(urls, [newest], [horizon_days])
    return sufficiency.assess(
        today, None if labels.empty else labels, known_until, first_day, horizon_days
    )


def tune(
    settings: Settings,
    urls: Urls,
    as_of: date,
    seconds: float | None,
    trials: int | None,
    build: Build,
    say: Say,
) -> str:
    """Look for better settings of the trees, for the trainings to come; say what was found.

    On windows that closed before the oldest one on which a model trained as of this day is judged.
    Every trial stands in MLflow. Raises WrongUsage: too little history for such windows.
    """
    history = read_history(urls)
    refuse_days_outside(history, [as_of])
    horizon, known_until = settings.horizon_days, min(as_of, history.last)
    with _history_may_be_short():
        not_after = min(cutoffs.test_origins(known_until, history.first, horizon))
        origins = tuning.tuning_origins(not_after, history.first, horizon)
        days = cutoffs.backtest_days(origins, history.first, horizon)
    build(days, horizon)
    say("Reading features")
    frame = _read_days(urls, days)
    labels = _closed_labels(urls, frame, horizon)
    found = tuning.tune(
        frame, labels, origins, horizon,
        not_after=not_after, seconds=seconds, trials=trials, say=say,
    )  # fmt: skip
    say("Recording in MLflow")
    _open_mlflow(settings, urls, TUNINGS)
    tags = {**_tags(settings, as_of, horizon), "data_hash": _data_hash(frame, labels)}
    with mlflow.start_run(run_name=f"tune {as_of}", tags={**tags, "tuned": "true"}):
        mlflow.log_params({"origins": _listed(origins), **asdict(found.config)})
        mlflow.log_metrics(
            {"score": found.score, "default_score": found.default_score, "gain": found.gain}
        )
        mlflow.log_dict(tuning.to_json(found), "tuned.json")
        for number, trial in enumerate(found.tried):
            with mlflow.start_run(run_name=f"trial {number}", nested=True, tags=tags):
                mlflow.log_params(asdict(trial.config))
                mlflow.log_metric("score", trial.score)
    return tuning.summary(found)


def _settings_of_trees(
    horizon_days: int, oldest_origin: date
) -> tuple[lightgbm_hurdle.Config, str]:
    """What the newest search found for this horizon, and where it is from.

    The default, where nothing better was surely found, or the search has seen a window that the
    model is judged on.
    """
    default = lightgbm_hurdle.Config(), "default"
    experiment = mlflow.get_experiment_by_name(TUNINGS)
    if experiment is None:
        return default
    runs = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id],
        f"tags.tuned = 'true' and tags.horizon_days = '{horizon_days}'",
        order_by=["attributes.start_time DESC"],
    )
    for run in runs:
        found = load_dict(f"{run.info.artifact_uri}/tuned.json")
        not_after = date.fromisoformat(found["not_after"])
        if tuning.may_be_judged_from(not_after, [oldest_origin]) and found["gain_low"] > 0:
            return lightgbm_hurdle.Config(**found["config"]), f"tuned in run {run.info.run_id}"
    return default


def _intervals(
    judged: judging.Backtest, said: Sequence[pd.DataFrame], labels: pd.DataFrame, now: int
) -> intervals.Intervals | None:
    """From what the backtest's models said of windows that they had not seen; None where the shop
    is too small. said: of `promotion.remembered`. now: the training windows of the model."""
    used = intervals.windows_to_use(
        {origin.as_of_date: len(origin.training_cutoffs) for origin in judged.origins}, now
    )
    told = pd.concat(said).merge(labels[[*KEYS, "spend"]], on=list(KEYS))
    told = told[told["as_of_date"].isin(pd.to_datetime(used))]
    columns = ("expected_spend", "purchase_probability", "spend", "as_of_date")
    try:
        return intervals.fit(*(told[name].to_numpy() for name in columns))
    except ValueError:
        return None


def promote(settings: Settings, urls: Urls, version: str) -> str:
    """Make a registered version the champion by hand, whatever the gate said.

    Raises WrongUsage: there is no such version.
    """
    _open_mlflow(settings, urls)
    with exclusive(urls.warehouse, "promote"):
        chosen = _version(version)
        champion = _champion()
        if champion is not None and champion.version == chosen.version:
            return f"Version {version} of {REGISTERED} is the champion already: nothing changed."
        before = None if champion is None else str(champion.version)
        _keep_decision(
            urls,
            str(chosen.version),
            _trained_as_of(chosen),
            before,
            Decision.promoted,
            "by hand",
            {},
        )
    return _now_champion(chosen, champion)


def rollback(settings: Settings, urls: Urls) -> str:
    """Make the version the champion that was it before.

    Raises WrongUsage: there is no champion, none was before it, or that one was deleted.
    """
    _open_mlflow(settings, urls)
    with exclusive(urls.warehouse, "promote"):
        champion = _champion()
        if champion is None:
            raise WrongUsage(f"There is no champion to go back from. {_versions_there()}")
        before = promotion.champion_before(_decisions(urls), str(champion.version))
        if before is None:
            raise WrongUsage(
                f"Version {champion.version} is the first champion: there is none to go back to. "
                f"`tierhouse promote VERSION` makes another one the champion. {_versions_there()}"
            )
        chosen = _version(before)
        _keep_decision(
            urls,
            before,
            _trained_as_of(chosen),
            str(champion.version),
            Decision.rolled_back,
            "by hand",
            {},
        )
    return _now_champion(chosen, champion)


def score(settings: Settings, urls: Urls, as_of: date, say: Say) -> str:
    """Score every customer of the day, draw the tiers, write both out of sight.

    With the champion; where there is none, with the best method that needs no training, and the
    score says which. Raises TierhouseError: a champion that knows later days, or a day not built.
    """
    history = read_history(urls)
    refuse_days_outside(history, [as_of])
    _open_mlflow(settings, urls)
    champion = _champion()
    policy = _policy(settings)
    if champion is not None and _trained_as_of(champion) > as_of:
        raise TierhouseError(
            f"The champion (version {champion.version}) learned from what happened up to "
            f"{_trained_as_of(champion)}, so its scores of {as_of} would know the future. Train "
            f"one as of that day in an installation of its own (TIERHOUSE_HOME), or score a "
            f"later day."
        )
    families = reasons.read_families()
    scratch = settings.home / "scratch-scores"
    scratch.mkdir(mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        file = Path(place) / "features.arrow"
        say("Reading features")
        with exclusive(urls.warehouse, "build"):  # what is hashed is what is read
            input_hash = publishing.input_hash(urls, as_of)
            _spill_day(urls, as_of, file, _texts_of(families))
        if champion is None:
            history_days = (as_of - history.first).days
            scored = _score_without_model(file, history_days, settings.horizon_days)
        else:
            say(f"Loading version {champion.version}")
            scored = _score_parts(champion, file, families, say)
        version = publishing.Version(
            as_of_date=as_of,
            horizon_days=scored.forecast.asked_days,
            model_name=scored.model_name,
            model_version=scored.model_version,
            policy_version=policy.version,
            input_hash=input_hash,
        )
        say("Writing")
        written = publishing.write_version(
            urls, version, _scores(scored, as_of), _tiers(scored, policy)
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


def embed(
    settings: Settings,
    urls: Urls,
    as_of: date,
    max_age_days: int | None,
    build: Build,
    say: Say,
) -> str:
    """Write what the sequence model sees of every customer of the day, for look-alikes.

    With the newest registered version that knows nothing later and is no older than `max_age_days`;
    where there is none, one is trained on the closed windows. Raises TierhouseError: a day not
    built. WrongUsage: too little history to train.
    """
    from ml import sequence_training

    history = read_history(urls)
    refuse_days_outside(history, [as_of])
    if not _is_built(urls, as_of):
        raise TierhouseError(
            f"The features of {as_of} are not built. Run `tierhouse build --as-of {as_of}` first."
        )
    _open_mlflow(settings, urls, SEQUENCE)
    version = _newest_sequence(as_of, settings.horizon_days, max_age_days)
    if version is None:
        version = _train_sequence(settings, urls, as_of, build, say)
    say(f"Loading version {version} of {SEQUENCE}")
    model = _load_sequence(version)
    say("Reading features and events")
    frame, events = _read_days(urls, [as_of]), _read_events(urls, as_of)
    say("Embedding")
    try:
        vectors = sequence_training.embed(model, frame, events)
    except ValueError as error:
        raise TierhouseError(f"Version {version} of {SEQUENCE}: {error}.") from None
    flat = pa.array(vectors.ravel())
    offsets = pa.array(np.arange(len(vectors) + 1, dtype=np.int32) * vectors.shape[1])
    rows = pa.table({
        "customer_id": pa.array(frame["customer_id"], pa.string()),
        "embedding": pa.ListArray.from_arrays(offsets, flat),
    })  # fmt: skip
    say("Writing")
    embeddings.replace_day(urls, as_of, rows, version)
    return (
        f"Embedded {len(frame):,} customers of {as_of} in {vectors.shape[1]} numbers each, with "
        f"version {version} of {SEQUENCE}."
    )


def look_alikes(urls: Urls, customer: str, n: int, as_of: date | None) -> pd.DataFrame:
    """The customers nearest to one of them, as `lookalikes.nearest` gives them.

    customer: a pseudonym, or the shop's own identifier, for whoever may read the schema pii.
    as_of: a day that has embeddings, None for the newest. Raises TierhouseError: no embeddings, or
    none of this customer. Refused: this role may not look the customer up.
    """
    day = as_of or embeddings.newest_day(urls.reader)
    if day is None or not embeddings.is_there(urls.reader, day):
        raise TierhouseError(
            f"There are no embeddings{'' if day is None else f' of {day}'}. Run `tierhouse embed "
            f"--as-of {day or 'DAY'}` first."
        )
    known_as = customer
    if not embeddings.is_there(urls.reader, day, customer):
        known_as = pseudonyms.look_up(urls.pii, customer)
        if not embeddings.is_there(urls.reader, day, known_as):
            raise TierhouseError(
                f"Customer {customer} has no embedding of {day}: nothing was known of them on that "
                f"day. `tierhouse lookalikes --as-of DAY` asks about another one."
            )
    found = embeddings.near(urls.reader, day, known_as, n)
    vectors = found["embedding"].combine_chunks()
    return lookalikes.nearest(
        found["customer_id"].to_numpy(),
        vectors.flatten().to_numpy().reshape(len(vectors), -1),
        known_as,
        n,
    )


def _is_built(urls: Urls, day: date) -> bool:
    with connect(urls.warehouse) as connection:
        try:
            found = connection.execute(
                f"select 1 from {TABLE} where as_of_date = %s limit 1".encode(), [day]
            )
            return found.fetchone() is not None
        except UndefinedTable:
            return False


def _newest_sequence(as_of: date, horizon_days: int, max_age_days: int | None) -> str | None:
    """The registered version that knows most and nothing later than the day, None without one."""
    found = mlflow.MlflowClient().search_model_versions(f"name='{SEQUENCE}'", max_results=1000)
    known = [
        (_trained_as_of(version), int(version.version))
        for version in found
        if "as_of_date" in version.tags and version.tags.get("horizon_days") == str(horizon_days)
    ]
    oldest = date.min if max_age_days is None else as_of - timedelta(days=max_age_days)
    fitting = [(day, number) for day, number in known if oldest <= day <= as_of]
    return str(max(fitting)[1]) if fitting else None


def _train_sequence(settings: Settings, urls: Urls, as_of: date, build: Build, say: Say) -> str:
    """Fit the default transformer on the windows closed by the day, and register it."""
    from ml import sequence_training

    history, horizon = read_history(urls), settings.horizon_days
    known_until = min(as_of, history.last)
    with _history_may_be_short():
        learned_from = cutoffs.training_cutoffs(known_until, history.first, horizon)
    build(sorted(learned_from), horizon)
    say("Reading features and events")
    frame, events = _read_days(urls, learned_from), _read_events(urls, learned_from[0])
    labels = _with_intent(urls, _closed_labels(urls, frame, horizon))
    losses: list[tuple[str, int, float]] = []

    def told(report: dict) -> None:
        stage, step = report["stage"], report["step"]
        say(f"{stage.capitalize()}: step {step} of {report['steps']}, loss {report['loss']:.3f}")
        losses.append((f"{stage}_loss".replace("-", "_"), step, report["loss"]))

    with _history_may_be_short():
        model = sequence_training.fit(frame, labels, horizon, events, callback=told)
    say("Recording in MLflow")
    tags = _tags(settings, as_of, horizon)
    tags["data_hash"] = _data_hash(frame, labels, events)
    with mlflow.start_run(run_name=f"train {as_of}", tags=tags):
        network = asdict(model.config)
        mlflow.log_params({
            "as_of_date": as_of.isoformat(), "horizon_days": horizon,
            "cutoffs": _listed(learned_from), **network.pop("network"), **network,
        })  # fmt: skip
        _log_input(frame, labels, "training")
        every = -(-len(losses) // 500)
        for name, step, loss in losses[::every]:
            mlflow.log_metric(name, loss, step=step)
        return _register_sequence(model, tags)


def _register_sequence(model: "sequence_training.Model", tags: dict[str, str]) -> str:
    from ml import sequence_training

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        sequence_training.to_files(model, folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ml.sequence_serving",
            data_path=str(folder),
            code_paths=[str(PROJECT / "ml")],
            pip_requirements=[
                f"{package}=={installed_version(package).split('+')[0]}"
                for package in ("lightgbm", "numpy", "pandas", "pyarrow", "safetensors", "scipy",
                                "torch")
            ],
        )  # fmt: skip
    client = mlflow.MlflowClient()
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(SEQUENCE, description="What embeddings are made by.")
    version = client.create_model_version(
        SEQUENCE, logged.model_uri, logged.run_id, tags, model_id=logged.model_id
    )
    return str(version.version)


def _load_sequence(version: str) -> "sequence_training.Model":
    """Raises TierhouseError: another version of Tierhouse stored it."""
    from ml import sequence_training

    files = Path(download_artifacts(f"models:/{SEQUENCE}/{version}"))
    about = Model.load(files).flavors[mlflow.pyfunc.FLAVOR_NAME]
    try:
        return sequence_training.from_files(files / about[mlflow.pyfunc.DATA])
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TierhouseError(
            f"Version {version} of {SEQUENCE} cannot be read: {error}. Delete it from "
            f"MLflow, and `tierhouse embed` trains another one."
        ) from None


class _Scored(NamedTuple):
    """A day's customers, what is expected of them, why (as the JSON that schema.sql describes), and
    by what; how: the same in words."""

    customer_id: pa.ChunkedArray
    forecast: horizons.Forecast
    reasons: pa.ChunkedArray
    model_name: str
    model_version: str
    how: str


def _spill_day(urls: Urls, day: date, file: Path, texts: Sequence[str]) -> None:
    """The features of a day in an Arrow file: memory holds a part of it at a time."""
    query = f"select {_selected(urls, texts)} from {TABLE} where as_of_date = $1::date order by 1"
    spill_arrow(urls.warehouse, query, [day.isoformat()], file)


def _parts(file: Path) -> Iterator[pd.DataFrame]:
    """The rows of an Arrow file, reasons.ROWS_AT_ONCE at a time at most."""
    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        kept: list[pa.RecordBatch] = []
        for number in range(reader.num_record_batches):
            kept.append(reader.get_batch(number))
            is_last = number == reader.num_record_batches - 1
            if is_last or sum(batch.num_rows for batch in kept) >= reasons.ROWS_AT_ONCE:
                yield _to_frame(pa.Table.from_batches(kept))
                kept = []


def _score_parts(
    champion: ModelVersion, file: Path, families: reasons.Families, say: Say
) -> _Scored:
    """The trees and the reasons part by part; what is true of the shop, of all parts together."""
    outlook = _load(champion)
    wanted = ("as_of_date", *horizons.population_columns(outlook))
    threads = os.cpu_count() or 1
    customers, said, why, told = [], [], [], []
    for part in _parts(file):
        customers.append(pa.array(part["customer_id"], pa.string()))
        said.append(horizons.ask(outlook, part, threads))
        why.append(_reasons(outlook.asked, part, families, threads))
        told.append(part[[name for name in wanted if name in part]])
        say(f"Scored {sum(map(len, customers)):,} customers")
    answers = {
        days: lightgbm_hurdle.joined([answered[days] for answered in said])
        for days in outlook.models
    }
    return _Scored(
        pa.chunked_array(customers),
        horizons.settle(outlook, pd.concat(told, ignore_index=True), answers),
        pa.chunked_array(why),
        REGISTERED,
        str(champion.version),
        f"with model version {champion.version}",
    )


def _score_without_model(file: Path, history_days: int, horizon_days: int) -> _Scored:
    frame = pd.concat(_parts(file), ignore_index=True)
    rung = sufficiency.below_the_model(frame, history_days)
    said = {}
    for days in sorted({horizon_days, *horizons.HORIZONS}):
        answer = sufficiency.predict_with(rung, frame, days)
        rung = answer.rung  # where it failed once, the same rung answers for every horizon
        said[days] = answer.prediction
    if rung == Rung.spend_rate:
        said = {d: sufficiency.predict_with(rung, frame, d).prediction for d in said}
    return _Scored(
        pa.chunked_array([pa.array(frame["customer_id"], pa.string())]),
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


def _tiers(scored: _Scored, policy: tiers.Policy) -> pa.Table:
    """The rows of scores.customer_tiers: drawn by the spend that is written."""
    spend = np.asarray(scored.forecast.asked.expected_spend).round(2)
    drawn = tiers.assign(spend, scored.customer_id.to_numpy(), policy)
    return pa.table({
        "customer_id": scored.customer_id,
        "tier": drawn.tier,
        "tier_rank": pa.array(drawn.rank, pa.int32()),
        "expected_spend": spend,
    })  # fmt: skip


def _load(champion: ModelVersion) -> horizons.Outlook:
    """Raises TierhouseError: another version of Tierhouse stored it."""
    files = Path(download_artifacts(f"models:/{REGISTERED}/{champion.version}"))
    about = Model.load(files).flavors[mlflow.pyfunc.FLAVOR_NAME]
    try:
        return horizons.from_files(files / about[mlflow.pyfunc.DATA])
    except (ValueError, TypeError, KeyError) as error:
        raise TierhouseError(
            f"The champion (version {champion.version}) cannot be read: {error}."
        ) from None


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


def _policy(settings: Settings) -> tiers.Policy:
    try:
        return tiers.read_policy(settings.tier_policy)
    except tiers.PolicyError as error:
        raise TierhouseError(f"{error}. Nothing was written.") from None


@contextmanager
def _history_may_be_short() -> Iterator[None]:
    """The core says ValueError when the history is too short; a person reads it as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise WrongUsage(str(error)) from None


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


def _read_days(urls: Urls, days: Sequence[date]) -> pd.DataFrame:
    """Features of these days: keys, then every feature as float64 (null is NaN).

    Raises TierhouseError: a day is not built.
    """
    frame = _read_frame(
        urls,
        f"select {_selected(urls)} from {TABLE} "
        f"where as_of_date = any(string_to_array($1, ',')::date[]) order by 2, 1",
        _listed(days),
    )
    built = {stamp.date() for stamp in frame["as_of_date"].unique()}
    if absent := sorted(set(days) - built):
        raise TierhouseError(
            f"The features of {absent[0]} are not built. Run `tierhouse build --as-of {absent[0]}` "
            f"first."
        )
    return frame


def _closed_labels(urls: Urls, frame: pd.DataFrame, horizon_days: int) -> pd.DataFrame:
    """What came after, row by row of a frame of closed days."""
    days = [stamp.date() for stamp in frame["as_of_date"].unique()]
    labels = _read_labels(urls, days, [horizon_days]).drop(columns="horizon_days")
    joined = frame[list(KEYS)].merge(labels, how="left", on=list(KEYS), validate="one_to_one")
    if joined["spend"].isna().any():
        raise TierhouseError(
            f"There are no labels of {horizon_days} days for {joined['as_of_date'].max():%Y-%m-%d}:"
            f" its window is not closed."
        )
    return joined


def _read_labels(urls: Urls, days: Sequence[date], horizons: Sequence[int]) -> pd.DataFrame:
    """What came after these days, in the windows that are closed."""
    return _read_frame(
        urls,
        "select customer_id, as_of_date::timestamp as as_of_date, horizon_days, spend::float8 as "
        "spend, orders, is_purchased, is_high_value from features.customer_labels where "
        "horizon_days = any(string_to_array($2, ',')::integer[]) and "
        "as_of_date = any(string_to_array($1, ',')::date[]) order by 2, 1, 3",
        _listed(days),
        ",".join(map(str, sorted(set(horizons)))),
    )


def _with_intent(urls: Urls, labels: pd.DataFrame) -> pd.DataFrame:
    """The labels with is_purchased_7d, _14d and _30d beside them, null where not known."""
    from ml.sequence import INTENT_DAYS

    days = [stamp.date() for stamp in labels["as_of_date"].unique()]
    found = _read_labels(urls, days, INTENT_DAYS)
    for n in INTENT_DAYS:
        of_window = found.loc[found["horizon_days"] == n, [*KEYS, "is_purchased"]]
        named = of_window.rename(columns={"is_purchased": f"is_purchased_{n}d"})
        labels = labels.merge(
            named.astype({f"is_purchased_{n}d": float}), how="left", on=list(KEYS)
        )
    return labels


def _read_events(urls: Urls, until: date) -> Streams:
    """All events that were known on the day."""
    columns = ", ".join(streams.DTYPES)
    table = read_arrow(
        urls.warehouse,
        f"select customer_id, {columns} from {EVENTS} where known_on <= $1::date "
        'order by customer_id collate "C", position',
        [until.isoformat()],
    )
    return streams.from_table(table)


def _read_frame(urls: Urls, query: str, *parameters: object) -> pd.DataFrame:
    return _to_frame(read_arrow(urls.warehouse, query, parameters))


def _to_frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper={pa.string(): pd.StringDtype()}.get)


def _listed(days: Sequence[date]) -> str:
    return ",".join(day.isoformat() for day in days)


def _open_mlflow(settings: Settings, urls: Urls, name: str = REGISTERED) -> None:
    """Point MLflow at the server that is configured, or at the installation's own database.

    name: of the experiment, which is made where it is not there.
    """
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It misses an input example, which would be rows of real customers kept for ever.
    warnings.filterwarnings("ignore", module="mlflow", message=".*input example")
    if settings.mlflow_tracking_uri is None:
        make_database(urls.mlflow, urls.warehouse)
        address = urls.mlflow.replace("postgresql://", "postgresql+psycopg2://", 1)
    else:
        address = settings.mlflow_tracking_uri.get_secret_value()
    mlflow.set_tracking_uri(address)
    folder = settings.home / "mlflow"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with contextlib.chdir(folder):  # a new store roots its experiment "Default" where we are
            experiment = mlflow.get_experiment_by_name(name)
        if experiment is None:
            local = settings.mlflow_tracking_uri is None
            artifacts = (folder / "artifacts").as_uri() if local else None
            mlflow.create_experiment(name, artifacts)
        mlflow.set_experiment(name)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).replace(address, "***").split())[:300]
        if password := urlsplit(address).password:
            reason = reason.replace(password, "***")
        raise TierhouseError(
            f"MLflow at {urlsplit(address).hostname} does not answer: {reason} Check "
            f"MLFLOW_TRACKING_URI, or unset it."
        ) from None


def _champion() -> ModelVersion | None:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(REGISTERED, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise TierhouseError(
            f"MLflow does not say which model is the champion: {' '.join(str(error).split())[:300]}"
        ) from None


def _trained_as_of(version: ModelVersion) -> date:
    return date.fromisoformat(version.tags["as_of_date"])


def _tags(settings: Settings, as_of: date, horizon_days: int) -> dict[str, str]:
    commit = ""
    if git := shutil.which("git"):  # a slim image has none
        head = [git, "-C", str(PROJECT), "rev-parse", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
    tags = {
        "as_of_date": as_of.isoformat(),
        "horizon_days": str(horizon_days),
        "git_commit": commit or "unknown",
    }
    return tags if settings.dag_run is None else {**tags, "dag_run": settings.dag_run}


def _candidates(chosen: Sequence[str]) -> tuple[Estimators, Estimators, list[str]]:
    """The models and the baselines of these names, and the names of those that read the events;
    without names all but these last."""
    known = {**judging.MODELS, **judging.BASELINES}
    there = (*known, *judging.ON_EVENTS)
    if unknown := [name for name in chosen if name not in there]:
        raise WrongUsage(f"There is no model {unknown[0]}. There are {', '.join(there)}.")
    wanted = set(chosen) or known.keys()
    models, baselines = (
        {name: estimator for name, estimator in group.items() if name in wanted}
        for group in (judging.MODELS, judging.BASELINES)
    )
    return models, baselines, [name for name in judging.ON_EVENTS if name in wanted]


def _data_hash(frame: pd.DataFrame, labels: pd.DataFrame, events: Streams | None = None) -> str:
    """Of all that was learned from and judged on: the same rows give the same scoreboard."""
    hashed = sha256()
    for rows in (frame, labels):
        hashed.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    for values in () if events is None else vars(events).values():
        hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def _log_input(frame: pd.DataFrame, labels: pd.DataFrame, context: str) -> None:
    whole = labels.select_dtypes("integer").columns  # MLflow warns of integers: nulls are floats
    seen = frame.merge(labels.astype(dict.fromkeys(whole, float)), on=list(KEYS))
    source = CodeDatasetSource({"table": TABLE})
    mlflow.log_input(from_pandas(seen, source=source, name="closed_windows"), context=context)


def _log_scoreboard(judged: judging.Backtest, tags: dict[str, str]) -> None:
    """One child run per candidate and origin, and one of its means, so that MLflow's comparison
    page is the scoreboard. All metrics have the same names everywhere.

    Intervals and paired differences stand in scoreboard.json, where they do not bury the metrics
    themselves.
    """
    mlflow.log_dict(judged.to_json(), "scoreboard.json")
    if MODEL in judged.pooled:
        mlflow.log_metrics(_points(judged.pooled[MODEL]))
    of_origins = {origin.as_of_date.isoformat(): origin.models for origin in judged.origins}
    for origin, models in {**of_origins, "pooled": judged.pooled}.items():
        for name, metrics in models.items():
            told = {**tags, "model": name, "origin": origin}
            with mlflow.start_run(run_name=f"{name} {origin}", nested=True, tags=told):
                mlflow.log_metrics(_points(metrics))


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _points(metrics: dict[str, float]) -> dict[str, float]:
    return _finite({name: metrics[name] for name in DIRECTIONS})


def _log_figures(judged: judging.Backtest) -> None:
    """The figures are about MODEL, or about the first candidate where it was not judged."""
    newest = judged.newest
    name = MODEL if MODEL in newest.predictions else next(iter(newest.predictions))
    mlflow.log_figure(figures.gain(judged, name), "figures/gain_curve.png")
    if newest.predictions[name].expected_spend is not None:
        mlflow.log_figure(figures.calibration(judged, name), "figures/calibration_by_decile.png")
    if newest.high_value is not None:
        asked = [name, *(one for one in CLASSIFIERS if one in newest.predictions)]
        mlflow.log_figure(figures.roc(judged, asked), "figures/high_value_roc.png")
        mlflow.log_figure(figures.confusion(judged, asked), "figures/high_value_confusion.png")


def _log_explanation(model: lightgbm_hurdle.Model, frame: pd.DataFrame) -> None:
    """What moves the spend that the model expects, over customers of the newest day of frame."""
    newest = frame[frame["as_of_date"] == frame["as_of_date"].max()]
    some = newest.iloc[:: -(-len(newest) // EXPLAINED)]
    weights = reasons.importance(model, some, reasons.read_families())
    mlflow.log_figure(figures.reasons_importance(weights), "figures/reasons_importance.png")
    mlflow.log_figure(figures.dependence(model, some), "figures/dependence.png")


def _register(
    outlook: horizons.Outlook, frame: pd.DataFrame, tags: dict[str, str], card: str
) -> str:
    """Store the models as LightGBM text and JSON, loaded by our own module: nothing is pickled."""
    inputs = frame.head(100).drop(columns=["customer_id"])
    served = horizons.Served(outlook)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        horizons.to_files(outlook, folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ml.horizons",
            data_path=str(folder),
            code_paths=[str(PROJECT / "ml")],
            signature=infer_signature(inputs, served.predict(inputs)),
            pip_requirements=[
                f"{package}=={installed_version(package)}"
                for package in ("lightgbm", "numpy", "pandas", "scipy")
            ],
        )
    client = mlflow.MlflowClient()
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(REGISTERED, description=ABOUT)
    version = client.create_model_version(
        REGISTERED,
        logged.model_uri,
        logged.run_id,
        tags,
        model_id=logged.model_id,
        description=card,
    )
    return str(version.version)


def _challenger(
    model: lightgbm_hurdle.Model, frame: pd.DataFrame, as_of: date
) -> promotion.Challenger:
    """The fitted model as the gate sees it, asked about the newest day that it learned from."""
    newest = frame[frame["as_of_date"] == frame["as_of_date"].max()]
    return promotion.Challenger(
        model.horizon_days,
        model.features,
        promotion.ask(lightgbm_hurdle.predict, model, newest.reset_index(drop=True)),
        as_of,
    )


def _judge_champion(
    champion: ModelVersion | None,
    challenger: lightgbm_hurdle.Model,
    estimator: Estimator,
    judged: judging.Backtest,
    frame: pd.DataFrame,
    labels: pd.DataFrame,
    say: Say,
) -> promotion.Champion | None:
    """The champion on the challenger's windows, or None where it is not there or not readable."""
    stored = None if champion is None else _readable(champion)
    if champion is None or stored is None:
        return None
    knows_until = _trained_as_of(champion)
    columns = lightgbm_hurdle.feature_columns(frame, labels)
    origins = [origin.as_of_date for origin in judged.origins]
    judged_by = promotion.how_judged(
        origins, judged.horizon_days, columns, stored.features, stored.horizon_days, knows_until
    )
    is_refresh = (
        set(judged_by.values()) == {promotion.REFIT}
        and stored.config == challenger.config
        and set(stored.features) == set(columns)
    )
    if is_refresh:
        metrics, gain = promotion.no_difference(judged, MODEL)
    else:
        metrics, gain = promotion.compare(
            judged,
            MODEL,
            frame,
            labels,
            estimator,
            promotion.as_judged(stored, judged_by, judged.learned_days, _refit(stored)),
            say,
        )
    return promotion.Champion(
        str(champion.version), knows_until, stored.features, metrics, gain, judged_by
    )


def _readable(champion: ModelVersion) -> lightgbm_hurdle.Model | None:
    """The stored model, None where an earlier Tierhouse wrote what this one cannot read."""
    try:
        return _load(champion).asked
    except (MlflowException, OSError, TierhouseError):
        return None


def _refit(stored: lightgbm_hurdle.Model) -> Estimator:
    """The stored model's configuration and columns, fitted to whatever frame comes."""

    def fit(frame: pd.DataFrame, labels: pd.DataFrame, horizon_days: int) -> lightgbm_hurdle.Model:
        columns = lightgbm_hurdle.feature_columns(frame, labels)
        known = frame.drop(columns=[name for name in columns if name not in stored.features])
        return lightgbm_hurdle.fit(known, labels, horizon_days, stored.config)

    return Estimator(fit, lightgbm_hurdle.predict)


def _promote(
    urls: Urls,
    version: str,
    as_of: date,
    judged_against: ModelVersion | None,
    verdict: promotion.Verdict,
) -> str:
    """Move the alias if the gate says so, and keep the verdict; what became of the version."""
    client = mlflow.MlflowClient()
    with exclusive(urls.warehouse, "promote"):
        champion = _champion()  # anew: training takes a while, and may not be alone
        before = None if champion is None else str(champion.version)
        if before != (None if judged_against is None else str(judged_against.version)):
            verdict = promotion.also_refused(
                verdict, "same_champion", "another version became the champion meanwhile"
            )
        decision = verdict.decision
        numbers = verdict.numbers
        _keep_decision(urls, version, as_of, before, decision, verdict.reasons, numbers)
    client.set_model_version_tag(REGISTERED, version, "verdict", str(decision))
    note = promotion.to_markdown(verdict, f"Version {version} of {REGISTERED}, as of {as_of}")
    client.log_text(str(client.get_model_version(REGISTERED, version).run_id), note, "verdict.md")
    if decision == Decision.promoted:
        return " and is the champion."
    refused = f". The gate refused it: {verdict.reasons}."
    if before is not None:
        return f"{refused} Version {before} stays champion."
    return (
        f"{refused} {WITHOUT_CHAMPION} `tierhouse promote {version}` makes this version the "
        f"champion all the same."
    )


def _keep_decision(
    urls: Urls,
    version: str,
    as_of: date,
    before: str | None,
    decision: Decision,
    why: str,
    numbers: dict,
) -> None:
    """A row of ops.promotions, and the alias where the version becomes the champion: both or
    none."""
    with connect(urls.warehouse) as connection:
        connection.execute(
            "insert into ops.promotions (as_of_date, model_name, model_version, champion_before, "
            "verdict, reasons, numbers) values (%s, %s, %s, %s, %s, %s, %s)",
            [as_of, REGISTERED, version, before, str(decision), why, Jsonb(numbers)],
        )
        if decision != Decision.refused:
            mlflow.MlflowClient().set_registered_model_alias(REGISTERED, ALIAS, version)


def _decisions(urls: Urls) -> list[tuple[str, str, str | None]]:
    with connect(urls.warehouse) as connection:
        return connection.execute(
            "select verdict, model_version, champion_before from ops.promotions "
            "where model_name = %s order by promotion_id",
            [REGISTERED],
        ).fetchall()


def _version(version: str) -> ModelVersion:
    """The registered version. Raises WrongUsage: there is none, or training did not make it."""
    try:
        found = mlflow.MlflowClient().get_model_version(REGISTERED, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise WrongUsage(
            f"There is no version {version} of {REGISTERED}. {_versions_there()}"
        ) from None
    if not {"as_of_date", "horizon_days"} <= found.tags.keys():
        raise WrongUsage(
            f"Version {version} of {REGISTERED} was not made by `tierhouse train`, so nobody knows "
            f"what it knows. {_versions_there()}"
        )
    return found


def _versions_there() -> str:
    client = mlflow.MlflowClient()
    found = client.search_model_versions(f"name='{REGISTERED}'", max_results=1000)
    newest = sorted(found, key=lambda version: int(version.version), reverse=True)[:10]
    if not newest:
        return "None is registered yet: run `tierhouse train --as-of DAY` first."
    listed = (
        f"{version.version} (as of {version.tags.get('as_of_date', 'a day nobody noted')})"
        for version in newest
    )
    return f"The newest are {', '.join(listed)}."


def _now_champion(chosen: ModelVersion, champion: ModelVersion | None) -> str:
    instead = "" if champion is None else f" instead of version {champion.version}"
    return (
        f"Version {chosen.version} of {REGISTERED}, as of {_trained_as_of(chosen)}, is the "
        f"champion{instead}. The next `tierhouse score` uses it; what analysts read changes when "
        f"that is published."
    )


def _tiers_of_newest(judged: judging.Backtest, policy: tiers.Policy) -> list[tiers.TierSummary]:
    """The tiers of customers whose window the model had not seen."""
    newest = judged.newest
    predicted = np.asarray(newest.predictions[MODEL].expected_spend)
    drawn = tiers.assign(predicted, newest.customer_id, policy)
    return tiers.summarise(drawn, predicted, newest.spend)


def _write_evaluation(
    urls: Urls, judged: judging.Backtest, policy: tiers.Policy, version: str
) -> None:
    """Keep the scoreboard and the tiers of the newest origin where analysts can read them."""
    newest = judged.newest
    by_tier = _tiers_of_newest(judged, policy)
    metrics = [
        (name, origin, metric, value)
        for origin, models in (
            (None, judged.pooled),
            *((origin.as_of_date, origin.models) for origin in judged.origins),
        )
        for name, of_model in models.items()
        for metric, value in _finite(of_model).items()
    ]
    with connect(urls.warehouse) as connection, connection.cursor() as cursor:
        for table in ("tier_evaluation", "model_metrics"):  # a new MLflow begins with 1 again
            cursor.execute(
                f"delete from scores.{table} where model_name = %s and model_version = %s".encode(),
                [REGISTERED, version],
            )
        cursor.executemany(
            "insert into scores.tier_evaluation values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (REGISTERED, version, policy.version, newest.as_of_date, row.tier, row.rank,
                 row.customers, row.expected_spend, row.realised_spend)
                for row in by_tier
            ],
        )  # fmt: skip
        cursor.executemany(
            "insert into scores.model_metrics values (%s, %s, %s, %s, %s, %s, %s)",
            [(REGISTERED, version, judged.horizon_days, *row) for row in metrics],
        )
