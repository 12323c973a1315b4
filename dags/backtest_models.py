"""Judge the models beside the baselines on past days, and keep the scoreboard in MLflow.

as_of_date or partition key -> tierhouse backtest (the four newest closed windows before the day)
Nothing downstream waits for it and nothing starts it: trigger it after a change of the models or
of the shop's data. It builds the days it needs, so it takes minutes where training takes one.
When it is red: a window is not closed or the history is too short; the log says which.
"""

from airflow.sdk import Param, dag
from building_blocks import DEFAULT_ARGS, command


@dag(
    schedule=None,
    default_args=DEFAULT_ARGS,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["models"],
    params={"as_of_date": Param(None, type=["null", "string"], format="date")},
)
def backtest_models():
    command("backtest", 'tierhouse backtest --as-of "$AS_OF_DATE"')


backtest_models()
