"""Read, call the pure core, record in MLflow, write. The only module of `ml` that does I/O."""

import contextlib
import logging
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version as installed_version
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from ml import backtest as judging
from ml import cutoffs, figures, lightgbm_hurdle, tiers
from ml.metrics import DIRECTIONS
from warehouse import publishing
from warehouse.building import read_history, refuse_days_outside, refuse_horizon
from warehouse.connections import Urls, connect, exclusive, make_database, read_arrow
from warehouse.settings import PROJECT, Settings, TierhouseError, WrongUsage

MODEL = "lightgbm_hurdle"
REGISTERED = "customer_value"  # the experiment and the registered model
ALIAS = "champion"
KEYS = ("customer_id", "as_of_date")
TABLE = "features.customer_features"
ABOUT = "Expected net spend and purchase probability of every customer of a day."

Say = Callable[[str], None]  # hears what comes next
Build = Callable[[Sequence[date]], None]  # builds the features of these days


@dataclass(frozen=True)
class Trained:
    """What training did; `backtest` is None when the champion was fresh enough."""

    message: str
    backtest: judging.Backtest | None


def backtest(
    urls: Urls, origins: Sequence[date], horizon_days: int, build: Build, say: Say
) -> judging.Backtest:
    """Judge the model beside the baselines on these origins; builds the days it needs.

    Raises WrongUsage: an origin whose window is not closed, or too little history before it.
    """
    refuse_horizon(horizon_days)
    history = read_history(urls)
    refuse_days_outside(history, origins)
    not_closed = [day for day in origins if (history.last - day).days < horizon_days]
    if not_closed:
        raise WrongUsage(
            f"What the {horizon_days} days from {not_closed[0]} brought is not known yet: the "
            f"newest order is of {history.last}. Choose earlier origins or a shorter horizon."
        )
    with _history_may_be_short():
        needed = cutoffs.backtest_days(origins, history.first, horizon_days)
    build(needed)
    say("Reading features")
    frame, labels = _read_closed(urls, needed, horizon_days)
    return judging.run(frame, labels, origins, horizon_days, say=say)


def train(
    settings: Settings, urls: Urls, as_of: date, max_age_days: int | None, build: Build, say: Say
) -> Trained:
    """Judge on closed windows, fit on all of them, register, and make the result the champion.

    A champion no older than `max_age_days` on `as_of` is kept, so that a daily run trains weekly.
    Raises WrongUsage: too little history.
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
    refuse_horizon(horizon)
    policy = _policy(settings)
    tags = _tags(settings, as_of, horizon)
    known_until = min(as_of, history.last)  # a window is closed when its last day is loaded
    with _history_may_be_short():
        origins = cutoffs.test_origins(known_until, history.first, horizon)
        learned_from = cutoffs.training_cutoffs(known_until, history.first, horizon)
        judged_on = cutoffs.backtest_days(origins, history.first, horizon)
    days = sorted({*learned_from, *judged_on})
    build(days)
    say("Reading features")
    frame, labels = _read_closed(urls, days, horizon)
    judged = judging.run(frame, labels, origins, horizon, say=say)
    say(f"Fitting {MODEL} on {len(learned_from)} days")
    learned = frame["as_of_date"].isin(pd.to_datetime(list(learned_from)))
    frame, labels = frame[learned], labels[learned]
    model = lightgbm_hurdle.fit(frame, labels, horizon)

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
        seen = frame.assign(spend=labels["spend"], is_purchased=labels["is_purchased"])
        dataset = from_pandas(
            seen, source=CodeDatasetSource({"table": TABLE}), name="closed_windows"
        )
        mlflow.log_input(dataset, context="training")
        _log_scoreboard(judged, tags)
        _log_figures(judged, model)
        version = _register(model, frame, tags)
    _write_evaluation(urls, judged, policy, version)
    promoted = _promote(urls, version, as_of)
    return Trained(
        f"Version {version} of {REGISTERED} is registered{promoted}. It learned from "
        f"{len(learned_from)} days, {learned_from[-1]} to {learned_from[0]}.",
        judged,
    )


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
    model = mlflow.pyfunc.load_model(f"models:/{REGISTERED}/{champion.version}")
    say("Scoring")
    with exclusive(urls.warehouse, "build"):  # what is hashed is what is read
        input_hash = publishing.input_hash(urls, as_of)
        frame = _read_days(urls, [as_of])
    version = publishing.Version(
        as_of_date=as_of,
        horizon_days=horizon,
        model_name=REGISTERED,
        model_version=str(champion.version),
        policy_version=policy.version,
        input_hash=input_hash,
    )
    predicted = model.predict(frame.drop(columns=list(KEYS)).assign(as_of_date=frame["as_of_date"]))
    spend = predicted["expected_spend"].round(2).to_numpy()
    drawn = tiers.assign(spend, frame["customer_id"].to_numpy(), policy)
    scores = pa.table({
        "customer_id": frame["customer_id"],
        "horizon_days": pa.array([horizon] * len(frame), pa.int32()),
        "expected_spend": spend,
        "purchase_probability": predicted["purchase_probability"].to_numpy(),
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


def _read_days(urls: Urls, days: Sequence[date]) -> pd.DataFrame:
    """Features of these days: keys, then every feature as float64 (null is NaN).

    Raises TierhouseError: a day is not built.
    """
    with connect(urls.warehouse) as connection:
        columns = connection.execute(
            "select column_name, case when data_type = 'boolean' then '::integer' else '' end "
            "from information_schema.columns where table_schema = 'features' "
            "and table_name = 'customer_features' and data_type not in ('text', 'date', "
            "'timestamp without time zone') order by ordinal_position"
        ).fetchall()
    features = ", ".join(f"{name}{step}::float8 as {name}" for name, step in columns)
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
    labels = _read_frame(
        urls,
        "select customer_id, as_of_date::timestamp as as_of_date, spend::float8 as spend, orders, "
        "is_purchased, is_high_value from features.customer_labels where horizon_days = $2 and "
        "as_of_date = any(string_to_array($1, ',')::date[])",
        _listed(days),
        horizon_days,
    )
    joined = frame[list(KEYS)].merge(labels, how="left", on=list(KEYS), validate="one_to_one")
    if joined["spend"].isna().any():
        raise TierhouseError(
            f"There are no labels of {horizon_days} days for {joined['as_of_date'].max():%Y-%m-%d}."
            f" The horizons that are built stand in dbt_project/dbt_project.yml (`horizons`); "
            f"build the days again after adding one."
        )
    return frame, joined


def _read_frame(urls: Urls, query: str, *parameters: object) -> pd.DataFrame:
    return read_arrow(urls.warehouse, query, parameters).to_pandas(
        types_mapper={pa.string(): pd.StringDtype()}.get
    )


def _listed(days: Sequence[date]) -> str:
    return ",".join(day.isoformat() for day in days)


def _open_mlflow(settings: Settings, urls: Urls) -> None:
    """Point MLflow at the server that is configured, or at the installation's own database."""
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
            experiment = mlflow.get_experiment_by_name(REGISTERED)
        if experiment is None:
            local = settings.mlflow_tracking_uri is None
            artifacts = (folder / "artifacts").as_uri() if local else None
            mlflow.create_experiment(REGISTERED, artifacts)
        mlflow.set_experiment(REGISTERED)
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


