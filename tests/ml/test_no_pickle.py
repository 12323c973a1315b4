"""Law 6 on the serving path: from the stored folder to a score, MLflow included, in a new process
that listens for every class that a pickle asks for."""

import json
import pickle
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from ml import horizons, lightgbm_hurdle
from warehouse.settings import PROJECT

# `pickle.find_class` is raised by the unpicklers in C and in Python, so by those of joblib,
# cloudpickle and torch as well.
SERVE = """
import io, json, pickle, sys

asked = []
sys.addaudithook(
    lambda event, names: asked.append(list(names)) if event == "pickle.find_class" else None
)
model_folder, rows, planted = sys.argv[1:]

import mlflow, pandas
served = mlflow.pyfunc.load_model(model_folder)
found = served.predict(pandas.read_parquet(rows))
while_serving = list(asked)

with open(planted, "rb") as file:
    content = file.read()
pickle.loads(content)
pickle._Unpickler(io.BytesIO(content)).load()  # the one that is written in Python

print(json.dumps({
    "while_serving": while_serving,
    "planted": asked[len(while_serving):],
    "expected_spend": found["expected_spend"].tolist(),
    "module": sys.modules["ml.horizons"].__file__,
}))
"""


@pytest.fixture(scope="module")
def stored(shop, tmp_path_factory):
    """The folder that a registered model is, and the rows of a day with what they should get."""
    place = tmp_path_factory.mktemp("stored")
    newest = shop.features["as_of_date"] == pd.Timestamp(shop.days[-1])
    closed = shop.features["as_of_date"] < pd.Timestamp(shop.days[-1])
    model = lightgbm_hurdle.fit(
        shop.features[closed],
        shop.labels[closed],
        shop.horizon_days,
        lightgbm_hurdle.Config(rounds=20, min_data_in_leaf=20),
    )
    (place / "data").mkdir()
    outlook = horizons.Outlook({shop.horizon_days: model}, shop.horizon_days)
    horizons.to_files(outlook, place / "data")
    mlflow.pyfunc.save_model(
        place / "model",
        loader_module="ml.horizons",
        data_path=str(place / "data"),
        code_paths=[str(PROJECT / "ml")],
        pip_requirements=[f"lightgbm=={version('lightgbm')}"],
    )
    rows = shop.features[newest].reset_index(drop=True)
    rows.to_parquet(place / "rows.parquet")
    return place, horizons.predict(outlook, rows).asked.expected_spend


@pytest.fixture(scope="module")
def served(stored):
    place, _ = stored
    (place / "planted.pickle").write_bytes(pickle.dumps(date(2026, 1, 1)))
    files = (str(place / name) for name in ("model", "rows.parquet", "planted.pickle"))
    done = subprocess.run(
        [sys.executable, "-c", SERVE, *files],
        cwd=place,  # where no other `ml` is
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_stored_model_is_loaded_and_scores_without_unpickling_anything(served, stored):
    place, expected = stored
    assert served["while_serving"] == []
    assert np.array_equal(served["expected_spend"], expected)
    assert Path(served["module"]).is_relative_to(place / "model")


def test_what_is_unpickled_is_noticed(served):
    """In C and in Python; otherwise the test above would prove nothing."""
    assert served["planted"] == [["datetime", "date"]] * 2


def test_everything_in_a_stored_model_is_text(stored):
    place, _ = stored
    files = [file for file in (place / "model").rglob("*") if file.is_file()]
    assert {"MLmodel", "model.json", "purchase.txt"} <= {file.name for file in files}
    for file in files:
        if "__pycache__" not in file.parts:
            assert "\0" not in file.read_text(encoding="utf-8"), file
