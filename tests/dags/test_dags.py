"""What the DAGs promise, read from them once in a process of its own, as Airflow would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest

from serving.report import OTHER_DAY

DAGS = Path(__file__).parents[2] / "dags"
HEAVY = ["pandas", "torch", "lightgbm", "mlflow", "great_expectations", "dbt", "sklearn"]
SECRET = "only in the environment"
OURS = ["expectations", "ml", "serving", "tierhouse", "warehouse"]

READ = """
import json, os, sys
from pathlib import Path
from types import SimpleNamespace
from airflow.dag_processing.dagbag import BundleDagBag

DAYS = ("2026-11-05", "", "20261105", "2026-02-30", "None")
folder, heavy = Path(sys.argv[1]), json.loads(sys.argv[2])
bag = BundleDagBag(folder, bundle_path=folder, bundle_name="dags-folder")
loaded = [name for name in heavy if name in sys.modules]

from airflow.providers.standard.operators.bash import BashOperator
from building_blocks import RetryWhatMayPass, require_day, wait

def verdict(code):
    try:
        BashOperator(task_id="t", bash_command=f"exit {code}").execute({})
    except Exception as failure:
        return RetryWhatMayPass().evaluate(failure, 1, 3).action.value

def look(code):
    try:
        return wait(f"t{code}", f"exit {code}", env={}).poke({})
    except Exception as failure:
        return type(failure).__name__

def refusal(day, check=require_day):
    try:
        check({"task": SimpleNamespace(env={"AS_OF_DATE": day})})
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def told(line):
    pushed = {}
    instance = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    hook = bag.dags["load_shop"].get_task("load")._post_execute_hook
    try:
        hook({"ti": instance}, line)
    except Exception as error:
        return [pushed, type(error).__name__]
    return [pushed, None]

def daily(**variables):
    os.environ.update(variables)
    file = folder / "load_shop.py"
    dag = BundleDagBag(file, bundle_path=folder, bundle_name="dags-folder").dags["load_shop"]
    for name in variables:
        del os.environ[name]
    return {
        "timetable": type(dag.timetable).__name__,
        "cron": getattr(dag.timetable, "expression", None),
        "key_format": getattr(dag.timetable, "key_format", None),
        "since": dag.start_date and dag.start_date.isoformat(),
        "catchup": dag.catchup,
        "source": dag.params["source"],
    }

def environment_of_a_look():
    task = SimpleNamespace(env={"AS_OF_DATE": "2026-11-05"})
    bag.dags["load_shop"].get_task("delivery")._pre_execute_hook({"task": task})
    return task.env

def read(dag):
    condition = getattr(dag.timetable, "asset_condition", None)
    return {
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "max_active_runs": dag.max_active_runs,
        "waits_for": [condition.name] if condition else [],
        "params": list(dag.params),
        "deadline": [
            [alert.reference.reference_name, alert.interval.total_seconds() / 3600,
             alert.callback.path]
            for alert in dag.deadline or []
        ],
        "tasks": {
            task.task_id: {
                "command": task.bash_command,
                "env": task.env,
                "retries": task.retries,
                "has_policy": task.retry_policy is not None,
                "has_day_check": refusal("", task._pre_execute_hook) is not None,
                "has_xcom": task.do_xcom_push,
                "has_key_of_its_own": task._post_execute_hook is not None and bool(task.outlets),
                "rule": task.trigger_rule,
                "at_once": task.max_active_tis_per_dag,
                "skips_on": getattr(task, "skip_on_exit_code", None) or [],
                "after": sorted(task.upstream_task_ids),
                "announces": [asset.name for asset in task.outlets],
            }
            for task in dag.tasks
        },
    }

