"""Build the customer features of one day and announce them only if they pass the gate.

raw_orders -> dbt (staging, intermediate, features) -> gate -> customer_features
The partition key is the as-of day: no task reads the clock, so any day can be rebuilt.
When the build is red: its log ends with dbt's own message; mend the model, clear the task.
When the gate is red: read its log, fix the source or the suite, clear the gate.
"""

from airflow.sdk import Param, PartitionedAssetTimetable, chain, dag
from building_blocks import CUSTOMER_FEATURES, DEFAULT_ARGS, RAW_ORDERS, command


@dag(
    schedule=PartitionedAssetTimetable(assets=RAW_ORDERS),
    default_args=DEFAULT_ARGS,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["features"],
    params={"as_of_date": Param(None, type=["null", "string"], format="date")},
)
def build_features():
    build = command("build", 'tierhouse build --as-of "$AS_OF_DATE"')
    gate = command(
        "gate",
        'tierhouse check features --as-of "$AS_OF_DATE"',
        outlets=[CUSTOMER_FEATURES],
    )
    chain(build, gate)


build_features()
