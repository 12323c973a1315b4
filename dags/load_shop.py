"""Load what a shop delivered on a day, and announce it only if it passes the gate.

landing/<source>/<day>/ -> delivery (is it there?) -> tierhouse load -> raw.* -> gate -> raw_orders
The partition key is the day of the delivery, and the as-of day of the three DAGs that follow.
Where TIERHOUSE_DAILY_SOURCE and TIERHOUSE_DAILY_SINCE name a source and a day, every day from then
on has its run, at 00:00 UTC. Any other day is a backfill there, or is started with its key, or in
the form with as_of_date:
    POST /api/v2/dags/load_shop/dagRuns
    {"logical_date": null, "partition_key": "2026-11-05", "conf": {"source": "..."}}
With the parameter path, or a source that comes with a package, it loads that once: nothing is
waited for, and the day only says what follows.
delivery is up for reschedule: the files are not there yet, and the grace of the source is not over.
delivery is red: it is over. When the files have come, clear it; `missing_day: allowed` in
source.yml declares that days may be without files.
load is skipped: there was nothing to read, and the source allows that. What follows still runs.
load is red: its log names the file and the column; mend the file, clear the task.
gate is red: nothing downstream has started. Read its log, mend the source or the suite, clear it.
What the day was (on_time, late, corrected, repeated, empty, none) is the XCom of load, and stands
with the event of raw_orders. A file that was loaded before is not loaded twice, so any day may be
run again: that is how a correction is loaded.
"""

import os
import re
from datetime import datetime

from airflow.sdk import CronPartitionTimetable, Param, PartitionedAtRuntime, chain, dag
from airflow.sdk.exceptions import AirflowSkipException
from building_blocks import DEFAULT_ARGS, RAW_ORDERS, command, wait

DAILY_SOURCE = os.environ.get("TIERHOUSE_DAILY_SOURCE")
DAILY_SINCE = DAILY_SOURCE and os.environ.get("TIERHOUSE_DAILY_SINCE")
EVERY_DAY = CronPartitionTimetable("0 0 * * *", timezone="UTC", key_format="%Y-%m-%d")


def tell_outcome(context, result=None):
    """The last line of a load of a day says what the day was."""
    found = re.fullmatch(r"Delivery of \S+: (\w+)\.", result or "")
    if found is None:
        return
    context["ti"].xcom_push("delivery", found[1])
    if found[1] in ("none", "empty"):
        raise AirflowSkipException("There was nothing to read, and the source allows that.")


def announce_day(context, result=None):
    """Airflow's form has no field for a partition key, so the day of the run becomes the key."""
    event = context["outlet_events"][RAW_ORDERS]
    event.add_partitions(context["task"].env["AS_OF_DATE"])
    delivery = context["ti"].xcom_pull("load", key="delivery")
    if delivery is not None:
        event.extra["delivery"] = delivery


@dag(
    schedule=EVERY_DAY if DAILY_SINCE else PartitionedAtRuntime(),
    start_date=datetime.fromisoformat(f"{DAILY_SINCE}T00:00Z") if DAILY_SINCE else None,
    catchup=bool(DAILY_SINCE),  # a day without a run is a day that nobody misses
    default_args=DEFAULT_ARGS,
    doc_md=__doc__,
    tags=["load"],
    params={
        "source": Param(
            DAILY_SOURCE or "complete_journey",
            type="string",
            minLength=1,
            description="What kind of files these are: `tierhouse load --help` lists them.",
        ),
        "path": Param(
            None,
            type=["null", "string"],
            description="A file or folder to load once, absolute, as the scheduler's machine sees "
            "it. Empty for a day's delivery, and for a source that comes with a package.",
        ),
        "as_of_date": Param(
            None,
            type=["null", "string"],
            format="date",
            description="The day of the delivery, whose features and tiers follow; a partition "
            "key goes before it.",
        ),
    },
)
def load_shop():
    shop = {
        "SOURCE": "{{ params.source }}",
        "DATA_PATH": "{{ params.path or '' }}",
        "DELIVERY_DAY": "{{ '' if params.path else "
        "dag_run.partition_key or params.as_of_date or '' }}",
    }
    delivery = wait("delivery", 'tierhouse delivery "$SOURCE" --day "$DELIVERY_DAY"', env=shop)
    load = command(
        "load",
        'tierhouse load "$SOURCE" "$DATA_PATH" --day "$DELIVERY_DAY"',
        env=shop,
        max_active_tis_per_dag=1,
        post_execute=tell_outcome,
    )
    gate = command(
        "gate",
        'tierhouse check raw --as-of "$AS_OF_DATE"',
        outlets=[RAW_ORDERS],
        post_execute=announce_day,
        trigger_rule="none_failed",
    )
    chain(delivery, load, gate)


load_shop()