json.dump(
    {
        "errors": bag.import_errors,
        "loaded": loaded,
        "dags": {name: read(dag) for name, dag in bag.dags.items()},
        "retries": {code: verdict(code) for code in (1, 2, 3, 13)},
        "refusals": {day: refusal(day) for day in DAYS},
        "looks": {code: look(code) for code in (0, 75, 1, 2)},
        "told": {line: told(line) for line in json.loads(sys.argv[3])},
        "daily": {
            "unset": daily(),
            "source": daily(TIERHOUSE_DAILY_SOURCE="/shops/mine"),
            "since": daily(TIERHOUSE_DAILY_SINCE="2026-11-05"),
            "both": daily(
                TIERHOUSE_DAILY_SOURCE="/shops/mine", TIERHOUSE_DAILY_SINCE="2026-11-05"
            ),
        },
        "environment_of_a_look": environment_of_a_look(),
    },
    sys.stdout,
)
"""


LAST_LINES = {
    "Delivery of 2026-11-05: corrected.": [{"delivery": "corrected"}, None],
    "Delivery of 2026-11-05: none.": [{"delivery": "none"}, "AirflowSkipException"],
    "Delivery of 2026-11-05: empty.": [{"delivery": "empty"}, "AirflowSkipException"],
    "Loaded before, so left alone: a.csv.": [{}, None],
    "": [{}, None],
}


@pytest.fixture(scope="session")
def seen(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    arguments = [DAGS, json.dumps(HEAVY + OURS), json.dumps(list(LAST_LINES))]
    outcome = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "A_SECRET": SECRET,
        },
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


@pytest.fixture(scope="session")
def dags(seen):
    return seen["dags"]


@pytest.fixture(scope="session")
def tasks(dags):
    return {f"{d}.{t}": task for d, dag in dags.items() for t, task in dag["tasks"].items()}


def before(dag, task):
    """Everything that must have succeeded before this task starts."""
    direct = set(dag["tasks"][task]["after"])
    return direct.union(*(before(dag, each) for each in direct))


def test_the_dags_import_cleanly_and_the_shared_module_is_none_of_them(seen):
    assert seen["errors"] == {}
    assert set(seen["dags"]) == {
        "load_shop", "build_features", "train_models", "score_customers", "backtest_models",
    }  # fmt: skip


def test_parsing_loads_nothing_heavy_and_nothing_of_ours(seen):
    assert seen["loaded"] == []


def test_every_dag_has_tags_and_a_run_book(dags):
    for name, dag in dags.items():
        assert dag["tags"], name
        assert "red" in dag["doc"] and "->" in dag["doc"], name


def test_a_day_that_waits_for_its_files_holds_up_no_other_day_but_all_else_is_done_in_turn(dags):
    assert {name: dag["max_active_runs"] for name, dag in dags.items()} == {
        "load_shop": 16, "build_features": 1, "train_models": 1, "score_customers": 1,
        "backtest_models": 1,
    }  # fmt: skip
    assert dags["load_shop"]["tasks"]["load"]["at_once"] == 1


def test_the_asset_graph_is_exactly_this(dags):
    graph = {
        name: (
            dag["waits_for"],
            {task: each["announces"] for task, each in dag["tasks"].items() if each["announces"]},
        )
        for name, dag in dags.items()
    }
    assert graph == {
        "load_shop": ([], {"gate": ["raw_orders"]}),
        "build_features": (["raw_orders"], {"gate": ["customer_features"]}),
        "train_models": (["customer_features"], {"train": ["champion_model"]}),
        "score_customers": (["champion_model"], {"publish": ["customer_tiers"]}),
        "backtest_models": ([], {}),
    }


def test_tiers_that_are_late_raise_an_alarm(dags):
    assert {name: dag["deadline"] for name, dag in dags.items() if dag["deadline"]} == {
        "score_customers": [["DagRunQueuedAtDeadline", 4, "building_blocks.tell_late"]]
    }


def test_nothing_is_announced_before_all_else_in_its_dag_has_succeeded(dags):
    for dag in dags.values():
        for name, task in dag["tasks"].items():
            if task["announces"]:
                after = {each for each in dag["tasks"] if name in before(dag, each)}
                assert before(dag, name) | after == set(dag["tasks"]) - {name}
            skippable = (dag["tasks"] is dags["load_shop"]["tasks"]) and name == "gate"
            assert task["rule"] == ("none_failed" if skippable else "all_success")


def test_nothing_is_loaded_before_its_delivery_is_there_and_nothing_gated_before_it_is_loaded(dags):
    tasks = dags["load_shop"]["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == {
        "delivery": [], "load": ["delivery"], "gate": ["load"],
    }  # fmt: skip


def test_a_day_is_reported_once_it_is_published_and_skipped_when_a_newer_one_is(dags):
    tasks = dags["score_customers"]["tasks"]
    assert {name: task["after"] for name, task in tasks.items()} == {
        "score": [], "gate": ["score"], "publish": ["gate"], "report": ["publish"],
    }  # fmt: skip
    assert {name: task["skips_on"] for name, task in tasks.items()} == {
        "score": [], "gate": [], "publish": [], "report": [OTHER_DAY],
    }  # fmt: skip


def test_only_a_delivery_that_is_not_there_yet_is_looked_for_again(seen):
    assert seen["looks"] == {
        "0": True, "75": False, "1": "AirflowFailException", "2": "AirflowFailException",
    }  # fmt: skip


def test_what_a_day_was_is_told_and_a_load_that_read_nothing_is_skipped(seen):
    assert seen["told"] == LAST_LINES


def test_no_run_starts_by_a_clock_until_a_source_and_a_first_day_are_named(seen):
    by_hand = {
        "timetable": "PartitionedAtRuntime", "cron": None, "key_format": None, "since": None,
        "catchup": False, "source": "complete_journey",
    }  # fmt: skip
    assert seen["daily"] == {
        "unset": by_hand,
        "source": by_hand | {"source": "/shops/mine"},
        "since": by_hand,
        "both": {
            "timetable": "CronPartitionTimetable", "cron": "0 0 * * *", "key_format": "%Y-%m-%d",
            "since": "2026-11-05T00:00:00+00:00", "catchup": True, "source": "/shops/mine",
        },
    }  # fmt: skip


def test_a_look_for_files_has_the_environment_and_airflow_keeps_none_of_it(seen):
    assert seen["environment_of_a_look"]["A_SECRET"] == SECRET
    assert seen["environment_of_a_look"]["AS_OF_DATE"] == "2026-11-05"
    assert SECRET not in json.dumps(seen["dags"])


def test_nothing_is_published_before_its_gate(dags):
    publishing = [
        (dag, name)
        for dag in dags.values()
        for name, task in dag["tasks"].items()
        if task["command"].startswith("tierhouse publish")
    ]
    assert publishing
    for dag, name in publishing:
        gates = [
            each for each in before(dag, name)
            if dag["tasks"][each]["command"].startswith("tierhouse check tiers")
        ]  # fmt: skip
        assert gates


def test_every_task_is_retried_by_a_policy_that_knows_a_refusal(tasks):
    for name, task in tasks.items():
        assert task["retries"] > 0 and task["has_policy"], name


def test_a_refusal_is_never_retried_and_a_lost_connection_is(seen):
    assert seen["retries"] == {"1": "default", "2": "fail", "3": "fail", "13": "default"}


def test_every_task_is_one_tierhouse_command_with_no_text_of_anybody_in_it(tasks):
    for name, task in tasks.items():
        assert task["command"].startswith("tierhouse "), name
        assert not set(task["command"]) & set("{};|&`\n<>()"), name
        words = task["command"].split()
        assert all(word.startswith('"$') and word.endswith('"') for word in words if "$" in word)
        assert not task["has_xcom"], name


def test_every_task_refuses_a_run_without_a_day(seen, tasks):
    assert all(task["has_day_check"] for task in tasks.values())
    refusals = seen["refusals"]
    assert refusals.pop("2026-11-05") is None
    for day, refusal in refusals.items():
        assert refusal.startswith("AirflowFailException") and repr(day) in refusal


@pytest.mark.parametrize(
    ("partition_key", "parameter", "day"),
    [
        ("2026-11-05", "2017-11-01", "2026-11-05"),
        (None, "2017-11-01", "2017-11-01"),
        (None, "", ""),
        (None, None, ""),
    ],
)
def test_the_day_is_the_partition_key_or_else_the_parameter(tasks, partition_key, parameter, day):
    for task in tasks.values():
        template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
        rendered = template.from_string(task["env"]["AS_OF_DATE"]).render(
            dag_run={"partition_key": partition_key}, params={"as_of_date": parameter}
        )
        assert rendered == day


@pytest.mark.parametrize(("path", "day"), [("/data", ""), ("", "2026-11-05"), (None, "2026-11-05")])
def test_a_path_is_loaded_once_and_is_no_days_delivery(tasks, path, day):
    for task in (tasks["load_shop.delivery"], tasks["load_shop.load"]):
        rendered = jinja2.Template(task["env"]["DELIVERY_DAY"]).render(
            dag_run={"partition_key": "2026-11-05"}, params={"path": path, "as_of_date": None}
        )
        assert rendered == day


def test_what_starts_the_chain_gives_the_day_as_partition_key(tasks):
    assert [name for name, task in tasks.items() if task["has_key_of_its_own"]] == [
        "load_shop.gate"
    ]


def test_every_dag_takes_its_day_as_a_parameter_too(dags):
    assert all("as_of_date" in dag["params"] for dag in dags.values())
