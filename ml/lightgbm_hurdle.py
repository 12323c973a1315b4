"""Expected spend as P(buy) x E[spend | buys], two LightGBM models. No clock, no MLflow, no pickle.

The amount is a Tweedie regression on the buyers: its mean is right without smearing, and a few
enormous customers weigh less than under squared error. Trees cannot see a season they were not
shown, so where the shop's history reaches back a year the total of a day is set to what the same
window of last year brought, times how the latest closed training window compared with its own last
year (a seasonal naive forecast with drift: Hyndman & Athanasopoulos, "Forecasting: principles and
practice", 5.2). The trees then say who spends it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd

from ml.metrics import Prediction

Frame = pd.DataFrame

KEYS = ("customer_id", "as_of_date", "horizon_days")
FORMAT = 1


@dataclass(frozen=True)
class Config:
    """num_threads is part of the result: sums of floats depend on how the rows are shared out.

    One thread by default. On a machine whose cores are busy with something else LightGBM's threads
    wait for each other at every split: two were measured at up to seven times the time of one.
    """

    rounds: int = 200
    learning_rate: float = 0.04
    num_leaves: int = 15
    min_data_in_leaf: int = 40
    feature_fraction: float = 0.7
    bagging_fraction: float = 0.8
    lambda_l2: float = 1.0
    tweedie_variance_power: float = 1.5
    season_limit: float = 3.0
    seed: int = 0
    num_threads: int = 1


@dataclass(frozen=True)
class Model:
    """features: columns in the order the boosters know them.

    calibration: actual over predicted spend of the training rows (returns lower it).
    last_year_column: the column with the same window of last year, None where there is none for
    this horizon. growth: spend of the latest closed training window over that of its last year, 1
    where not known.
    """

    purchase: lgb.Booster
    amount: lgb.Booster
    features: tuple[str, ...]
    horizon_days: int
    calibration: float
    last_year_column: str | None
    growth: float
    config: Config


def fit(
    frame: Frame,
    labels: Frame,
    horizon_days: int,
    config: Config = Config(),
) -> Model:
    """Learn from closed windows; frame and labels are row by row the same customers and days.

    The order of the rows changes nothing. labels: spend, is_purchased. Every numeric column of the
    frame that is no key or label is a feature. Raises ValueError where no customer bought, or all
    of what they bought went back: there is nothing to learn an amount from.
    """
    features = feature_columns(frame, labels)
    keys = frame[["as_of_date", "customer_id"]].reset_index(drop=True)
    order = keys.sort_values(["as_of_date", "customer_id"], kind="stable").index.to_numpy()
    values = _matrix(frame, features)[order]
    purchased = labels["is_purchased"].to_numpy(dtype=bool)[order]
    spend = labels["spend"].to_numpy(dtype=float)[order]
    if not np.clip(spend[purchased], 0, None).sum() > 0:
        raise ValueError(
            f"none of the {len(frame)} training rows has an order in its {horizon_days} days that "
            "was paid and kept; load more history, or use a baseline"
        )
    purchase = _boost({"objective": "binary"}, values, purchased.astype(float), features, config)
    amount = _boost(
        {"objective": "tweedie", "tweedie_variance_power": config.tweedie_variance_power},
        values[purchased],
        np.clip(spend[purchased], 0, None),
        features,
        config,
    )
    fitted = _answers(purchase, values, config) * _answers(amount, values, config)
    total = float(spend.sum())
    last_year_column: str | None = f"spend_same_window_last_year_{horizon_days}d"
    if last_year_column not in frame:
        last_year_column = None
    return Model(
        purchase,
        amount,
        features,
        horizon_days,
        calibration=total / float(fitted.sum()) if total > 0 else 1.0,
        last_year_column=last_year_column,
        growth=_growth(frame, labels, last_year_column),
        config=config,
    )


def predict(model: Model, frame: Frame) -> Prediction:
    """Expected spend and purchase probability of the frame's customers over the model's horizon.

    frame: the whole population of a day, or of several days, because the season is a truth about
    the shop and not about a customer. Raises ValueError where a column that the model was trained
    on is missing.
    """
    values = _matrix(frame, model.features)
    probability = _answers(model.purchase, values, model.config)
    expected = probability * _answers(model.amount, values, model.config) * model.calibration
    if model.last_year_column is not None:
        if model.last_year_column not in frame:
            raise ValueError(
                f"the season needs the column {model.last_year_column}, and the frame lacks it"
            )
        for rows in frame.groupby("as_of_date", sort=False).indices.values():
            expected[rows] *= _season(
                model, expected[rows], frame[model.last_year_column].iloc[rows]
            )
    return Prediction(score=expected, expected_spend=expected, purchase_probability=probability)


def feature_columns(frame: Frame, labels: Frame) -> tuple[str, ...]:
    """Numeric columns of the frame that are neither keys nor labels, sorted."""
    left_out = {*KEYS, *labels.columns}
    numeric = [
        c for c in frame.columns if c not in left_out and pd.api.types.is_numeric_dtype(frame[c])
    ]
    return tuple(sorted(numeric))


def importance(model: Model) -> Frame:
    """Share of each booster's total gain by feature: columns feature, purchase, amount; largest sum
    first."""
    shares = {}
    for name, booster in (("purchase", model.purchase), ("amount", model.amount)):
        gain = booster.feature_importance(importance_type="gain")
        shares[name] = gain / gain.sum() if gain.sum() > 0 else gain
    found = pd.DataFrame({"feature": model.features, **shares})
    order = (found["purchase"] + found["amount"]).sort_values(ascending=False, kind="stable").index
    return found.loc[order].reset_index(drop=True)


def to_files(model: Model, folder: Path) -> None:
    """Write purchase.txt, amount.txt (LightGBM text) and model.json into an existing folder."""
    folder = Path(folder)
    (folder / "purchase.txt").write_text(model.purchase.model_to_string(), encoding="utf-8")
    (folder / "amount.txt").write_text(model.amount.model_to_string(), encoding="utf-8")
    about = {
        "format": FORMAT,
        "features": list(model.features),
        "horizon_days": model.horizon_days,
        "calibration": model.calibration,
        "last_year_column": model.last_year_column,
        "growth": model.growth,
        "config": asdict(model.config),
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def from_files(folder: Path) -> Model:
    """The model that `to_files` wrote. Raises ValueError where the files do not belong together."""
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if about.pop("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'} is of another format than {FORMAT}; train the model again"
        )
    boosters = {}
    for name in ("purchase", "amount"):
        boosters[name] = lgb.Booster(model_str=(folder / f"{name}.txt").read_text(encoding="utf-8"))
        if boosters[name].feature_name() != about["features"]:
            raise ValueError(
                f"{folder / name}.txt knows other columns than model.json says; train again"
            )
    about["features"] = tuple(about["features"])
    return Model(**boosters, **{**about, "config": Config(**about["config"])})


class Served:
    """The model as something that answers with a table, which is what model stores ask for."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, frame: Frame, params: dict | None = None) -> Frame:
        """expected_spend and purchase_probability of a day's whole population, row by row."""
        found = predict(self.model, frame)
        return pd.DataFrame(
            {
                "expected_spend": found.expected_spend,
                "purchase_probability": found.purchase_probability,
            },
            index=frame.index,
        )


