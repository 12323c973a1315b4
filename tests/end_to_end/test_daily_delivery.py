"""A shop that delivers a folder a day: by hand, and under the scheduler, which runs every day."""

import json
import shutil
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import psycopg
import pytest
import yaml

from warehouse.embedded import free_port
from warehouse.settings import PROJECT

TODAY = datetime.now(UTC).date()
FIRST, MISSING, AWAITED = (TODAY - timedelta(days=days) for days in (3, 2, 1))
TOMORROW = TODAY + timedelta(days=1)
HEADER = "order_id,line_number,customer_id,ordered_at,product_id,quantity,unit_price\n"


@pytest.fixture(scope="module")
def strict(tmp_path_factory) -> Path:
    """A source that waits for a day's files for two days, and then has them missing."""
    return source(tmp_path_factory.mktemp("strict") / "shop", missing_day="refused")


@pytest.fixture(scope="module")
def lenient(tmp_path_factory) -> Path:
    """The same shop, once it may have days without files."""
    return source(tmp_path_factory.mktemp("lenient") / "shop", missing_day="allowed")


def source(folder: Path, **declared: str) -> Path:
    shutil.copytree(PROJECT / "warehouse" / "sources" / "canonical", folder)
    settings = yaml.safe_load((folder / "source.yml").read_text()) | {"grace_hours": 48}
    settings["tables"]["order_lines"]["changed_rows"] = "correction"
    (folder / "source.yml").write_text(yaml.safe_dump(settings | declared))
    return folder


