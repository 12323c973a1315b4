"""What the pipelines leave in MLflow: runs, their tags, scoreboards and figures."""

import contextlib
import logging
import shutil
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.pandas_dataset import from_pandas
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from ml import backtest as judging
from ml import figures, tier_evaluation
from ml.classifiers import CLASSIFIERS
from ml.metrics import DIRECTIONS
from ml.pipelines.reading import KEYS, TABLE
from ml.streams import Streams
from ml.tier_evaluation import TierResult
from warehouse.connections import Urls, make_database
from warehouse.settings import PROJECT, Settings, TierhouseError, ValueModel

REGISTERED = "customer_value"  # the experiment of training and the registered model


def open_mlflow(settings: Settings, urls: Urls, name: str = REGISTERED) -> None:
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


def tags_of(settings: Settings, as_of: date, horizon_days: int) -> dict[str, str]:
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


def data_hash(frame: pd.DataFrame, labels: pd.DataFrame, events: Streams | None = None) -> str:
    """Of all that was learned from and judged on: the same rows give the same scoreboard."""
    hashed = sha256()
    for rows in (frame, labels):
        hashed.update(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())
    for values in () if events is None else vars(events).values():
        hashed.update(np.ascontiguousarray(values).tobytes())
    return hashed.hexdigest()


def log_input(frame: pd.DataFrame, labels: pd.DataFrame, context: str) -> None:
    whole = labels.select_dtypes("integer").columns  # MLflow warns of integers: nulls are floats
    seen = frame.merge(labels.astype(dict.fromkeys(whole, float)), on=list(KEYS))
    source = CodeDatasetSource({"table": TABLE})
    mlflow.log_input(from_pandas(seen, source=source, name="closed_windows"), context=context)


class Curves:
    """What a training tells of its steps, as metrics of the run that is open.

    By stage: the loss, its parts, the loss of the customers held out, the learning rate and the
    examples a second, at about POINTS of the steps. They are sent many at a time: each sending is
    an errand to the server.
    """

    POINTS = 500
    MOST = 1_000  # that MLflow takes at once

    def __init__(self) -> None:
        self._kept: list[Metric] = []
        self._stage, self._first_step = "", 0
        self._began = self._last = time.perf_counter()

    def __call__(self, report: Mapping[str, Any]) -> float:
        """Keep a step of `training_loop`; the seconds that are left of its stage."""
        now, step, stage = time.perf_counter(), report["step"], report["stage"]
        if stage != self._stage:
            self._stage, self._first_step, self._began = stage, step - 1, self._last
        told = {k: v for k, v in report.items() if "loss" in k or k == "learning_rate"}
        told["examples_per_second"] = report["examples"] / max(now - self._last, 1e-9)
        self._last = now
        if step % -(-report["steps"] // self.POINTS) == 0 or "validation_loss" in report:
            prefix, at = stage.replace("-", "_"), int(time.time() * 1000)
            new = [Metric(f"{prefix}_{name}", value, at, step) for name, value in told.items()]
            if len(self._kept) + len(new) > self.MOST:
                self.flush()
            self._kept += new
        return (now - self._began) / (step - self._first_step) * (report["steps"] - step)

    def flush(self) -> None:
        """Send what is kept."""
        run = mlflow.active_run()
        if run is not None and self._kept:
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=self._kept)
        self._kept = []


def log_scoreboard(
    judged: judging.Backtest, tags: dict[str, str], name: str = ValueModel.lightgbm_hurdle
) -> None:
    """One child run per candidate and origin, and one of its means, so that MLflow's comparison
    page is the scoreboard. All metrics have the same names everywhere; the run itself has those of
    the candidate of this name, if it was judged.

    Intervals and paired differences stand in scoreboard.json, where they do not bury the metrics
    themselves.
    """
    mlflow.log_dict(judged.to_json(), "scoreboard.json")
    if name in judged.pooled:
        mlflow.log_metrics(_points(judged.pooled[name]))
    of_origins = {origin.as_of_date.isoformat(): origin.models for origin in judged.origins}
    for origin, models in {**of_origins, "pooled": judged.pooled}.items():
        for one, metrics in models.items():
            told = {**tags, "model": str(one), "origin": origin}
            with mlflow.start_run(run_name=f"{one} {origin}", nested=True, tags=told):
                mlflow.log_metrics(_points(metrics))


def log_figures(judged: judging.Backtest, name: str = ValueModel.lightgbm_hurdle) -> None:
    """Of the candidate of this name, or of the first one where it was not judged."""
    newest = judged.newest
    name = name if name in newest.predictions else next(iter(newest.predictions))
    mlflow.log_figure(figures.gain(judged, name), "figures/gain_curve.png")
    if newest.predictions[name].expected_spend is not None:
        mlflow.log_figure(figures.calibration(judged, name), "figures/calibration_by_decile.png")
    if newest.high_value is not None:
        asked = [name, *(one for one in CLASSIFIERS if one in newest.predictions)]
        mlflow.log_figure(figures.roc(judged, asked), "figures/high_value_roc.png")
        mlflow.log_figure(figures.confusion(judged, asked), "figures/high_value_confusion.png")


def log_tiers(windows: Mapping[date, Sequence[TierResult]]) -> None:
    """The tiers of every window as a table, what they are worth as metrics, and their figure."""
    rows = [
        {"as_of_date": day.isoformat(), **asdict(row)} for day in windows for row in windows[day]
    ]
    mlflow.log_table(pd.DataFrame(rows), "tiers.json")
    mlflow.log_metrics(finite(tier_evaluation.metrics(windows)))
    mlflow.log_figure(figures.tiers(windows), "figures/tiers.png")


def finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if np.isfinite(value)}


def _points(metrics: dict[str, float]) -> dict[str, float]:
    return finite({name: metrics[name] for name in DIRECTIONS})
