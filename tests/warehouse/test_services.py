import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest

from warehouse import services
from warehouse.connections import make_database
from warehouse.embedded import free_port
from warehouse.settings import TierhouseError

STAND_IN = """#!/bin/sh
echo "$AS_OF_DATE $TIERHOUSE_DAG_RUN $DATA_PATH|$*" >> "$TIERHOUSE_HOME/commands"
"""
ODD_PATH = "/data/$(touch /tmp/x); 'a b'"


@pytest.fixture(scope="module")
def installation(settings, urls):
    """The environment of an installation whose `tierhouse` only writes down what it was told."""
    for url in (urls.airflow, urls.mlflow):
        make_database(url, beside=urls.warehouse)
    stand_in = settings.home / "bin" / "tierhouse"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    found = services.environment(
        home=settings.home,
        airflow_url=urls.airflow,
        mlflow_url=urls.mlflow,
        airflow_port=free_port(),
        mlflow_port=free_port(),
        dashboard_port=free_port(),
        secret=settings.secret,
        inherited={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )
    return found | {"PATH": f"{stand_in.parent}{os.pathsep}{found['PATH']}"}


def test_no_secret_is_on_a_command_line_or_in_the_configuration(settings, installation):
    shown = json.dumps(services.COMMANDS) + services._configuration(settings.home)
    for path in (settings.home / "secrets").iterdir():
        assert path.read_text() not in shown


def test_everything_is_told_to_stay_on_loopback_and_to_phone_nobody(installation):
    for name in ("AIRFLOW__API__HOST", "MLFLOW_HOST"):
        assert installation[name] == "127.0.0.1"
    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in services.COMMANDS[name]  # their log servers listen everywhere
    assert services.NO_TELEMETRY.items() <= installation.items()


def test_the_state_is_all_below_home(settings, installation):
    for name in ("AIRFLOW_HOME", "AIRFLOW__LOGGING__BASE_LOG_FOLDER", "TIERHOUSE_HOME"):
        assert Path(installation[name]).is_relative_to(settings.home)


def test_the_triggerer_finds_what_a_missed_deadline_calls(installation, tmp_path):
    found = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('building_blocks'))"
    command = [sys.executable, "-P", "-c", found]
    assert subprocess.run(command, env=installation, cwd=tmp_path, check=False).returncode == 0


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("AIRFLOW__API__PORT", "TIERHOUSE_AIRFLOW_PORT"),
        ("MLFLOW_PORT", "TIERHOUSE_MLFLOW_PORT"),
        ("TIERHOUSE_DASHBOARD_PORT", "TIERHOUSE_DASHBOARD_PORT"),
    ],
)
def test_a_port_in_use_stops_it_before_anything_starts(tmp_path, installation, variable, setting):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TierhouseError) as refusal:
            services.start(tmp_path, installation | {variable: str(port)}, "password")
    message = str(refusal.value)
    assert str(port) in message and setting in message and f"pid {os.getpid()}" in message
    assert "\n" not in message
    assert all(service.pid is None for service in services.status(tmp_path))
    assert not services.stop(tmp_path)


def test_a_pid_file_of_another_process_is_never_believed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisord.conf").touch()
    (tmp_path / "run" / "supervisord.pid").write_text(str(os.getpid()))
    assert not services.stop(tmp_path)
    assert all(service.pid is None for service in services.status(tmp_path))


def test_airflow_is_migrated_once_and_again_when_its_tables_are_lost(installation):
    services.migrate(installation)
    assert not services.migrate(installation)
    url = installation["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema public cascade")
        connection.execute("create schema public")
    assert services.migrate(installation)


@pytest.mark.slow
def test_the_whole_chain_runs_under_the_scheduler_and_stops_without_a_trace(settings, installation):
    home = settings.home
    password = settings.secret("airflow_admin")
    services.migrate(installation)
    assert services.start(home, installation, password)
    try:
        assert not services.start(home, installation, password)
        with pytest.raises(TierhouseError, match="Airflow is running"):
            services.refuse_running(home)  # a demo would run the same DAGs beside it
        supervisor = services._supervisor(home)
        listening = {
            connection.laddr.ip
            for process in services._session(supervisor.pid)
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        shown = json.dumps([process.cmdline() for process in services._session(supervisor.pid)])
        assert not any(path.read_text() in shown for path in (home / "secrets").iterdir())

        ask = login(installation, password)
        chain = [
            ("load_shop", "delivery"), ("load_shop", "load"), ("load_shop", "check"),
            ("build_features", "build"), ("build_features", "check"), ("train_models", "train"),
            ("score_customers", "score"), ("score_customers", "check"),
            ("score_customers", "publish"), ("score_customers", "report"),
        ]  # fmt: skip
        conf = {"source": "online_retail", "path": ODD_PATH}
        by_key = {"partition_key": "2026-11-05", "conf": conf}
        by_form = {"conf": conf | {"as_of_date": "2026-11-06"}}
        for run, day in ((by_key, "2026-11-05"), (by_form, "2026-11-06")):
            (home / "commands").unlink(missing_ok=True)
            ask("/api/v2/dags/load_shop/dagRuns", {"logical_date": None, **run})
            wait_for(lambda: len(commands(home)) == len(chain), 120)
            told = [line.split("|") for line in commands(home)]
            assert all(values.startswith(f"{day} ") for values, _ in told)
            assert told[1][1] == f"load online_retail {ODD_PATH} --day "
            assert [
                (values.split()[1].split("/")[0], words.split()[0]) for values, words in told
            ] == chain

        drawn = json.dumps(ask("/ui/dependencies"))
        assert all(dag in drawn for dag, _ in chain)

        before = pids(home)
        psutil.Process(before["triggerer"]).kill()
        wait_for(lambda: pids(home)["triggerer"] not in (None, before["triggerer"]), 30)
        left = services._session(supervisor.pid)
    finally:
        assert services.stop(home)
    assert not any(process.is_running() for process in left)
    assert all(service.pid is None for service in services.status(home))


def pids(home):
    return {service.name: service.pid for service in services.status(home)}


def commands(home):
    path = home / "commands"
    return path.read_text().splitlines() if path.exists() else []


def wait_for(truth, seconds):
    deadline = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def login(installation, password):
    """A function that asks Airflow as a person's browser would: GET, or POST with a body."""

    def ask(path, body=None, **headers):
        request = urllib.request.Request(
            installation["AIRFLOW__API__BASE_URL"] + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    token = ask("/auth/token", {"username": "admin", "password": password})["access_token"]
    return partial(ask, Authorization=f"Bearer {token}")
