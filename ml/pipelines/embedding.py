"""What the sequence model sees of every customer, and who is alike."""

from dataclasses import asdict
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa

from ml import cutoffs, lookalikes
from ml.pipelines.reading import (
    Build,
    Say,
    closed_labels,
    history_may_be_short,
    is_built,
    listed,
    read_days,
    read_events,
    with_intent,
)
from ml.pipelines.registry import add_version, files_of, trained_as_of
from ml.pipelines.tracking import data_hash, log_input, open_mlflow, tags_of
from warehouse import embeddings, pseudonyms
from warehouse.building import read_history
from warehouse.connections import Urls
from warehouse.settings import Settings, TierhouseError

if TYPE_CHECKING:
    from ml import sequence_training

SEQUENCE = "customer_sequence"  # the same of the model behind embeddings


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

    if not is_built(urls, as_of):
        raise TierhouseError(
            f"The features of {as_of} are not built. Run `tierhouse build --as-of {as_of}` first."
        )
    open_mlflow(settings, urls, SEQUENCE)
    version = _newest_sequence(as_of, settings.horizon_days, max_age_days)
    if version is None:
        version = _train_sequence(settings, urls, as_of, build, say)
    say(f"Loading version {version} of {SEQUENCE}")
    model = _load_sequence(version)
    say("Reading features and events")
    frame, events = read_days(urls, [as_of]), read_events(urls, as_of)
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


def _newest_sequence(as_of: date, horizon_days: int, max_age_days: int | None) -> str | None:
    """The registered version that knows most and nothing later than the day, None without one."""
    found = mlflow.MlflowClient().search_model_versions(f"name='{SEQUENCE}'", max_results=1000)
    known = [
        (trained_as_of(version), int(version.version))
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
    with history_may_be_short():
        learned_from = cutoffs.training_cutoffs(known_until, history.first, horizon)
    build(sorted(learned_from), horizon)
    say("Reading features and events")
    frame, events = read_days(urls, learned_from), read_events(urls, learned_from[0])
    labels = with_intent(urls, closed_labels(urls, frame, horizon))
    losses: list[tuple[str, int, float]] = []

    def told(report: dict) -> None:
        stage, step = report["stage"], report["step"]
        say(f"{stage.capitalize()}: step {step} of {report['steps']}, loss {report['loss']:.3f}")
        losses.append((f"{stage}_loss".replace("-", "_"), step, report["loss"]))

    with history_may_be_short():
        model = sequence_training.fit(frame, labels, horizon, events, callback=told)
    say("Recording in MLflow")
    tags = tags_of(settings, as_of, horizon)
    tags["data_hash"] = data_hash(frame, labels, events)
    with mlflow.start_run(run_name=f"train {as_of}", tags=tags):
        network = asdict(model.config)
        mlflow.log_params({
            "as_of_date": as_of.isoformat(), "horizon_days": horizon,
            "cutoffs": listed(learned_from), **network.pop("network"), **network,
        })  # fmt: skip
        log_input(frame, labels, "training")
        every = max(-(-len(losses) // 500), 1)
        for name, step, loss in losses[::every]:
            mlflow.log_metric(name, loss, step=step)
        return _register_sequence(model, tags)


def _register_sequence(model: "sequence_training.Model", tags: dict[str, str]) -> str:
    from ml import sequence_training

    return add_version(
        SEQUENCE,
        "What embeddings are made by.",
        partial(sequence_training.to_files, model),
        loader="ml.sequence_serving",
        packages=("lightgbm", "numpy", "pandas", "pyarrow", "safetensors", "scipy", "torch"),
        tags=tags,
    )


def _load_sequence(version: str) -> "sequence_training.Model":
    """Raises TierhouseError: another version of Tierhouse stored it."""
    from ml import sequence_training

    files = files_of(SEQUENCE, version)
    try:
        return sequence_training.from_files(files)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TierhouseError(
            f"Version {version} of {SEQUENCE} cannot be read: {error}. Delete it from "
            f"MLflow, and `tierhouse embed` trains another one."
        ) from None
