"""Judge, fit, register and ask the gate; and look for better settings of the trees."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.artifacts import load_dict
from mlflow.entities.model_registry import ModelVersion

from ml import backtest as judging
from ml import (
    curves,
    cutoffs,
    figures,
    horizons,
    intervals,
    lightgbm_hurdle,
    model_card,
    promotion,
    reasons,
    sufficiency,
    tier_evaluation,
    tuning,
)
from ml.baselines import Estimator
from ml.pipelines.policies import read_policy
from ml.pipelines.reading import (
    KEYS,
    Build,
    Say,
    closed_labels,
    events_until,
    history_may_be_short,
    listed,
    read_days,
    read_labels,
)
from ml.pipelines.registry import (
    WITHOUT_CHAMPION,
    find_champion,
    promote_if_passed,
    readable,
    register,
    trained_as_of,
)
from ml.pipelines.tracking import (
    REGISTERED,
    data_hash,
    finite,
    log_figures,
    log_input,
    log_scoreboard,
    log_tiers,
    open_mlflow,
    tags_of,
)
from ml.streams import Streams
from ml.sufficiency import Rung
from ml.tier_evaluation import TierResult
from ml.tier_policy import Policy
from warehouse.building import read_history
from warehouse.connections import Urls, connect
from warehouse.settings import Settings, ValueModel
from warehouse.versions import keep_policy

if TYPE_CHECKING:
    from ml import hybrid, sequence_model

TUNINGS = "customer_value_tuning"
EXPLAINED = 2_000  # customers whom the figures of a training explain


@dataclass(frozen=True)
class Trained:
    """What training did; `backtest` is None when the champion was fresh enough, or the shop has too
    little data for a model."""

    message: str
    backtest: judging.Backtest | None


def train(
    settings: Settings, urls: Urls, as_of: date, max_age_days: int | None, build: Build, say: Say
) -> Trained:
    """Judge on closed windows, fit on all of them, register, and ask the gate about the alias.

    What the gate (`ml.promotion`) passes becomes the champion; what it refuses is registered, and
    the champion stays. A champion no older than `max_age_days` on `as_of` is kept, so that a daily
    run trains weekly. Where the data are too little for a model (`ml.sufficiency`) none is trained.
    """
    history = read_history(urls)
    open_mlflow(settings, urls)
    champion = find_champion()
    if champion is not None and max_age_days is not None:
        trained_on = trained_as_of(champion)
        if 0 <= (as_of - trained_on).days <= max_age_days:
            return Trained(
                f"The champion (version {champion.version}, as of {trained_on}) is fresh enough "
                f"as of {as_of}: nothing to train.",
                None,
            )

    horizon = settings.horizon_days
    policy = read_policy(settings)
    known_until = min(as_of, history.last)  # a window is closed when its last day is loaded
    origins, learned_from, days = _days_of_training(known_until, history.first, horizon)
    build(days, horizon)
    say("Reading features")
    everything = read_days(urls, days)
    report = _assess(urls, everything, known_until, history.first, horizon)
    if report.rung != Rung.lightgbm_hurdle:
        return Trained(f"{sufficiency.to_text(report)}\n\n{WITHOUT_CHAMPION}", None)
    frame = everything[everything["as_of_date"] <= pd.Timestamp(learned_from[0])]
    frame = frame.reset_index(drop=True)
    labels = closed_labels(urls, frame, horizon)
    is_learned = frame["as_of_date"].isin(pd.to_datetime(list(learned_from)))
    trees, where_from = _settings_of_trees(horizon, min(origins))
    stored = None if champion is None else readable(champion)
    name = settings.value_model
    with _events(settings, urls, known_until, name, stored) as events:
        kind = _Kind(name, trees, events, say)
        say(f"Judging on {len(origins)} windows")
        judged = _judge(kind, frame, labels, origins, horizon, policy)
        say(f"Fitting {name} on {len(learned_from)} days")
        model, network = kind.fit(frame[is_learned], labels[is_learned], horizon)
        found = _intervals(judged.board, judged.told, len(learned_from))
        say("Fitting the other horizons")
        outlook = horizons.fit(
            replace(model, intervals=found),
            everything,
            read_labels(urls, days, horizons.HORIZONS),
            known_until,
            network,
        )
        del everything
        standing = None
        if champion is not None and stored is not None:
            standing = _judge_champion(champion, stored, outlook, kind, judged, frame, labels)
        is_newest = (frame["as_of_date"] == pd.Timestamp(learned_from[0])).to_numpy()
        newest = frame[is_newest].reset_index(drop=True)
        newest = horizons.widened(outlook, newest, events)
    drawn = tier_evaluation.evaluate_windows(judged.said, labels, policy)
    verdict = promotion.decide(
        promotion.Case(
            board=judged.board,
            name=name,
            challenger=promotion.Challenger(
                horizon,
                outlook.asked.features,
                promotion.ask(lambda said, day: horizons.predict(said, day).asked, outlook, newest),
                as_of,
            ),
            horizon_days=horizon,
            learned_days=horizon,
            columns=lightgbm_hurdle.feature_columns(frame, labels),
            tiers=tier_evaluation.summed(drawn.values()),
            champion=standing,
            over_simpler=judged.over_trees,
        )
    )
    frame, labels = frame[is_learned], labels[is_learned]

    say("Recording in MLflow")
    tags = {**tags_of(settings, as_of, horizon), "value_model": str(name)}
    with mlflow.start_run(run_name=f"train {as_of}", tags=tags):
        mlflow.log_params(
            {
                "as_of_date": as_of.isoformat(),
                "horizon_days": horizon,
                "origins": listed(origins),
                "cutoffs": listed(learned_from),
                "settings": where_from,
                **asdict(trees),
            }
        )
        mlflow.log_text(sufficiency.to_markdown(report), "sufficiency.md")
        log_input(frame, labels, "training")
        log_scoreboard(judged.board, tags, name)
        log_figures(judged.board, name)
        log_tiers(drawn)
        mlflow.log_figure(figures.importance(outlook.asked), "figures/feature_importance.png")
        _log_explanation(outlook.asked, newest)
        card = model_card.to_markdown(outlook, judged.board, name, as_of, learned_from, report)
        mlflow.log_text(card, "model_card.md")
        version = register(outlook, frame, tags, card)
    _write_evaluation(urls, judged.board, drawn, policy, version)
    became = promote_if_passed(urls, version, as_of, champion, verdict)
    return Trained(
        f"Version {version} of {REGISTERED}, a {name}, is registered{became} It learned from "
        f"{len(learned_from)} days, {learned_from[-1]} to {learned_from[0]}.",
        judged.board,
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
    horizon, known_until = settings.horizon_days, min(as_of, history.last)
    with history_may_be_short():
        not_after = min(cutoffs.test_origins(known_until, history.first, horizon))
        origins = tuning.tuning_origins(not_after, history.first, horizon)
        days = cutoffs.backtest_days(origins, history.first, horizon)
    build(days, horizon)
    say("Reading features")
    frame = read_days(urls, days)
    labels = closed_labels(urls, frame, horizon)
    found = tuning.tune(
        frame, labels, origins, horizon,
        not_after=not_after, seconds=seconds, trials=trials, say=say,
    )  # fmt: skip
    say("Recording in MLflow")
    open_mlflow(settings, urls, TUNINGS)
    tags = {**tags_of(settings, as_of, horizon), "data_hash": data_hash(frame, labels)}
    with mlflow.start_run(run_name=f"tune {as_of}", tags={**tags, "tuned": "true"}):
        mlflow.log_params({"origins": listed(origins), **asdict(found.config)})
        mlflow.log_metrics(
            {"score": found.score, "default_score": found.default_score, "gain": found.gain}
        )
        mlflow.log_dict(tuning.to_json(found), "tuned.json")
        for number, trial in enumerate(found.tried):
            with mlflow.start_run(run_name=f"trial {number}", nested=True, tags=tags):
                mlflow.log_params(asdict(trial.config))
                mlflow.log_metric("score", trial.score)
    return tuning.summary(found)


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
    labels = read_labels(urls, [newest], [horizon_days])
    return sufficiency.assess(
        today, None if labels.empty else labels, known_until, first_day, horizon_days
    )


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


@contextlib.contextmanager
def _events(
    settings: Settings,
    urls: Urls,
    until: date,
    name: ValueModel,
    stored: horizons.Outlook | None,
) -> Iterator[Streams | None]:
    """All events known on the day, None where neither the model of this name nor the champion reads
    any."""
    if name == ValueModel.hybrid or (stored is not None and stored.network is not None):
        with events_until(settings, urls, until) as events:
            yield events
    else:
        yield None


@dataclass(frozen=True)
class _Kind:
    """A kind of value model with these settings of its trees. events: where it reads them."""

    name: ValueModel
    trees: lightgbm_hurdle.Config
    events: Streams | None
    say: Say

    @cached_property
    def estimator(self) -> Estimator:
        if self.name == ValueModel.lightgbm_hurdle or self.events is None:
            return judging.hurdle(self.trees)
        return judging.on_events([self.name], self.events, self.say, self.trees)[self.name]

    def fit(
        self, frame: pd.DataFrame, labels: pd.DataFrame, horizon_days: int
    ) -> tuple[lightgbm_hurdle.Model, "sequence_model.Model | None"]:
        """The trees, and the network beside them."""
        fitted = self.estimator.fit(frame, labels, horizon_days)
        if isinstance(fitted, lightgbm_hurdle.Model):
            return fitted, None
        return fitted.trees, fitted.network


@dataclass(frozen=True)
class _Judged:
    """board: with coverage. said: of every window, as `promotion.remembered` keeps it. told: the
    same in one frame, with what was spent. again: says it once more without fitting. over_trees:
    the gain over the trees on the features alone, nothing of them themselves."""

    board: judging.Backtest
    said: list[pd.DataFrame]
    told: pd.DataFrame
    again: Estimator
    over_trees: judging.Metrics


def _judge(
    kind: _Kind,
    frame: pd.DataFrame,
    labels: pd.DataFrame,
    origins: Sequence[date],
    horizon_days: int,
    policy: Policy,
) -> _Judged:
    """The model beside the baselines and, where it is more than trees, beside these."""
    estimator, again = promotion.recorded(kind.estimator)
    estimator, said = promotion.remembered(estimator, policy.columns)
    trees, trees_again = promotion.recorded(judging.hurdle(kind.trees))
    models = {str(ValueModel.lightgbm_hurdle): trees, str(kind.name): estimator}
    board = judging.run(frame, labels, origins, horizon_days, models, say=kind.say)
    over_trees: judging.Metrics = {}
    if kind.name != ValueModel.lightgbm_hurdle:
        _, over_trees = promotion.compare(board, kind.name, frame, labels, again, trees_again)
    told = pd.concat(said).merge(labels[[*KEYS, "spend"]], on=list(KEYS))
    coverage = intervals.held_out_coverage(told, horizon_days)
    return _Judged(_with_coverage(board, kind.name, coverage), said, told, again, over_trees)


def _intervals(
    judged: judging.Backtest, told: pd.DataFrame, now: int
) -> intervals.Intervals | None:
    """From what the backtest's models said of windows that they had not seen; None where the shop
    is too small. told: as `intervals.held_out_coverage` has it. now: the training windows of the
    model."""
    used = intervals.windows_to_use(
        {origin.as_of_date: len(origin.training_cutoffs) for origin in judged.origins}, now
    )
    told = told[told["as_of_date"].isin(pd.to_datetime(used))]
    columns = ("expected_spend", "purchase_probability", "spend", "as_of_date")
    try:
        return intervals.fit(*(told[name].to_numpy() for name in columns))
    except ValueError:
        return None


def _with_coverage(judged: judging.Backtest, name: str, coverage: float) -> judging.Backtest:
    """The board, on which the model has a coverage: of the newest window, which is the only one
    with closed windows before it to learn intervals from."""
    newest = judged.origins[-1]
    models = {**newest.models, name: {**newest.models[name], "coverage": coverage}}
    return replace(
        judged,
        origins=(*judged.origins[:-1], replace(newest, models=models)),
        pooled={**judged.pooled, name: {**judged.pooled[name], "coverage": coverage}},
    )


def _judge_champion(
    champion: ModelVersion,
    stored: horizons.Outlook,
    challenger: horizons.Outlook,
    kind: _Kind,
    judged: _Judged,
    frame: pd.DataFrame,
    labels: pd.DataFrame,
) -> promotion.Champion:
    """The champion, which is stored, on the challenger's windows."""
    board, knows_until = judged.board, trained_as_of(champion)
    columns = lightgbm_hurdle.feature_columns(frame, labels)
    judged_by = promotion.how_judged(
        [origin.as_of_date for origin in board.origins],
        board.horizon_days,
        columns,
        stored.asked.features,
        stored.asked_days,
        knows_until,
    )
    is_refresh = (
        set(judged_by.values()) == {promotion.REFIT}
        and stored.asked.config == challenger.asked.config
        and set(stored.asked.features) == set(columns)
        and _settings_of_network(stored) == _settings_of_network(challenger)
    )
    if is_refresh:
        metrics, gain = promotion.no_difference(board, kind.name)
    else:
        refit = _refit(stored, kind)
        metrics, gain = promotion.compare(
            board,
            kind.name,
            frame,
            labels,
            judged.again,
            promotion.as_judged(_value_model(stored), judged_by, board.learned_days, refit),
            kind.say,
        )
    return promotion.Champion(
        str(champion.version), knows_until, stored.asked.features, metrics, gain, judged_by
    )