def _log_scoreboard(judged: judging.Backtest, tags: dict[str, str]) -> None:
    """One child run per model and baseline, so that MLflow's comparison page is the scoreboard.

    A metric's steps are the origins; the last step is the mean over them. Intervals and paired
    differences stand in scoreboard.json, where they do not bury the metrics themselves.
    """
    mlflow.log_dict(judged.to_json(), "scoreboard.json")
    mlflow.log_metrics(_points(judged.pooled[MODEL]))
    for name in judged.pooled:
        with mlflow.start_run(run_name=name, nested=True, tags={**tags, "model": name}):
            for step, origin in enumerate(judged.origins):
                mlflow.log_metrics(_points(origin.models[name]), step=step)
            mlflow.log_metrics(_points(judged.pooled[name]), step=len(judged.origins))


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _points(metrics: dict[str, float]) -> dict[str, float]:
    return _finite({name: metrics[name] for name in DIRECTIONS})


def _log_figures(judged: judging.Backtest, model: lightgbm_hurdle.Model) -> None:
    mlflow.log_figure(figures.calibration(judged), "figures/calibration_by_decile.png")
    mlflow.log_figure(figures.gain(judged), "figures/gain_curve.png")
    mlflow.log_figure(figures.importance(model), "figures/feature_importance.png")


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


def _promote(urls: Urls, version: str, as_of: date) -> str:
    with exclusive(urls.warehouse, "promote"):
        champion = _champion()  # anew: training takes a while, and may not be alone
        if champion is not None and _trained_as_of(champion) > as_of:
            return f", and version {champion.version}, which knows more, stays champion"
        mlflow.MlflowClient().set_registered_model_alias(REGISTERED, ALIAS, version)
    return " and is the champion"


def _write_evaluation(
    urls: Urls, judged: judging.Backtest, policy: tiers.Policy, version: str
) -> None:
    """Keep the scoreboard and the tiers of the newest origin where analysts can read them."""
    newest = judged.newest
    predicted = np.asarray(newest.predictions[MODEL].expected_spend)
    drawn = tiers.assign(predicted, newest.customer_id, policy)
    by_tier = tiers.summarise(drawn, predicted, newest.spend)
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
