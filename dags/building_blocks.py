"""What the four DAGs share: the assets that chain them and the one way to run a command."""

import logging
import os
import re
from datetime import date, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import Asset, RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowFailException

RAW_ORDERS = Asset("raw_orders")
CUSTOMER_FEATURES = Asset("customer_features")
CHAMPION_MODEL = Asset("champion_model")
CUSTOMER_TIERS = Asset("customer_tiers")


class RetryWhatMayPass(RetryPolicy):
    """A lost connection (exit code 1) is tried again; wrong usage (2) and a gate's refusal (3) are
    the same every time and fail at once."""

    def evaluate(self, exception, try_number, max_tries, context=None):
        if re.search(r"exit code [23]\b", str(exception)):
            return RetryDecision.fail("the command refused: trying again changes nothing")
        return RetryDecision.default()


DEFAULT_ARGS = {
    "owner": "tierhouse",
    "retries": 2,
    "retry_delay": timedelta(minutes=1),
    "retry_policy": RetryWhatMayPass(),
    "execution_timeout": timedelta(hours=4),
}
RUN = {
    "AS_OF_DATE": "{{ dag_run.partition_key or params.as_of_date or '' }}",
    "TIERHOUSE_DAG_RUN": "{{ dag.dag_id }}/{{ run_id }}",
}
NOT_YET = 75
OTHER_DAY = 76


def command(task_id, bash_command, *, env=None, skip_on_exit_code=None, **operator_arguments):
    """A task that runs one `tierhouse` command in a process of its own.

    Values reach the command as environment variables and never as text inside it, so that nothing
    a person types into the trigger form is read by bash. No output becomes an XCom: the warehouse
    holds the data.
    """
    return BashOperator(
        task_id=task_id,
        bash_command=bash_command,
        env=RUN | (env or {}),
        append_env=True,
        do_xcom_push=False,
        pre_execute=require_day,
        skip_on_exit_code=skip_on_exit_code,
        **operator_arguments,
    )


def wait(task_id, bash_command, *, env):
    """A task that runs a `tierhouse` command every five minutes for as long as it says "not yet".

    In between it holds no worker, and the grid shows it as up for reschedule. Any other failure
    of the command is final. Clear the task to have it look at once.
    """
    return BashSensor(
        task_id=task_id,
        bash_command=bash_command,
        env=RUN | env,
        do_xcom_push=False,
        mode="reschedule",
        poke_interval=timedelta(minutes=5),
        pre_execute=require_day_and_inherit,
        retry_exit_code=NOT_YET,
    )


async def tell_late(context, **_):
    """What Airflow runs, in the triggerer, when a run has missed its deadline."""
    run = context.get("dag_run") or {}
    logging.getLogger(__name__).error(
        "%s has not ended in time: analysts go on reading what was published before. Look at the "
        "run in the grid, and at `tierhouse status`.",
        run.get("dag_run_id") or run.get("run_id") or "A run",
    )


def require_day_and_inherit(context):
    """A BashSensor has no append_env. Merged when it runs, the secrets of the environment are in
    no serialized DAG and in no rendered field."""
    require_day(context)
    context["task"].env = os.environ | context["task"].env


def require_day(context):
    """Fail at once, and never retry, when the run does not say which day it is about."""
    day = context["task"].env["AS_OF_DATE"]
    try:
        if date.fromisoformat(day).isoformat() == day:
            return
    except ValueError:
        pass
    raise AirflowFailException(
        f"The as-of day of this run is {day!r}, not a date such as 2026-11-05. "
        "Trigger it with the day as partition key, or with the parameter as_of_date."
    )
