"""Load a shop's orders and announce them only if they pass the gate.

source files -> tierhouse load -> raw.* -> gate -> raw_orders
Start it with the as-of day, in the form or as partition key: the three DAGs behind it follow with
that key.
    POST /api/v2/dags/load_shop/dagRuns
    {"logical_date": null, "partition_key": "2026-11-05", "conf": {"source": "...", "path": "..."}}
A file that was loaded before is not loaded twice, so any run may be repeated.
When the load is red: its log names the file and the column; mend the file, clear the task.
When the gate is red: nothing downstream has started. Read its log, mend the source or the suite,
clear the gate.
"""

from airflow.sdk import Param, PartitionedAtRuntime, chain, dag
from building_blocks import DEFAULT_ARGS, RAW_ORDERS, command


def announce_day(context, result=None):
    """Airflow's form has no field for a partition key, so the day of the run becomes the key."""
    context["outlet_events"][RAW_ORDERS].add_partitions(context["task"].env["AS_OF_DATE"])


@dag(
    schedule=PartitionedAtRuntime(),
    default_args=DEFAULT_ARGS,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["load"],
    params={
        "source": Param(
            "complete_journey",
            type="string",
            minLength=1,
            description="What kind of files these are: `tierhouse load --help` lists them.",
        ),
        "path": Param(
            None,
            type=["null", "string"],
            description="The file or folder, absolute, as the scheduler's machine sees it. "
            "Empty for complete_journey, whose data comes with a package.",
        ),
        "as_of_date": Param(
            None,
            type=["null", "string"],
            format="date",
            description="The day whose features and tiers follow; a partition key goes before it.",
        ),
    },
)
def load_shop():
    load = command(
        "load",
        'tierhouse load "$SOURCE" "$DATA_PATH"',
        env={"SOURCE": "{{ params.source }}", "DATA_PATH": "{{ params.path or '' }}"},
    )
    gate = command(
        "gate",
        'tierhouse check raw --as-of "$AS_OF_DATE"',
        outlets=[RAW_ORDERS],
        post_execute=announce_day,
    )
    chain(load, gate)


load_shop()
