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
from datetime import date
from hashlib import sha256
from importlib.metadata import version as installed_version
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.artifacts import download_artifacts
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.pyfunc import PyFuncModel
from psycopg.types.json import Jsonb

from ml import backtest as judging
from ml import cutoffs, figures, intervals, lightgbm_hurdle, promotion, reasons, tiers
from ml.baselines import Estimator
from ml.metrics import DIRECTIONS
from ml.promotion import Decision
from warehouse import publishing
from warehouse.building import read_history, refuse_days_outside
from warehouse.connections import Urls, connect, exclusive, make_database, read_arrow
from warehouse.settings import PROJECT, Settings, TierhouseError, WrongUsage

MODEL = "lightgbm_hurdle"
REGISTERED = "customer_value"  # the experiment of training and the registered model
BACKTESTS = "customer_value_backtests"
ALIAS = "champion"
KEYS = ("customer_id", "as_of_date")
TABLE = "features.customer_features"
EXPLAINED = 2_000  # customers whom the figures of a training explain
ABOUT = "Expected net spend and purchase probability of every customer of a day."

Estimators = Mapping[str, Estimator]
Say = Callable[[str], None]  # hears what comes next
Build = Callable[[Sequence[date], int], None]  # features of these days, labels of this horizon


@dataclass(frozen=True)
class Trained:
    """What training did; `backtest` is None when the champion was fresh enough.

    has_champion: False where the gate refused the model and there is no other to score with.
    """

    message: str
    backtest: judging.Backtest | None
    has_champion: bool = True


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
) -> judging.Backtest:
    """Judge models and baselines on these origins and record it all in MLflow.

    Builds the days it needs. chosen: names of models and baselines; none chosen are all of them.
    Raises WrongUsage: an origin whose window is not closed, too little history before it, or a name
    that nobody has.
    """
    models, baselines = _candidates(chosen)
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
    judged = judging.run(
        frame, labels, origins, horizon_days, models, baselines, learned_days=learned_days, say=say
    )
    say("Recording in MLflow")
    _open_mlflow(settings, urls, BACKTESTS)
    tags = {
        **_tags(settings, max(origins), horizon_days),
        "data_hash": _data_hash(frame, labels),
        "seed": str(judging.SEED),
    }
    with mlflow.start_run(run_name=f"{horizon_days} days from {max(origins)}", tags=tags):
        mlflow.log_params(
            {
                "horizon_days": horizon_days,
                "origins": _listed(origins),
                "candidates": ", ".join(judged.pooled),
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
    run trains weekly. Raises WrongUsage: too little history.
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
    with _history_may_be_short():
        origins = cutoffs.test_origins(known_until, history.first, horizon)
        learned_from = cutoffs.training_cutoffs(known_until, history.first, horizon)
        judged_on = cutoffs.backtest_days(origins, history.first, horizon)
    days = sorted({*learned_from, *judged_on})
    build(days, horizon)
    say("Reading features")
    frame, labels = _read_closed(urls, days, horizon)
    remembered, said = promotion.remembered(judging.MODELS[MODEL])
    models = {**judging.MODELS, MODEL: remembered}
    judged = judging.run(frame, labels, origins, horizon, models, say=say)
    say(f"Fitting {MODEL} on {len(learned_from)} days")
    learned = frame["as_of_date"].isin(pd.to_datetime(list(learned_from)))
    columns = lightgbm_hurdle.feature_columns(frame, labels)
    model = lightgbm_hurdle.fit(frame[learned], labels[learned], horizon)
    model = replace(model, intervals=_intervals(judged, said, labels, len(learned_from)))
    standing = _judge_champion(champion, model, judged, frame, labels, say)
    drawn = promotion.summed_tiers(said, labels, policy)
    frame, labels = frame[learned], labels[learned]
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
                **asdict(model.config),
            }
        )
        _log_input(frame, labels, "training")
        _log_scoreboard(judged, tags)
        _log_figures(judged)
        mlflow.log_figure(figures.importance(model), "figures/feature_importance.png")
        _log_explanation(model, frame)
        version = _register(model, frame, tags)
    _write_evaluation(urls, judged, policy, version)
    became, has_champion = _promote(urls, version, as_of, champion, verdict)
    return Trained(
        f"Version {version} of {REGISTERED} is registered{became} It learned from "
        f"{len(learned_from)} days, {learned_from[-1]} to {learned_from[0]}.",
        judged,
        has_champion,
    )


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
    """Score every customer of the day with the champion, draw the tiers, write both out of sight.

    Raises TierhouseError: no champion, a champion that knows later days, or a day not built.
    """
    refuse_days_outside(read_history(urls), [as_of])
    _open_mlflow(settings, urls)
    champion = _champion()
    if champion is None:
        raise TierhouseError(
            f"There is no champion model yet. Run `tierhouse train --as-of {as_of}` first."
        )
    if _trained_as_of(champion) > as_of:
        raise TierhouseError(
            f"The champion (version {champion.version}) learned from what happened up to "
            f"{_trained_as_of(champion)}, so its scores of {as_of} would know the future. Train "
            f"one as of that day in an installation of its own (TIERHOUSE_HOME), or score a "
            f"later day."
        )
    policy = _policy(settings)
    horizon = int(champion.tags["horizon_days"])
    say(f"Loading version {champion.version}")
    served, model = _load(champion)
    families = reasons.read_families()
    say("Scoring")
    texts = _texts_of(families)
    with exclusive(urls.warehouse, "build"):  # what is hashed is what is read
        input_hash = publishing.input_hash(urls, as_of)
        frame = _read_days(urls, [as_of], texts)
    version = publishing.Version(
        as_of_date=as_of,
        horizon_days=horizon,
        model_name=REGISTERED,
        model_version=str(champion.version),
        policy_version=policy.version,
        input_hash=input_hash,
    )
    predicted = served.predict(frame.drop(columns=["customer_id", *texts], errors="ignore"))
    spend = predicted["expected_spend"].round(2).to_numpy()
    low, high = (
        pa.array(predicted[f"expected_spend_{end}"].round(2), from_pandas=True)
        for end in ("low", "high")
    )
    drawn = tiers.assign(spend, frame["customer_id"].to_numpy(), policy)
    say("Finding the reasons")
    scores = pa.table({
        "customer_id": frame["customer_id"],
        "horizon_days": pa.array([horizon] * len(frame), pa.int32()),
        "expected_spend": spend,
        "expected_spend_low": low,
        "expected_spend_high": high,
        "purchase_probability": predicted["purchase_probability"].to_numpy(),
        "reasons": _reasons(model, frame, families),
    })  # fmt: skip
    written = pa.table({
        "customer_id": frame["customer_id"],
        "tier": drawn.tier,
        "tier_rank": pa.array(drawn.rank, pa.int32()),
        "expected_spend": spend,
    })  # fmt: skip
    seen = (
        "which nobody sees until it is published"
        if publishing.write_version(urls, version, scores, written)
        else "which is what analysts read already"
    )
    return (
        f"Scored {len(frame):,} customers of {as_of} with model version {champion.version} as "
        f"{version.version_id}, {seen}."
    )