def _settings_of_network(outlook: horizons.Outlook) -> object:
    return None if outlook.network is None else outlook.network.config


def _value_model(outlook: horizons.Outlook) -> "lightgbm_hurdle.Model | hybrid.Model":
    """The asked model, as its estimator predicts with it."""
    if outlook.network is None:
        return outlook.asked
    from ml import hybrid

    return hybrid.Model(outlook.network, outlook.asked)


def _refit(stored: horizons.Outlook, kind: _Kind) -> Estimator:
    """The stored model's configuration and columns, fitted to whatever frame comes."""
    name = ValueModel.lightgbm_hurdle if stored.network is None else ValueModel.hybrid
    estimator = replace(kind, name=name, trees=stored.asked.config).estimator

    def fit(frame: pd.DataFrame, labels: pd.DataFrame, horizon_days: int) -> Any:
        columns = lightgbm_hurdle.feature_columns(frame, labels)
        known = frame.drop(columns=[name for name in columns if name not in stored.asked.features])
        return estimator.fit(known, labels, horizon_days)

    return Estimator(fit, estimator.predict)


def _log_explanation(model: lightgbm_hurdle.Model, newest: pd.DataFrame) -> None:
    """What moves the spend that the model expects, over customers of a day."""
    some = newest.iloc[:: -(-len(newest) // EXPLAINED)]
    weights = reasons.importance(model, some, reasons.read_families())
    mlflow.log_figure(figures.reasons_importance(weights), "figures/reasons_importance.png")
    mlflow.log_figure(figures.dependence(model, some), "figures/dependence.png")


def _write_evaluation(
    urls: Urls,
    judged: judging.Backtest,
    drawn: Mapping[date, Sequence[TierResult]],
    policy: Policy,
    version: str,
) -> None:
    """Keep the scoreboard and the tiers of every origin where analysts can read them."""
    keep_policy(urls, policy.version, policy.to_json())
    metrics = [
        (name, origin, metric, value)
        for origin, models in (
            (None, judged.pooled),
            *((origin.as_of_date, origin.models) for origin in judged.origins),
        )
        for name, of_model in models.items()
        for metric, value in finite(of_model).items()
    ]
    with connect(urls.warehouse) as connection, connection.cursor() as cursor:
        for table in ("tier_evaluation", "model_metrics"):  # a new MLflow begins with 1 again
            cursor.execute(
                f"delete from scores.{table} where model_name = %s and model_version = %s".encode(),
                [REGISTERED, version],
            )
        cursor.executemany(
            "insert into scores.tier_evaluation (model_name, model_version, policy_version, "
            "as_of_date, tier, tier_rank, customers, expected_spend, realised_spend, "
            "expected_buyers, buyers, truly_top) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            [
                (REGISTERED, version, policy.version, day, *astuple(row))
                for day, rows in drawn.items()
                for row in rows
            ],
        )
        cursor.executemany(
            "insert into scores.model_metrics values (%s, %s, %s, %s, %s, %s, %s)",
            [(REGISTERED, version, judged.horizon_days, *row) for row in metrics],
        )
        cursor.execute(
            "delete from scores.model_curves where model_name = %s and model_version = %s",
            [REGISTERED, version],
        )
        cursor.executemany(
            "insert into scores.model_curves values (%s, %s, %s, %s, %s, %s, %s)",
            [(REGISTERED, version, *point) for point in curves.points(judged)],
        )
