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
    events_of,
    events_until,
    history_may_be_short,
    is_built,
    listed,
    read_days,
    with_intent,
)
from ml.pipelines.registry import add_version, files_of, trained_as_of
from ml.pipelines.tracking import Curves, data_hash, log_input, open_mlflow, tags_of
from warehouse import embeddings, pseudonyms
from warehouse.building import read_history
from warehouse.connections import Urls
from warehouse.settings import Refused, Settings, TierhouseError

if TYPE_CHECKING:
    from ml import sequence_model, sequence_reasons

SEQUENCE = "customer_sequence"  # the same of the model behind embeddings


def embed(
    settings: Settings,
    urls: Urls,
    as_of: date,
    max_age_days: int | None,
    build: Build,
    say: Say,
    size: str = "small",
) -> str:
    """Write what the sequence model sees of every customer of the day, for look-alikes.

    With the newest registered version of this size (`sequence.SIZES`) that knows nothing later and
    is no older than `max_age_days`; where there is none, one is trained on the closed windows.
    Raises TierhouseError: a day not built. WrongUsage: too little history to train.
    """
    from ml import sequence_model

    if not is_built(urls, as_of):
        raise TierhouseError(
            f"The features of {as_of} are not built. Run `tierhouse build --as-of {as_of}` first."
        )
    open_mlflow(settings, urls, SEQUENCE)
    version = _newest_sequence(as_of, settings.horizon_days, max_age_days, size)
    if version is None:
        version = _train_sequence(settings, urls, as_of, build, say, size)
    say(f"Loading version {version} of {SEQUENCE}")
    model = _load_sequence(version)
    say("Reading features and events")
    frame = read_days(urls, [as_of])
    with events_until(settings, urls, as_of) as events:
        say("Embedding")
        try:
            vectors = sequence_model.embed(model, frame, events)
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
    day = _embedded_day(urls, as_of)
    known_as, _ = _embedded(urls, customer, day)
    found = embeddings.near(urls.reader, day, known_as, n)
    vectors = found["embedding"].combine_chunks()
    return lookalikes.nearest(
        found["customer_id"].to_numpy(),
        vectors.flatten().to_numpy().reshape(len(vectors), -1),
        known_as,
        n,
    )


def explain(
    settings: Settings, urls: Urls, customer: str, n: int, as_of: date | None, say: Say
) -> "sequence_reasons.Reasons":
    """Why the sequence model expects what it does of a customer, as `sequence_reasons.explain` says
    it: by the version that made their embedding.

    customer, as_of and what is raised: as in `look_alikes`.
    """
    day = _embedded_day(urls, as_of)
    known_as, version = _embedded(urls, customer, day)
    from ml import sequence_reasons  # torch: seconds that a customer nobody knows need not wait

    open_mlflow(settings, urls, SEQUENCE)
    say(f"Loading version {version} of {SEQUENCE}")
    model = _load_sequence(version)
    say("Reading features and events")
    frame = read_days(urls, [day], known_as)
    try:
        return sequence_reasons.explain(model, frame, events_of(urls, known_as, day), n)
    except ValueError as error:
        raise TierhouseError(f"Version {version} of {SEQUENCE}: {error}.") from None


def _embedded_day(urls: Urls, as_of: date | None) -> date:
    """The day, or the newest, if it has embeddings."""
    day = as_of or embeddings.newest_day(urls.reader)
    if day is None or not embeddings.is_there(urls.reader, day):
        raise TierhouseError(
            f"There are no embeddings{'' if day is None else f' of {day}'}. Run `tierhouse embed "
            f"--as-of {day or 'DAY'}` first."
        )
    return day


