"""Airflow, MLflow and the dashboard without Docker: their environment, and the processes of
`tierhouse up`.

A `supervisord` of the installation keeps the processes running and starts again what dies. It is
controlled by its pid and signals only: no control port, no password. Everything listens on
127.0.0.1, and every secret travels in the environment, never on a command line.
"""

import base64
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256, sha512
from importlib.metadata import version
from pathlib import Path

import psutil
from psycopg import sql

from warehouse.connections import connect
from warehouse.embedded import HOST, is_free
from warehouse.settings import PROJECT, TierhouseError

BINARIES = Path(sys.executable).parent
COMMANDS = {
    "api-server": ("airflow", "api-server"),
    "scheduler": ("airflow", "scheduler", "--skip-serve-logs"),
    "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
    "dag-processor": ("airflow", "dag-processor"),
    "mlflow": ("mlflow", "server"),
    "dashboard": ("tierhouse", "dashboard"),
}
ADMIN = "admin"
STOP_SECONDS = 30
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "SCARF_NO_ANALYTICS": "true",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
}


@dataclass(frozen=True)
class Service:
    """One of the supervised processes; `pid` is None while it is down."""

    name: str
    pid: int | None
    log: Path


def environment(
    *,
    home: Path,
    airflow_url: str,
    mlflow_url: str,
    airflow_port: int,
    mlflow_port: int,
    dashboard_port: int,
    secret: Callable[[str], str],
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """What Airflow, MLflow, the dashboard and the commands they run find in their environment.

    `inherited` is what a `tierhouse` command needs to find its warehouse, the caller's own
    environment included. `secret` returns the installation's secret of a name.
    """
    airflow = f"http://{HOST}:{airflow_port}"
    logs = home / "logs" / "airflow"
    loopback = ",".join(filter(None, (inherited.get("NO_PROXY"), HOST, "localhost")))
    return {
        **inherited,
        "PATH": os.pathsep.join((str(BINARIES), inherited.get("PATH", os.defpath))),
        "TIERHOUSE_HOME": str(home),
        "TIERHOUSE_DASHBOARD_PORT": str(dashboard_port),
        "NO_PROXY": loopback,  # tasks report to the api-server over HTTP
        "no_proxy": loopback,
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS ends forked tasks without it
        # The triggerer reads no DAG, and has to import what a missed deadline calls.
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(PROJECT / "dags"), inherited.get("PYTHONPATH")))
        ),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__API__BASE_URL": airflow,
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(airflow_port),
        "AIRFLOW__API__SECRET_KEY": secret("airflow_api"),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": sha512(secret("airflow_jwt").encode()).hexdigest(),
        # By a clock starts only what TIERHOUSE_DAILY_SINCE asks for.
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{airflow}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(
            sha256(secret("airflow_fernet").encode()).digest()
        ).decode(),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": str(max(2, (os.cpu_count() or 2) // 2)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_password_file(home)),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        # SQLAlchemy takes a plain postgresql:// for psycopg 3, with which asset pages end in a 500.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": airflow_url.replace("://", "+psycopg2://", 1),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(logs),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(logs / "dag_processor"),
        "MLFLOW_ARTIFACTS_DESTINATION": (home / "mlflow" / "artifacts").as_uri(),
        "MLFLOW_BACKEND_STORE_URI": mlflow_url,
        "MLFLOW_HOST": HOST,
        "MLFLOW_PORT": str(mlflow_port),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # nobody submits jobs to it
        "MLFLOW_WORKERS": "1",
        **NO_TELEMETRY,
    }