def _load(champion: ModelVersion) -> tuple[PyFuncModel, lightgbm_hurdle.Model]:
    """The stored model as what answers, and as the boosters that its reasons come from.

    Raises TierhouseError: another version of Tierhouse stored it.
    """
    files = download_artifacts(f"models:/{REGISTERED}/{champion.version}")
    served = mlflow.pyfunc.load_model(files)
    data = served.metadata.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.DATA]
    try:
        return served, lightgbm_hurdle.from_files(Path(files) / data)
    except ValueError as error:
        raise TierhouseError(
            f"The champion (version {champion.version}) cannot be read: {error}."
        ) from None


def _reasons(
    model: lightgbm_hurdle.Model, frame: pd.DataFrame, families: reasons.Families
) -> pa.ChunkedArray:
    """Of each customer why they have their score, as the JSON that schema.sql describes.

    Part by part: contributions of all customers at once would not fit into memory.
    """
    parts = []
    for start in range(0, len(frame), reasons.ROWS_AT_ONCE):
        rows = frame.iloc[start : start + reasons.ROWS_AT_ONCE]
        moved = reasons.effects(model, rows, families, num_threads=os.cpu_count() or 1)
        found = reasons.top_reasons(rows, moved, families)
        said = [
            {"reason": family, "effect": float(f"{effect:.4g}"), "en": en, "zh": zh}
            for family, effect, en, zh in zip(
                found.family, found.effect, found.text_en, found.text_zh, strict=True
            )
        ]
        parts.append([
            json.dumps(said[first:end], ensure_ascii=False)
            for first, end in pairwise(found.offsets)
        ])  # fmt: skip
    return pa.chunked_array(parts, pa.string())


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