@pytest.fixture(scope="module")
def landing(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("landing")
    (folder / "shop").mkdir()
    return folder


@pytest.fixture(scope="module")
def installation(settings, landing, strict) -> dict[str, str]:
    return {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_WAREHOUSE_URL": settings.warehouse_url.get_secret_value(),
        "TIERHOUSE_LANDING": str(landing),
        "TIERHOUSE_AIRFLOW_PORT": str(free_port()),
        "TIERHOUSE_MLFLOW_PORT": str(free_port()),
        "TIERHOUSE_DAILY_SOURCE": str(strict),
        "TIERHOUSE_DAILY_SINCE": FIRST.isoformat(),
    }


def orders(days: list[date], quantity: int = 1) -> str:
    """Thirty lines a day, of two hundred customers; the same days give the same orders."""
    lines = [HEADER]
    for day in days:
        rng = np.random.default_rng(day.toordinal())
        for number, customer in enumerate(rng.integers(0, 200, 30)):
            product, price = rng.integers(0, 40), rng.integers(500, 4000) / 100
            lines.append(
                f"{day}-{number},1,c{customer},{day} 12:00:00,p{product},{quantity},{price}\n"
            )
    return "".join(lines)


def deliver(landing: Path, day: date, text: str, name: str = "order_lines.csv") -> None:
    """As a shop should: beside it first, and then renamed into place."""
    draft, folder = landing / "shop" / ".draft", landing / "shop" / day.isoformat()
    if folder.exists():
        folder.rename(draft)
    draft.mkdir(exist_ok=True)
    (draft / name).write_text(text)
    draft.rename(folder)


def before(day: date, days: int) -> list[date]:
    return [day - timedelta(days=ago) for ago in range(1, days + 1)]


def one(url: str, query: str) -> tuple[Any, ...]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchone() or ()


def test_by_hand_a_day_is_there_or_awaited_or_missing_or_allowed(
    tierhouse, installation, strict, lenient, landing, urls
):
    def delivery(source: Path, day: date) -> tuple[int, str]:
        found = tierhouse("delivery", str(source), "--day", str(day), **installation)
        return found.returncode, " ".join((found.stdout + found.stderr).split())

    def load(source: Path, day: date) -> str:
        found = tierhouse("load", str(source), "--day", str(day), **installation)
        assert found.returncode == 0, found.stderr
        return found.stdout.splitlines()[-1]

    code, said = delivery(strict, TOMORROW)
    assert (code, said.count("waited for until")) == (75, 1)
    assert delivery(lenient, TOMORROW)[0] == 75
    code, said = delivery(strict, MISSING)
    assert (code, said.count("missing_day: allowed")) == (1, 1)
    assert delivery(lenient, MISSING)[0] == 0
    assert tierhouse("load", str(strict), "--day", str(MISSING), **installation).returncode == 1
    assert load(lenient, MISSING) == f"Delivery of {MISSING}: none."

    long_ago = date(2024, 3, 1)
    for day, quantity, outcome in (
        (TOMORROW, 3, "on_time"), (TOMORROW, 3, "repeated"), (TOMORROW, 4, "corrected"),
        (long_ago, 3, "late"), (long_ago, 4, "corrected"), (TOMORROW, 4, "repeated"),
    ):  # fmt: skip
        deliver(landing, day, orders(before(day, 1), quantity))
        assert delivery(strict, day)[0] == 0
        assert load(strict, day) == f"Delivery of {day}: {outcome}."
    assert one(urls.warehouse, "select count(*), sum(quantity) from raw.order_lines") == (60, 240)
    assert one(urls.warehouse, "select count(*) from raw.superseded") == (60,)
    shutil.rmtree(landing / "shop")
    (landing / "shop").mkdir()


@pytest.fixture(scope="module")
def airflow(tierhouse, installation, settings):
    """Ask the running Airflow as a browser would; the DAGs that follow load_shop are paused."""
    address = f"http://127.0.0.1:{installation['TIERHOUSE_AIRFLOW_PORT']}"

    def ask(path: str, body: object = None, method: str | None = None, **headers: str) -> Any:
        request = urllib.request.Request(
            address + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
            method=method,
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    started = tierhouse("up", **installation)
    assert started.returncode == 0, started.stderr
    try:
        password = settings.secret("airflow_admin")
        token = ask("/auth/token", {"username": "admin", "password": password})["access_token"]

        def signed(path: str, body: object = None, method: str | None = None) -> Any:
            return ask(f"/api/v2/{path}", body, method, Authorization=f"Bearer {token}")

        pause = {"is_paused": True}
        wait_for(lambda: signed("dags/build_features", pause, "PATCH")["is_paused"])
        yield signed
    finally:
        assert tierhouse("down", **installation).returncode == 0


def wait_for(truth: Callable[[], Any], seconds: float = 180) -> Any:
    """What it says once it is true; Airflow answers 404 and 500 to what it does not have yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if found := truth():
                return found
        except HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(1)


@pytest.mark.slow
def test_under_the_scheduler_every_day_shows_what_it_was(airflow, landing, lenient, urls):
    def runs() -> dict[tuple[str, str], str]:
        found = airflow("dags/load_shop/dagRuns?limit=100")["dag_runs"]
        return {(run["run_type"], run["partition_key"]): run["dag_run_id"] for run in found}

    def at(run: str) -> str:
        return f"dags/load_shop/dagRuns/{urllib.parse.quote(run)}"

    def states(run: str) -> dict[str, str]:
        found = airflow(f"{at(run)}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def outcome(run: str, load: str = "success") -> str:
        ended = {"delivery": "success", "load": load, "gate": "success"}
        wait_for(lambda: states(run) == ended)
        return airflow(f"{at(run)}/taskInstances/load/xcomEntries/delivery")["value"]

    def look_again(run: str) -> None:
        body = {
            "dry_run": False, "dag_run_id": run, "task_ids": ["delivery"],
            "include_downstream": True, "only_failed": False,
        }  # fmt: skip
        airflow("dags/load_shop/clearTaskInstances", body)

    def start(day: date, **conf: str) -> str:
        body = {"logical_date": None, "partition_key": str(day), "conf": conf}
        return airflow("dags/load_shop/dagRuns", body)["dag_run_id"]

    history = orders(before(FIRST, 120))
    scheduled = [("scheduled", str(FIRST + timedelta(days=day))) for day in range(4)]
    deliver(landing, FIRST, history)
    deliver(landing, TODAY, orders([AWAITED]))
    wait_for(lambda: set(scheduled) <= set(runs()))
    first, missing, awaited, today = (runs()[key] for key in scheduled)

    wait_for(lambda: states(missing)["load"] == "upstream_failed")
    assert states(missing)["delivery"] == "failed"
    wait_for(lambda: states(awaited)["delivery"] == "up_for_reschedule")
    for run, expected in ((first, "late"), (today, "on_time")):
        if states(run)["delivery"] != "success":
            look_again(run)  # it had looked before the files came
        assert outcome(run) == expected

    assert outcome(start(MISSING, source=str(lenient)), load="skipped") == "none"
    deliver(landing, MISSING, orders([FIRST]))
    look_again(missing)
    assert outcome(missing) == "late"
    deliver(landing, TODAY, orders([AWAITED], quantity=2))
    assert outcome(start(TODAY)) == "corrected"
    deliver(landing, AWAITED, orders([MISSING]))
    look_again(awaited)
    assert outcome(awaited) == "on_time"

    (asset,) = airflow("assets?name_pattern=raw_orders")["assets"]
    events = wait_for(lambda: airflow(f"assets/events?asset_id={asset['id']}&limit=100"))
    assert sorted(
        (event["partition_key"], event["extra"]["delivery"]) for event in events["asset_events"]
    ) == sorted(
        (str(day), expected)
        for day, expected in (
            (FIRST, "late"), (MISSING, "none"), (MISSING, "late"), (AWAITED, "on_time"),
            (TODAY, "on_time"), (TODAY, "corrected"),
        )
    )  # fmt: skip
    assert one(
        urls.warehouse,
        "select count(*), count(*) filter (where quantity = 2), max(ordered_at)::date "
        "from raw.order_lines where quantity < 3",
    ) == (30 * 123, 30, AWAITED)
