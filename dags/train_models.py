"""Train the models anew when the champion has grown old, and announce the champion either way.

customer_features -> tierhouse train (earlier days, backtest, refit, register) -> champion_model
A champion younger than seven days, counted at the as-of day, is kept and training ends at once:
scoring can wait for this DAG every day and never needs a clock of its own.
A model that the gate refuses is kept without the alias, and the old champion stays: ops.promotions
says why. When training is red there may be no champion at all (exit code 3): read verdict.md in the
run in MLflow that carries this DAG run as a tag; mend the cause, or `tierhouse promote VERSION`.
"""

from airflow.sdk import Param, PartitionedAssetTimetable, dag
from building_blocks import CHAMPION_MODEL, CUSTOMER_FEATURES, DEFAULT_ARGS, command


@dag(
    schedule=PartitionedAssetTimetable(assets=CUSTOMER_FEATURES),
    default_args=DEFAULT_ARGS,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["models"],
    params={"as_of_date": Param(None, type=["null", "string"], format="date")},
)
def train_models():
    command(
        "train",
        'tierhouse train --as-of "$AS_OF_DATE" --max-age-days 7',
        outlets=[CHAMPION_MODEL],
    )


train_models()
