"""The classic answers to "who will be in the top decile of spend?", from scikit-learn.

All have the interface of the baselines and learn is_high_value alone: their score is the
probability of it (of the linear SVM, its margin), which ranks customers and is no money. Linear
models see the signed logarithm of every column: spend and counts have long tails, and one enormous
customer would bend the whole plane. A null is the median and a flag for them; trees send it to a
side of its own.

Pedregosa et al. (2011), "Scikit-learn: machine learning in Python"; Breiman (2001), "Random
forests"; Fan et al. (2008), "LIBLINEAR: a library for large linear classification".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from ml.baselines import Estimator
from ml.lightgbm_hurdle import feature_columns, matrix
from ml.metrics import Prediction

Frame = pd.DataFrame

MAX_ROWS = 60_000  # of 110 columns: 2 s (logistic regression) to 11 s (forest) on one core
SEED = 0


@dataclass(frozen=True)
class Model:
    """features: columns in the order the pipeline knows them."""

    pipeline: Pipeline
    features: tuple[str, ...]


def newest_rows(frame: Frame, limit: int) -> np.ndarray:
    """Places (at most limit,) of the rows to learn from, the newest as_of_date first.

    Of a day that does not fit whole a seeded sample is taken. The order of the rows changes
    neither which customers are chosen nor the order they come in.
    """
    keys = frame[["as_of_date", "customer_id"]].reset_index(drop=True)
    places = keys.sort_values(["as_of_date", "customer_id"], kind="stable").index.to_numpy()
    places = np.random.default_rng(SEED).permutation(places)
    age = -keys["as_of_date"].rank(method="dense").to_numpy()
    return places[np.argsort(age[places], kind="stable")[:limit]]


def _signed_log(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log1p(np.abs(values))


def _linear(classifier: LogisticRegression | LinearSVC) -> Pipeline:
    return make_pipeline(
        FunctionTransformer(_signed_log),
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        StandardScaler(),
        classifier,
    )


def _logistic_regression() -> Pipeline:
    return _linear(LogisticRegression(C=0.1, max_iter=1000))


def _decision_tree() -> Pipeline:
    return make_pipeline(
        DecisionTreeClassifier(min_samples_leaf=100, max_depth=8, random_state=SEED)
    )


def _random_forest() -> Pipeline:
    """Each tree sees a quarter of the rows: half the time of one that sees half, and as good."""
    return make_pipeline(
        RandomForestClassifier(
            n_estimators=100, min_samples_leaf=10, max_samples=0.25, random_state=SEED, n_jobs=1
        )
    )


def _linear_svm() -> Pipeline:
    """Balanced: nine in ten are of no high value, and the hinge would look at little else."""
    return _linear(LinearSVC(C=0.01, class_weight="balanced", dual="auto", random_state=SEED))


def _estimator(make: Callable[[], Pipeline]) -> Estimator:
    """What learns is_high_value from the newest MAX_ROWS rows.

    Its fit raises ValueError where the labels lack is_high_value, or it is the same for every row.
    """

    def fit(frame: Frame, labels: Frame, horizon_days: int) -> Model:
        if "is_high_value" not in labels:
            raise ValueError("a classifier learns from the label is_high_value, and there is none")
        features = feature_columns(frame, labels)
        chosen = newest_rows(frame, MAX_ROWS)
        is_high_value = labels["is_high_value"].to_numpy(dtype=bool)[chosen]
        if is_high_value.all() or not is_high_value.any():
            raise ValueError(
                f"{'all' if is_high_value.any() else 'none'} of the {chosen.size} training rows "
                f"are of high value in their {horizon_days} days: there is nothing to tell apart; "
                "load more history, or use a baseline"
            )
        with threadpool_limits(1):  # sums of floats depend on how the threads share them out
            pipeline = make().fit(matrix(frame, features)[chosen], is_high_value)
        return Model(pipeline, features)

    return Estimator(fit, predict)


def predict(model: Model, frame: Frame) -> Prediction:
    """Score, and the probability of high value where the model gives one.

    Raises ValueError where a column that the model was trained on is missing.
    """
    values = matrix(frame, model.features)
    with threadpool_limits(1):
        if not hasattr(model.pipeline, "predict_proba"):
            return Prediction(score=model.pipeline.decision_function(values))
        probability = model.pipeline.predict_proba(values)[:, 1]
    return Prediction(score=probability, high_value_probability=probability)


CLASSIFIERS: Mapping[str, Estimator] = {
    "logistic_regression": _estimator(_logistic_regression),
    "decision_tree": _estimator(_decision_tree),
    "random_forest": _estimator(_random_forest),
    "linear_svm": _estimator(_linear_svm),
}
