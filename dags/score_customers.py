"""Score every customer, audit the tiers out of sight, let people see them, and say what changed.

champion_model -> score -> gate -> publish -> customer_tiers
                                   publish -> report (HTML and Markdown, also in MLflow)
Publishing moves one pointer in one transaction: until then analytics.* shows the day before.
When the gate is red: nothing was published. Read its log, mend the cause, clear the task score.
The report is skipped for a day that analysts do not read: a newer one is published.
When publish is red: no gate has passed for what was scored last, or it was scored before something
newer was published or taken back; its log says which. Clear the gate, or score.
When a run takes more than four hours: Airflow counts it as a missed deadline, and the triggerer's
log has an error that says so. `tierhouse status` says how old the tiers are, also when no
scheduler runs.
"""

from datetime import timedelta

from airflow.sdk import (
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    Param,
    PartitionedAssetTimetable,
    chain,
    dag,
)
from building_blocks import (
    CHAMPION_MODEL,
    CUSTOMER_TIERS,
    DEFAULT_ARGS,
    OTHER_DAY,
    command,
    tell_late,
)

TIERS_ARE_LATE = DeadlineAlert(
    name="tiers are late",
    reference=DeadlineReference.DAGRUN_QUEUED_AT,
    interval=timedelta(hours=4),
    callback=AsyncCallback(tell_late),
)


@dag(
    schedule=PartitionedAssetTimetable(assets=CHAMPION_MODEL),
    deadline=TIERS_ARE_LATE,
    default_args=DEFAULT_ARGS,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["scores"],
    params={"as_of_date": Param(None, type=["null", "string"], format="date")},
)
def score_customers():
    score = command("score", 'tierhouse score --as-of "$AS_OF_DATE"')
    gate = command("gate", 'tierhouse check tiers --as-of "$AS_OF_DATE"')
    publish = command(
        "publish", 'tierhouse publish --as-of "$AS_OF_DATE"', outlets=[CUSTOMER_TIERS]
    )
    report = command(
        "report", 'tierhouse report --as-of "$AS_OF_DATE"', skip_on_exit_code=OTHER_DAY
    )
    chain(score, gate, publish, report)


score_customers()