def _read_days(urls: Urls, days: Sequence[date], texts: Sequence[str] = ()) -> pd.DataFrame:
    """Features of these days: keys, then every feature as float64 (null is NaN).

    texts: columns of text to read too, where the table has them. Raises TierhouseError: a day is
    not built.
    """
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
    frame = _read_frame(
        urls,
        f"select customer_id, as_of_date::timestamp as as_of_date, {features} from {TABLE} "
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


def _read_closed(
    urls: Urls, days: Sequence[date], horizon_days: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features of closed days, and what came after, row by row."""
    frame = _read_days(urls, days)
    labels = _read_labels(urls, days, [horizon_days]).drop(columns="horizon_days")
    joined = frame[list(KEYS)].merge(labels, how="left", on=list(KEYS), validate="one_to_one")
    if joined["spend"].isna().any():
        raise TierhouseError(
            f"There are no labels of {horizon_days} days for {joined['as_of_date'].max():%Y-%m-%d}:"
            f" its window is not closed."
        )
    return frame, joined


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


def _read_frame(urls: Urls, query: str, *parameters: object) -> pd.DataFrame:
    return read_arrow(urls.warehouse, query, parameters).to_pandas(
        types_mapper={pa.string(): pd.StringDtype()}.get
    )


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


def _candidates(chosen: Sequence[str]) -> tuple[Estimators, Estimators]:
    """The models and the baselines of these names; without names all of them."""
    known = {**judging.MODELS, **judging.BASELINES}
    if unknown := [name for name in chosen if name not in known]:
        raise WrongUsage(f"There is no model {unknown[0]}. There are {', '.join(known)}.")
    wanted = set(chosen) or known.keys()
    models, baselines = (
        {name: estimator for name, estimator in group.items() if name in wanted}
        for group in (judging.MODELS, judging.BASELINES)
    )
    return models, baselines


def _data_hash(frame: pd.DataFrame, labels: pd.DataFrame) -> str:
    """Of all that was learned from and judged on: the same rows give the same scoreboard."""
    hashed = sha256()
    for rows in (frame, labels):
        hashed.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
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


def _log_explanation(model: lightgbm_hurdle.Model, frame: pd.DataFrame) -> None:
    """What moves the spend that the model expects, over customers of the newest day of frame."""
    newest = frame[frame["as_of_date"] == frame["as_of_date"].max()]
    some = newest.iloc[:: -(-len(newest) // EXPLAINED)]
    weights = reasons.importance(model, some, reasons.read_families())
    mlflow.log_figure(figures.reasons_importance(weights), "figures/reasons_importance.png")
    mlflow.log_figure(figures.dependence(model, some), "figures/dependence.png")


def _register(model: lightgbm_hurdle.Model, frame: pd.DataFrame, tags: dict[str, str]) -> str:
    """Store the model as LightGBM text and JSON, loaded by our own module: nothing is pickled."""
    inputs = frame.head(100).drop(columns=["customer_id"])
    served = lightgbm_hurdle.Served(model)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        lightgbm_hurdle.to_files(model, folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="ml.lightgbm_hurdle",
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
        REGISTERED, logged.model_uri, logged.run_id, tags, model_id=logged.model_id
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
            judging.MODELS[MODEL],
            promotion.as_judged(stored, judged_by, judged.learned_days, _refit(stored)),
            say,
        )
    return promotion.Champion(
        str(champion.version), knows_until, stored.features, metrics, gain, judged_by
    )


def _readable(champion: ModelVersion) -> lightgbm_hurdle.Model | None:
    """The stored model, None where an earlier Tierhouse wrote what this one cannot read."""
    try:
        return _load(champion)[1]
    except (MlflowException, OSError, TypeError, ValueError):
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
) -> tuple[str, bool]:
    """Move the alias if the gate says so, and keep the verdict; what became of the version, and
    whether there is a champion now."""
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
        return " and is the champion.", True
    refused = f". The gate refused it: {verdict.reasons}."
    if before is not None:
        return f"{refused} Version {before} stays champion.", True
    return (
        f"{refused} There is no champion to score with; `tierhouse promote {version}` makes this "
        f"one the champion all the same.",
        False,
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
