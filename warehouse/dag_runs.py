"""Run the Airflow DAGs in one process, in the order in which their assets chain them.

The process is a child of ours: Airflow reads its environment when it is imported, and writes its
log past every handler. Each line of that log is JSON; what the commands print is among them.
"""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from warehouse.settings import PROJECT, Refused, TierhouseError, WrongUsage

CHAIN = ("load_shop", "build_features", "train_models", "score_customers")
QUIET = {
    "AIRFLOW__LOGGING__JSON_LOGS": "True",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.task.hooks=INFO airflow.task.operators=INFO",
    "PYTHONWARNINGS": "ignore",
}
# Who logs what a command prints, and how the lines that are not the command's begin.
SPEAKERS = ("SubprocessHook", "BashSensor")
NOT_SAID = ("Running command", "Output:", "Tmp dir", "Temporary script", "Success criteria")

Said = Callable[[str], None]
Done = Callable[[str, str, float], None]


@contextmanager
def only_one(home: Path) -> Iterator[IO[str]]:
    """Hold the right to run the DAGs of this installation by hand.

    Raises TierhouseError: somebody else has it.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "demo.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TierhouseError(
                f"Another `tierhouse demo` (pid {file.read().strip()}) is running in {home}. Wait "
                f"until it ends, or set TIERHOUSE_HOME to another directory to run one beside it."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file


def run_chain(
    environment: Mapping[str, str],
    parameters: Mapping[str, str],
    lock: IO[str],
    log: Path,
    said: Said,
    done: Done,
) -> None:
    """Run the four DAGs with `dag.test()`; the metadata database must be migrated.

    parameters: the params of load_shop; the others take as_of_date from them. `said` hears each
    line that a command prints, `done` each DAG, task and its seconds. All of Airflow's output goes
    to `log`. The child holds `lock` too: killed parents free it only when the DAGs have ended.
    Raises what the command that failed would have raised: TierhouseError, WrongUsage, or Refused
    where a gate said no.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", "warehouse.dag_runs", json.dumps(dict(parameters))],
        env={**environment, **QUIET},
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=[lock.fileno()],
    )
    last_lines: deque[str] = deque(maxlen=100)
    code = 0
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with child, log.open("w") as file:
        for line in child.stdout or ():
            file.write(line)
            event = _event(line)
            if event.get("state") == "success":
                done(event["dag"], event["task"], event["seconds"])
            elif event.get("logger", "").endswith(SPEAKERS):
                text = str(event["event"])
                if found := re.search(r"exited with return code (\d+)", text):
                    code = int(found[1])
                elif not text.startswith(NOT_SAID):
                    last_lines.append(text)
                    said(text)
    if child.returncode != 0:
        lines = list(last_lines)
        starts = [place for place, line in enumerate(lines) if line.startswith("Error: ")]
        kind = {2: WrongUsage, 3: Refused}.get(code, TierhouseError)
        if starts:
            raise kind(" ".join(" ".join(lines[starts[0] :]).split()).removeprefix("Error: "))
        said_last = " ".join(" ".join(lines).split())[-500:]
        raise kind(f"A DAG failed: ...{said_last} Airflow's log is {log}.")


def _event(line: str) -> dict:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _run(parameters: dict[str, str]) -> int:
    """In the child: one DAG after the other, until one does not succeed."""
    from airflow.dag_processing.dagbag import BundleDagBag

    dags = PROJECT / "dags"
    bag = BundleDagBag(dags, bundle_path=dags, bundle_name="dags-folder")
    if bag.import_errors:
        print(bag.import_errors)
        return 1
    for name in CHAIN:
        dag = bag.dags[name]
        dag.deadline = None  # dag.test() keeps none, and asks for it in the end
        for task in dag.tasks:
            task.retries = 0  # somebody is watching: better to say at once what failed
        run = dag.test(run_conf={k: v for k, v in parameters.items() if k in dag.params})
        instances = {instance.task_id: instance for instance in run.get_task_instances()}
        for task in dag.topological_sort():
            instance = instances[task.task_id]
            if instance.start_date is not None and instance.end_date is not None:
                seconds = (instance.end_date - instance.start_date).total_seconds()
                done = {"dag": name, "task": task.task_id, "state": instance.state}
                print(json.dumps(done | {"seconds": seconds}), flush=True)
        if run.state != "success":
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(_run(json.loads(sys.argv[1])))