def migrate(environment: Mapping[str, str]) -> bool:
    """Bring Airflow's own tables to the installed version; False when they are there already.

    Asking Airflow takes six seconds, so the version is noted in the database beside the tables.
    """
    installed = f"apache-airflow-core {version('apache-airflow-core')}"
    url = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "", 1)
    with connect(url) as connection:
        note = "select obj_description(to_regclass('public.alembic_version'), 'pg_class')"
        if connection.execute(note).fetchone() == (installed,):
            return False
    outcome = subprocess.run(
        [BINARIES / "airflow", "db", "migrate"],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if outcome.returncode != 0:
        said = " ".join(outcome.stderr.split() or outcome.stdout.split())
        raise TierhouseError(
            f"`airflow db migrate` failed: ...{said[-600:]} If the database belongs to a newer "
            f"Airflow than the installed {version('apache-airflow-core')}, install that one."
        )
    with connect(url) as connection:
        connection.execute(
            sql.SQL("comment on table public.alembic_version is {}").format(sql.Literal(installed))
        )
    return True


def start(
    home: Path,
    environment: Mapping[str, str],
    admin_password: str,
    timeout_seconds: float = 300,
) -> bool:
    """Start the processes and wait until all are healthy; False when they run already.

    Raises TierhouseError: a port is taken (nothing was started), or a process does not come up
    (with the end of its log; everything is stopped again).
    """
    with _alone(home):
        if _supervisor(home) is not None:
            return False
        refuse_taken_ports(
            home,
            airflow=int(environment["AIRFLOW__API__PORT"]),
            mlflow=int(environment["MLFLOW_PORT"]),
            dashboard=int(environment["TIERHOUSE_DASHBOARD_PORT"]),
        )
        _write(_password_file(home), json.dumps({ADMIN: admin_password}) + "\n")
        _write(_configuration_file(home), _configuration(home))
        (home / "logs" / "supervisord.log").unlink(missing_ok=True)
        outcome = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", _configuration_file(home)],
            env=dict(environment),
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if outcome.returncode != 0:
            said = " ".join((outcome.stderr or outcome.stdout).split())[-400:]
            raise TierhouseError(f"supervisord did not start: {said} Run `make install` again.")
        try:
            _wait_until_healthy(home, environment, timeout_seconds)
        except BaseException:
            _end(home)
            raise
        return True


def refuse_running(home: Path) -> None:
    """Raise TierhouseError when Airflow runs here: two would run the same DAGs at once."""
    if _supervisor(home) is not None:
        raise TierhouseError(
            "Airflow is running in this installation. Trigger load_shop there (`tierhouse status` "
            "says where), or stop it first with `tierhouse down`."
        )


def refuse_taken_ports(home: Path, *, airflow: int, mlflow: int, dashboard: int) -> None:
    """Raise TierhouseError when a port is another's; our own running processes may hold them."""
    if _supervisor(home) is None:
        refuse_taken(airflow, "Airflow", "TIERHOUSE_AIRFLOW_PORT")
        refuse_taken(mlflow, "MLflow", "TIERHOUSE_MLFLOW_PORT")
        refuse_taken(dashboard, "the dashboard", "TIERHOUSE_DASHBOARD_PORT")


def stop(home: Path) -> bool:
    """End the processes and every command they run; False when none were running."""
    if not _configuration_file(home).exists():
        return False
    with _alone(home):
        return _end(home)


def status(home: Path) -> list[Service]:
    """The services and their pids. Starts nothing."""
    supervisor = _supervisor(home)
    alive = {child.pid for child in supervisor.children()} if supervisor else set()
    log = _read(home / "logs" / "supervisord.log")  # the one place that knows names and pids
    spawned = dict(re.findall(r"spawned: '(.+)' with pid (\d+)", log))
    pids = {name: int(pid) for name, pid in spawned.items() if int(pid) in alive}
    return [Service(name, pids.get(name), _log(home, name)) for name in COMMANDS]


def unhealthy(environment: Mapping[str, str]) -> list[str]:
    """The services that do not say of themselves that they are well."""
    airflow = f"http://{HOST}:{environment['AIRFLOW__API__PORT']}/api/v2/monitor/health"
    mlflow = f"http://{HOST}:{environment['MLFLOW_PORT']}/health"
    dashboard = f"http://{HOST}:{environment['TIERHOUSE_DASHBOARD_PORT']}/_stcore/health"
    report = json.loads(_get(airflow) or "{}")
    healthy = {
        "api-server": report.get("metadatabase", {}).get("status") == "healthy",
        "mlflow": _get(mlflow) is not None,
        "dashboard": _get(dashboard) is not None,
    }
    for name in ("scheduler", "triggerer", "dag-processor"):
        healthy[name] = report.get(name.replace("-", "_"), {}).get("status") == "healthy"
    return [name for name in COMMANDS if not healthy[name]]


def _get(url: str) -> bytes | None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5) as response:
            return response.read()
    except OSError:
        return None