def _load_pyfunc(path: str) -> Served:
    """The loader that MLflow looks for in a `loader_module`."""
    return Served(from_files(Path(path)))


def _boost(
    objective: dict,
    values: np.ndarray,
    target: np.ndarray,
    features: tuple[str, ...],
    config: Config,
) -> lgb.Booster:
    parameters = {
        **objective,
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": config.lambda_l2,
        "seed": config.seed,
        "num_threads": config.num_threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lgb.Dataset(values, target, feature_name=list(features), params=parameters)
    return lgb.train(parameters, data, num_boost_round=config.rounds)


def _answers(booster: lgb.Booster, values: np.ndarray, config: Config) -> np.ndarray:
    return np.asarray(booster.predict(values, num_threads=config.num_threads), dtype=float)


def _matrix(frame: Frame, features: Sequence[str]) -> np.ndarray:
    missing = [name for name in features if name not in frame]
    if missing:
        raise ValueError(
            f"the model was trained on {len(features)} columns and the frame lacks "
            f"{', '.join(missing)}; build the features again, or train again"
        )
    return frame[list(features)].to_numpy(dtype=float, na_value=np.nan)


def _growth(frame: Frame, labels: Frame, column: str | None) -> float:
    if column is None:
        return 1.0
    latest = (frame["as_of_date"] == frame["as_of_date"].max()).to_numpy()
    last_year = float(frame.loc[latest, column].sum())
    actual = float(labels["spend"].to_numpy(dtype=float)[latest].sum())
    return actual / last_year if last_year > 0 and actual > 0 else 1.0


def _season(model: Model, unadjusted: np.ndarray, last_year: pd.Series) -> float:
    """What the season does to the total of one day, 1 where last year is not known.

    The factor stays within season_limit: beyond it the shop has changed, and last year is no guide.
    """
    total, predicted = float(last_year.sum()) * model.growth, float(unadjusted.sum())
    if total <= 0 or predicted <= 0:
        return 1.0
    limit = model.config.season_limit
    return float(np.clip(total / predicted, 1 / limit, limit))
