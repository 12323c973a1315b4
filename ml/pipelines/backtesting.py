"""Judge the models beside the baselines on past days."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import date

import mlflow
import pandas as pd

from ml import backtest as judging
from ml import cutoffs, promotion, tier_evaluation
from ml.baselines import Estimator
from ml.pipelines.policies import read_policy
from ml.pipelines.reading import (
    Build,
    Say,
    events_until,
    history_may_be_short,
    listed,
    read_days,
    read_labels,
)
from ml.pipelines.tracking import (
    data_hash,
    log_figures,
    log_input,
    log_scoreboard,
    log_tiers,
    open_mlflow,
    tags_of,
)
from warehouse.building import read_history
from warehouse.connections import Urls
from warehouse.settings import Settings, ValueModel, WrongUsage

TREES = ValueModel.lightgbm_hurdle
BACKTESTS = "customer_value_backtests"
Estimators = Mapping[str, Estimator]


def newest_origins(urls: Urls, as_of: date, horizon_days: int) -> Sequence[date]:
    """The newest days whose windows were closed on `as_of`.

    Raises WrongUsage: too little history for them.
    """
    history = read_history(urls)
    with history_may_be_short():
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

    Builds the days it needs. origins: days of the history whose windows are closed. chosen: names
    of models and baselines; none chosen are all of them but those of judging.ON_EVENTS.
    label_share: of the customers whose labels are learned from. Raises WrongUsage: too little
    history before an origin, or a name that nobody has.
    """
    models, baselines, on_events = _candidates(chosen)
    history = read_history(urls)
    policy = read_policy(settings)
    learned_days = cutoffs.learned_horizon(min(origins), history.first, horizon_days)
    with history_may_be_short():
        needed = cutoffs.backtest_days(origins, history.first, learned_days)
    build(needed, horizon_days)
    say("Reading features")
    frame = read_days(urls, needed)
    labels = read_labels(urls, needed, [horizon_days, learned_days])
    said: list[pd.DataFrame] = []
    if TREES in models:
        estimator, said = promotion.remembered(models[TREES], policy.columns)
        models = {**models, TREES: estimator}
    with contextlib.ExitStack() as files:
        events = None
        if on_events:
            say("Reading events")
            events = files.enter_context(events_until(settings, urls, max(needed)))
            models = {**models, **judging.on_events(on_events, events, say)}
        if label_share < 1:
            models, baselines = (
                {name: judging.of_share(one, label_share) for name, one in group.items()}
                for group in (models, baselines)
            )
        judged = judging.run(
            frame, labels, origins, horizon_days, models, baselines,
            learned_days=learned_days, say=say,
        )  # fmt: skip
        hashed = data_hash(frame, labels, events)
    say("Recording in MLflow")
    open_mlflow(settings, urls, BACKTESTS)
    tags = {
        **tags_of(settings, max(origins), horizon_days),
        "data_hash": hashed,
        "seed": str(judging.SEED),
    }
    with mlflow.start_run(run_name=f"{horizon_days} days from {max(origins)}", tags=tags):
        mlflow.log_params(
            {
                "horizon_days": horizon_days,
                "origins": listed(origins),
                "candidates": ", ".join(judged.pooled),
                "label_share": label_share,
            }
        )
        log_input(frame, labels, "evaluation")
        log_scoreboard(judged, tags)
        log_figures(judged)
        if said:
            of_horizon = labels[labels["horizon_days"] == horizon_days]
            log_tiers(tier_evaluation.evaluate_windows(said, of_horizon, policy))
    return judged


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
