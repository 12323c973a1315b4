"""The rules of docker-compose.yml, and its own commands started without Docker."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from warehouse.connections import make_database
from warehouse.embedded import free_port

PROJECT = Path(__file__).parents[1]
FILE = PROJECT / "docker-compose.yml"
SECRETS = {
    "POSTGRES_SECRET", "WAREHOUSE_SECRET", "ANALYST_SECRET", "AIRFLOW_DB_SECRET",
    "MLFLOW_DB_SECRET",
    "AIRFLOW_ADMIN_SECRET", "AIRFLOW_API_SECRET", "AIRFLOW_JWT_SECRET", "AIRFLOW_FERNET_SECRET",
}  # fmt: skip
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}|\$\$")


@pytest.fixture
def compose():
    return yaml.safe_load(FILE.read_text())


def texts(node):
    """Every string below a node."""
    if isinstance(node, dict):
        return [text for each in node.values() for text in texts(each)]
    if isinstance(node, list):
        return [text for each in node for text in texts(each)]
    return [node] if isinstance(node, str) else []


def is_pinned(image):
    return re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", image) is not None


def ports_beyond_loopback(service):
    return [port for port in service.get("ports", []) if not str(port).startswith("127.0.0.1:")]


def careless_secrets(service):
    """Secrets that are written out, may be empty, or have a default."""
    careless = []
    for name, value in service.get("environment", {}).items():
        for variable, way, rest in VARIABLE.findall(str(value)):
            if variable.endswith("_SECRET") and (way != "?" or not rest):
                careless.append(f"{name}: {variable} is not demanded")
        is_secret = re.search(r"SECRET|PASSWORD$|_KEY$|_CONN$|_URL$|STORE_URI$", name)
        is_plain_address = name.endswith("_URL") and "@" not in value
        if is_secret and not is_plain_address and not re.search(r"\$\{\w+_SECRET:\?", value):
            careless.append(f"{name} is written out")
    return careless


def runs_as_root(service):
    return str(service.get("user", "root")).split(":")[0] in ("", "0", "root")


RULES = {
    "ports are on loopback": lambda s: not ports_beyond_loopback(s),
    "secrets are demanded": lambda s: not careless_secrets(s),
    "it is not root": lambda s: not runs_as_root(s),
    "it gains no privileges": lambda s: "no-new-privileges:true" in s.get("security_opt", []),
    "it has no capabilities": lambda s: s.get("cap_drop") == ["ALL"] and not s.get("cap_add"),
    "it is not privileged": lambda s: not s.get("privileged") and s.get("network_mode") != "host",
    "its image is pinned": lambda s: is_pinned(s["image"]),
    "its health is checked": lambda s: s.get("restart") == "no" or "test" in s["healthcheck"],
    "its state is no folder of ours": lambda s: (
        not any(volume.startswith(("/", "./", "~")) for volume in s.get("volumes", []))
    ),
}

BREAKS = {
    "ports are on loopback": [("ports", ["8080:8080"]), ("ports", ["0.0.0.0:80:80"])],
    "secrets are demanded": [
        ("environment", {"POSTGRES_PASSWORD": "postgres"}),
        ("environment", {"AIRFLOW__CORE__FERNET_KEY": "${AIRFLOW_FERNET_SECRET:-}"}),
        ("environment", {"AIRFLOW__CORE__FERNET_KEY": "${AIRFLOW_FERNET_SECRET}"}),
        ("environment", {"TIERHOUSE_WAREHOUSE_URL": "postgresql://a:b@postgres/warehouse"}),
    ],
    "it is not root": [("user", "root"), ("user", "0:0"), ("user", "")],
    "it gains no privileges": [("security_opt", [])],
    "it has no capabilities": [("cap_drop", ["NET_RAW"]), ("cap_add", ["SYS_ADMIN"])],
    "it is not privileged": [("privileged", True), ("network_mode", "host")],
    "its image is pinned": [("image", "postgres"), ("image", "postgres:latest")],
    "its health is checked": [("healthcheck", {})],
    "its state is no folder of ours": [("volumes", ["/var/lib:/data"])],
}


@pytest.mark.parametrize("rule", RULES)
def test_every_service_keeps_the_rule(compose, rule):
    assert [name for name, each in compose["services"].items() if not RULES[rule](each)] == []


@pytest.mark.parametrize(("rule", "change"), [(r, c) for r, all_ in BREAKS.items() for c in all_])
def test_every_rule_can_be_broken(compose, rule, change):
    service = copy.deepcopy(compose["services"]["api-server"])
    assert RULES[rule](service)
    service[change[0]] = change[1]
    assert not RULES[rule](service)


def test_the_base_image_of_the_dockerfile_is_pinned_and_the_user_is_not_root():
    lines = (PROJECT / "Dockerfile").read_text().splitlines()
    images = [line.split()[1] for line in lines if line.startswith("FROM ")]
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert images and all(is_pinned(image) for image in images)
    assert users and users[-1] not in ("root", "0")


def test_a_missing_secret_stops_it_with_a_message(compose):
    assert {v for v, way, _ in VARIABLE.findall(FILE.read_text()) if way == "?"} == SECRETS
    for missing in SECRETS:
        with pytest.raises(LookupError, match=missing):
            fill(compose, dict.fromkeys(SECRETS - {missing}, "x"))


def test_the_head_of_the_file_makes_every_secret():
    head = FILE.read_text().split("\nname:")[0]
    recipe = "".join(line.removeprefix("#").removeprefix("   ") + "\n" for line in head.split("\n"))
    recipe = recipe[recipe.index("umask") : recipe.index("Then:")].replace(">> .env", ">&3")
    script = f"exec 3>&1\n{recipe.replace('> .env', '>&3')}"
    made = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True)
    values = dict(line.split("=", 1) for line in made.stdout.splitlines())
    assert set(values) == SECRETS
    assert len(set(values.values())) == len(SECRETS) and min(map(len, values.values())) >= 44


def test_mlflow_is_asked_by_the_name_it_allows(compose):
    services = compose["services"]
    address = services["scheduler"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert address in services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def fill(node, variables):
    """The node with ${NAME}, ${NAME:-default} and ${NAME:?message} filled in as compose does."""

    def value(match):
        name, way, rest = match.groups()
        if name is None:
            return "$"
        if variables.get(name):
            return variables[name]
        if way == "?":
            raise LookupError(f"{name} {rest}")
        return rest if way == "-" else ""

    if isinstance(node, dict):
        return {key: fill(each, variables) for key, each in node.items()}
    if isinstance(node, list):
        return [fill(each, variables) for each in node]
    return VARIABLE.sub(value, node) if isinstance(node, str) else node


@pytest.mark.slow
def test_the_commands_of_the_file_come_up_healthy(compose, urls, tmp_path):
    fernet = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
    secrets = dict.fromkeys(SECRETS, "0" * 64) | {"AIRFLOW_FERNET_SECRET": fernet}
    services = fill(compose, secrets)["services"]
    for url in (urls.airflow, urls.mlflow):
        make_database(url, beside=urls.warehouse)
    airflow_port, mlflow_port, dashboard_port = free_port(), free_port(), free_port()
    addresses = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": urls.airflow,
        "MLFLOW_BACKEND_STORE_URI": urls.mlflow,
        "TIERHOUSE_WAREHOUSE_URL": urls.warehouse,
        "TIERHOUSE_ANALYST_URL": urls.analyst,
        "TIERHOUSE_DASHBOARD_PORT": str(dashboard_port),
        "AIRFLOW__API__PORT": str(airflow_port),
        "MLFLOW_PORT": str(mlflow_port),
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
    }

    def here(text):
        """What the container sees, as this machine sees it."""
        for there, place in {
            "/var/lib/tierhouse": str(tmp_path),
            "/opt/tierhouse": str(PROJECT),
            "api-server:8080": f"127.0.0.1:{airflow_port}",
            "127.0.0.1:5000": f"127.0.0.1:{mlflow_port}",
            "127.0.0.1:8501": f"127.0.0.1:{dashboard_port}",
            "0.0.0.0": "127.0.0.1",
        }.items():
            text = text.replace(there, place)
        return text

    def environment(service):
        return {name: here(value) for name, value in service["environment"].items()} | addresses

    def start(name):
        log = (tmp_path / f"{name}.log").open("w")
        service = services[name]
        return subprocess.Popen(
            service["command"], env=environment(service), cwd=tmp_path, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def is_healthy(name):
        service = services[name]
        check = [here(word) for word in service["healthcheck"]["test"][1:]]
        return subprocess.run(check, env=environment(service), capture_output=True).returncode == 0

    assert start("init").wait(timeout=120) == 0, (tmp_path / "init.log").read_text()
    passwords = tmp_path / "airflow_passwords.json"
    assert json.loads(passwords.read_text()) == {"admin": secrets["AIRFLOW_ADMIN_SECRET"]}
    assert passwords.stat().st_mode & 0o077 == 0

    names = ["api-server", "scheduler", "dag-processor", "triggerer", "mlflow", "dashboard"]
    running = {name: start(name) for name in names}
    try:
        deadline = time.monotonic() + 240
        waiting = names
        while waiting and time.monotonic() < deadline:
            time.sleep(2)
            waiting = [name for name in waiting if not is_healthy(name)]
            for name, process in running.items():
                assert process.poll() is None, (tmp_path / f"{name}.log").read_text()[-3000:]
        assert waiting == []
    finally:
        for process in running.values():
            os.killpg(process.pid, signal.SIGTERM)
        for process in running.values():
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