def _embedded(urls: Urls, customer: str, day: date) -> tuple[str, str]:
    """The pseudonym of a customer who has an embedding of the day, and the version it is of.

    customer: a pseudonym, or the shop's own identifier.
    """
    if version := embeddings.version_of(urls.reader, day, customer):
        return customer, version
    try:
        known_as = pseudonyms.look_up(urls.pii, customer)
    except Refused:
        raise
    except TierhouseError:
        raise TierhouseError(
            f"{customer!r} is neither a pseudonym with an embedding of {day} nor a customer's "
            f"identifier in the shop's own files. `tierhouse lookup IDENTIFIER` says a customer's "
            f'pseudonym; `tierhouse sql "select customer_id from analytics.customer_tiers limit '
            f'5"` shows some.'
        ) from None
    if version := embeddings.version_of(urls.reader, day, known_as):
        return known_as, version
    raise TierhouseError(
        f"Customer {customer} has no embedding of {day}: nothing was known of them on that "
        f"day. `--as-of DAY` asks about another one."
    )


def _newest_sequence(
    as_of: date, horizon_days: int, max_age_days: int | None, size: str = "small"
) -> str | None:
    """The registered version that knows most and nothing later than the day, None without one."""
    found = mlflow.MlflowClient().search_model_versions(f"name='{SEQUENCE}'", max_results=1000)
    known = [
        (trained_as_of(version), int(version.version))
        for version in found
        if "as_of_date" in version.tags
        and version.tags.get("horizon_days") == str(horizon_days)
        and version.tags.get("size", "small") == size
    ]
    oldest = date.min if max_age_days is None else as_of - timedelta(days=max_age_days)
    fitting = [(day, number) for day, number in known if oldest <= day <= as_of]
    return str(max(fitting)[1]) if fitting else None


def _train_sequence(
    settings: Settings, urls: Urls, as_of: date, build: Build, say: Say, size: str
) -> str:
    """Fit the transformer of this size on the windows closed by the day, and register it."""
    from ml import sequence, sequence_training, training_loop

    history, horizon = read_history(urls), settings.horizon_days
    known_until = min(as_of, history.last)
    with history_may_be_short():
        learned_from = cutoffs.training_cutoffs(known_until, history.first, horizon)
    build(sorted(learned_from), horizon)
    say("Reading features and events")
    frame = read_days(urls, learned_from)
    labels = with_intent(urls, closed_labels(urls, frame, horizon))
    tags = {**tags_of(settings, as_of, horizon), "size": size}
    config = training_loop.Config(network=sequence.SIZES[size])
    with events_until(settings, urls, learned_from[0]) as events:
        tags["data_hash"] = data_hash(frame, labels, events)
        with mlflow.start_run(run_name=f"train {as_of}", tags=tags, log_system_metrics=True):
            curves = Curves()

            def told(report: dict) -> None:
                left = timedelta(seconds=round(curves(report)))
                say(
                    f"{report['stage'].capitalize()}: step {report['step']} of {report['steps']}, "
                    f"loss {report['loss']:.3f}, {left} left"
                )

            with history_may_be_short():
                model = sequence_training.fit(frame, labels, horizon, events, config, callback=told)
            curves.flush()
            say("Recording in MLflow")
            network = asdict(model.config)
            mlflow.log_params({
                "as_of_date": as_of.isoformat(), "horizon_days": horizon,
                "cutoffs": listed(learned_from), **network.pop("network"), **network,
            })  # fmt: skip
            log_input(frame, labels, "training")
            return _register_sequence(model, tags)


def _register_sequence(model: "sequence_model.Model", tags: dict[str, str]) -> str:
    from ml import sequence_model

    return add_version(
        SEQUENCE,
        "What embeddings are made by.",
        partial(sequence_model.to_files, model),
        loader="ml.sequence_model",
        packages=("lightgbm", "numpy", "pandas", "pyarrow", "safetensors", "scipy", "torch"),
        tags=tags,
    )


def _load_sequence(version: str) -> "sequence_model.Model":
    """Raises TierhouseError: another version of Tierhouse stored it."""
    from ml import sequence_model

    files = files_of(SEQUENCE, version)
    try:
        return sequence_model.from_files(files)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise TierhouseError(
            f"Version {version} of {SEQUENCE} cannot be read: {error}. Delete it from "
            f"MLflow, and `tierhouse embed` trains another one."
        ) from None
