"""Keep the reports of published days in MLflow, beside the models that they are about."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path

import mlflow

from ml.pipelines.tracking import open_mlflow, tags_of
from ml.reasons import read_families
from warehouse.connections import Urls
from warehouse.settings import Settings

REPORTS = "insight_reports"  # the experiment


def reason_names(language: str) -> dict[str, str]:
    """What the families of reasons are called, by their keys."""
    return {family.name: family.label[language] for family in read_families().all}


def keep_report(settings: Settings, urls: Urls, day: date, files: Iterable[Path]) -> None:
    """Keep a day's report: one run for each day, whose files are replaced."""
    open_mlflow(settings, urls, REPORTS)
    name = day.isoformat()
    found = mlflow.search_runs(
        experiment_names=[REPORTS],
        filter_string=f"tags.as_of_date = '{name}'",
        max_results=1,
        output_format="list",
    )
    run_id = found[0].info.run_id if found else None
    tags = tags_of(settings, day, settings.horizon_days)
    with mlflow.start_run(run_id, run_name=name, tags=tags):
        for file in files:
            mlflow.log_artifact(str(file))