def refuse_taken(port: int, service: str, setting: str) -> None:
    """Raise TierhouseError when the port is in use, and say by whom where that can be known."""
    if is_free(port):
        return
    holder = "another process"
    try:
        for listener in psutil.net_connections("tcp"):
            listens = listener.status == psutil.CONN_LISTEN and listener.laddr[1:] == (port,)
            if listens and listener.pid is not None:
                holder = f"{psutil.Process(listener.pid).name()} (pid {listener.pid})"
    except psutil.Error:
        pass  # only root may ask on some systems
    raise TierhouseError(
        f"Port {port} on {HOST}, meant for {service}, is in use by {holder}. "
        f"End that process, or set {setting} to a free port."
    )


def _wait_until_healthy(home: Path, environment: Mapping[str, str], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while waiting := unhealthy(environment):
        log = _read(home / "logs" / "supervisord.log")
        given_up = [name for name in waiting if f"gave up: {name} entered FATAL" in log]
        if given_up or time.monotonic() > deadline:
            name = (given_up or waiting)[0]
            end = " ".join(_read(_log(home, name)).split())[-600:]
            raise TierhouseError(
                f"{name} did not come up; all was stopped again. Its log "
                f"{_log(home, name)} ends with: {end}"
            )
        time.sleep(1)


def _end(home: Path) -> bool:
    supervisor = _supervisor(home)
    if supervisor is None:
        return False
    ours = _session(supervisor.pid)
    supervisor.terminate()
    psutil.wait_procs([supervisor], timeout=STOP_SECONDS + 10)
    _, left = psutil.wait_procs(ours, timeout=1)
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in left:
            try:
                end(process)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, timeout=10)
    return True


def _session(leader: int) -> list[psutil.Process]:
    """All that supervisord started, the workers of a killed scheduler and running commands too."""
    found = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found |= {process, *process.children(recursive=True)}
        except (OSError, psutil.Error):
            continue  # ended this moment, or not ours to ask
    return list(found)


def _supervisor(home: Path) -> psutil.Process | None:
    """This installation's supervisord; its pid file may be stale and the number another's."""
    try:
        process = psutil.Process(int((home / "run" / "supervisord.pid").read_text()))
        ours = str(_configuration_file(home)) in process.cmdline()
    except (FileNotFoundError, ValueError, psutil.Error):
        return None
    return process if ours and process.status() != psutil.STATUS_ZOMBIE else None


def _configuration(home: Path) -> str:
    lines = [
        "[supervisord]",
        f"logfile={home / 'logs' / 'supervisord.log'}",
        f"pidfile={home / 'run' / 'supervisord.pid'}",
        f"childlogdir={home / 'logs'}",
        "umask=077",
    ]
    if os.geteuid() == 0:
        lines.append("user=root")
    for name, (program, *arguments) in COMMANDS.items():
        lines += [
            f"[program:{name}]",
            f"command={shlex.join([str(BINARIES / program), *arguments])}",
            "autorestart=true",
            "startsecs=10",
            "startretries=3",
            "stopasgroup=true",
            "killasgroup=true",
            f"stopwaitsecs={STOP_SECONDS}",
            "redirect_stderr=true",
            f"stdout_logfile={_log(home, name)}",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines).replace("%", "%%") + "\n"


def _log(home: Path, name: str) -> Path:
    return home / "logs" / f"{name}.log"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _configuration_file(home: Path) -> Path:
    return home / "run" / "supervisord.conf"


def _password_file(home: Path) -> Path:
    return home / "run" / "airflow_passwords.json"


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    for folder in ("airflow", "logs", "mlflow/artifacts", "run"):
        (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    with (home / "run" / "services.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
