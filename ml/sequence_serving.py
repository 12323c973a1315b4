"""The stored sequence model as something that answers with a table, as model stores ask for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ml import sequence_training, streams

Frame = pd.DataFrame


class Served:
    def __init__(self, model: sequence_training.Model) -> None:
        self.model = model

    def predict(self, asked: Mapping[str, Any], params: dict | None = None) -> Frame:
        """A row per customer, in the order of asked["customers"].

        customers: a frame of customer_id, as_of_date and the features. events: an Arrow table, as
        `streams.from_table` takes it. The answer: customer_id, expected_spend,
        purchase_probability, high_value_probability (null where the labels had none) and embedding,
        a list of numbers.
        """
        frame, events = asked["customers"], streams.from_table(asked["events"])
        found = sequence_training.predict(self.model, frame, events)
        return pd.DataFrame(
            {
                "customer_id": frame["customer_id"],
                "expected_spend": found.expected_spend,
                "purchase_probability": found.purchase_probability,
                "high_value_probability": found.high_value_probability,
                "embedding": list(sequence_training.embed(self.model, frame, events)),
            },
            index=frame.index,
        )


def _load_pyfunc(path: str) -> Served:
    """The loader that MLflow looks for in a `loader_module`."""
    return Served(sequence_training.from_files(Path(path)))
