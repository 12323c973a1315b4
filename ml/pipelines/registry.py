"""The registered versions of the model behind scores, and which of them is the champion."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, infer_signature
from psycopg.types.json import Jsonb

from ml import horizons, promotion
from ml.pipelines.tracking import REGISTERED, open_mlflow
from ml.promotion import Decision
from warehouse.connections import Urls, connect, exclusive
from warehouse.settings import PROJECT, Settings, TierhouseError, WrongUsage

ALIAS = "champion"
ABOUT = "Expected net spend and purchase probability of every customer of a day."
WITHOUT_CHAMPION = "Until there is a champion, `tierhouse score` does without a model."


def promote(settings: Settings, urls: Urls, version: str) -> str:
    """Make a registered version the champion by hand, whatever the gate said.

    Raises WrongUsage: there is no such version.
    """
    open_mlflow(settings, urls)
    with exclusive(urls.warehouse, "promote"):
        chosen = _version(version)
        champion = find_champion()
        if champion is not None and champion.version == chosen.version:
            return f"Version {version} of {REGISTERED} is the champion already: nothing changed."
        before = None if champion is None else str(champion.version)
        _keep_decision(
            urls,
            str(chosen.version),
            trained_as_of(chosen),
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
    open_mlflow(settings, urls)
    with exclusive(urls.warehouse, "promote"):
        champion = find_champion()
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
            trained_as_of(chosen),
            str(champion.version),
            Decision.rolled_back,
            "by hand",
            {},
        )
    return _now_champion(chosen, champion)


def promote_if_passed(
    urls: Urls,
    version: str,
    as_of: date,
    judged_against: ModelVersion | None,
    verdict: promotion.Verdict,
) -> str:
    """Move the alias if the gate says so, and keep the verdict; what became of the version."""
    client = mlflow.MlflowClient()
    with exclusive(urls.warehouse, "promote"):
        champion = find_champion()  # anew: training takes a while, and may not be alone
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


def find_champion() -> ModelVersion | None:
    try:
        return mlflow.MlflowClient().get_model_version_by_alias(REGISTERED, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise TierhouseError(
            f"MLflow does not say which model is the champion: {' '.join(str(error).split())[:300]}"
        ) from None


def trained_as_of(version: ModelVersion) -> date:
    return date.fromisoformat(version.tags["as_of_date"])


def register(
    outlook: horizons.Outlook, frame: pd.DataFrame, tags: dict[str, str], card: str
) -> str:
    """Store the models as LightGBM text and JSON, the network as safetensors; the number of the
    version."""
    signature, network = None, ("safetensors", "torch")
    if outlook.network is None:  # MLflow has no signature of a frame and a table of events together
        inputs = frame.head(100).drop(columns=["customer_id"])
        signature = infer_signature(inputs, horizons.Served(outlook).predict(inputs))
        network = ()
    return add_version(
        REGISTERED,
        ABOUT,
        partial(horizons.to_files, outlook),
        loader="ml.horizons",
        packages=("lightgbm", "numpy", "pandas", "pyarrow", "scipy", *network),
        tags=tags,
        signature=signature,
        card=card,
    )


def add_version(
    name: str,
    about: str,
    write: Callable[[Path], None],
    loader: str,
    packages: Sequence[str],
    tags: dict[str, str],
    signature: ModelSignature | None = None,
    card: str | None = None,
) -> str:
    """A version of a registered model, of the files that write(folder) leaves, in the run that is
    open. They are loaded by our own module: nothing is pickled."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        write(folder)
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module=loader,
            data_path=str(folder),
            code_paths=[str(PROJECT / "ml")],
            signature=signature,  # pyright: ignore[reportArgumentType]
            pip_requirements=[
                f"{package}=={installed_version(package).split('+')[0]}" for package in packages
            ],
        )
    client = mlflow.MlflowClient()
    with suppress(MlflowException):  # it is there already
        client.create_registered_model(name, description=about)
    version = client.create_model_version(
        name, logged.model_uri, logged.run_id, tags, model_id=logged.model_id, description=card
    )
    return str(version.version)


def files_of(name: str, version: str) -> Path:
    """The folder that was given to `add_version`, here."""
    files = Path(download_artifacts(f"models:/{name}/{version}"))
    return files / Model.load(files).flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.DATA]


def load(champion: ModelVersion) -> horizons.Outlook:
    """Raises TierhouseError: another version of Tierhouse stored it."""
    files = files_of(REGISTERED, str(champion.version))
    try:
        return horizons.from_files(files)
    except (ValueError, TypeError, KeyError) as error:
        raise TierhouseError(
            f"The champion (version {champion.version}) cannot be read: {error}."
        ) from None


def readable(champion: ModelVersion) -> horizons.Outlook | None:
    """What is stored, None where an earlier Tierhouse wrote what this one cannot read."""
    try:
        return load(champion)
    except (MlflowException, OSError, TierhouseError):
        return None


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
        f"Version {chosen.version} of {REGISTERED}, as of {trained_as_of(chosen)}, is the "
        f"champion{instead}. The next `tierhouse score` uses it; what analysts read changes when "
        f"that is published."
    )
