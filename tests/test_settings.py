import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from warehouse.settings import PROJECT, Settings, WrongUsage, read_settings


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """Nothing of ours is set."""
    for name in list(os.environ):
        if name.startswith("TIERHOUSE_") or name == "MLFLOW_TRACKING_URI":
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TIERHOUSE_WAREHOUSE_URL", "mysql://me:topsecret@host/shop"),
        ("TIERHOUSE_WAREHOUSE_URL", "postgresql://me:topsecret@/shop?host"),
        ("TIERHOUSE_WAREHOUSE_URL", "host=topsecret dbname=shop"),
        ("TIERHOUSE_WAREHOUSE_PORT", "topsecret"),
        ("TIERHOUSE_WAREHOUSE_PORT", "0"),
        ("TIERHOUSE_AIRFLOW_PORT", "65536"),
        ("TIERHOUSE_MLFLOW_PORT", "-1"),
        ("TIERHOUSE_HORIZON_DAYS", "topsecret"),
        ("TIERHOUSE_HORIZON_DAYS", "0"),
        ("TIERHOUSE_HORIZON_DAYS", "-90"),
        ("TIERHOUSE_HOME", "~topsecret-is-no-user/state"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable_and_never_shown(
    monkeypatch, variable, value
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(WrongUsage, match=variable) as said:
        read_settings()
    assert "\n" not in str(said.value)
    assert "topsecret" not in str(said.value)
    assert said.value.__suppress_context__


def test_every_wrong_variable_is_named_at_once(monkeypatch):
    monkeypatch.setenv("TIERHOUSE_WAREHOUSE_PORT", "x")
    monkeypatch.setenv("TIERHOUSE_AIRFLOW_PORT", "y")
    with pytest.raises(WrongUsage, match=r"TIERHOUSE_WAREHOUSE_PORT.*TIERHOUSE_AIRFLOW_PORT"):
        read_settings()


def test_an_empty_variable_is_none_at_all(monkeypatch):
    for name in ("WAREHOUSE_URL", "WAREHOUSE_PORT", "HOME", "HORIZON_DAYS"):
        monkeypatch.setenv(f"TIERHOUSE_{name}", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert read_settings() == Settings()
    assert read_settings().home == PROJECT / ".tierhouse"


def test_home_is_absolute_wherever_the_command_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIERHOUSE_HOME", "state")
    assert read_settings().home == tmp_path / "state"
    monkeypatch.setenv("TIERHOUSE_HOME", "~/state")
    assert read_settings().home == Path.home() / "state"


def test_the_address_of_the_warehouse_is_never_printed(monkeypatch):
    monkeypatch.setenv("TIERHOUSE_WAREHOUSE_URL", "postgresql://me:topsecret@host/shop")
    assert "topsecret" not in f"{read_settings()!r} {read_settings()}"


def test_a_secret_is_made_once_for_its_owner_only(tmp_path):
    settings = Settings(home=tmp_path / "deep" / "home")
    mask = os.umask(0)
    try:
        secret = settings.secret("one")
    finally:
        os.umask(mask)
    assert settings.secret("one") == Settings(home=settings.home).secret("one") == secret
    assert settings.secret("two") != secret
    assert len(secret) >= 32
    folder = settings.home / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["one", "two"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_processes_that_make_a_secret_at_once_get_the_same(tmp_path):
    """Many secrets and a common start, so that some are really made at once."""
    made = (
        "import sys, time; from pathlib import Path; from warehouse.settings import Settings\n"
        "settings = Settings(home=Path(sys.argv[1])); Path(sys.argv[2]).touch()\n"
        "while not Path(sys.argv[3]).exists(): pass\n"
        "print(*(settings.secret(str(n)) for n in range(300)))"
    )
    ready, begin = [tmp_path / "ready0", tmp_path / "ready1"], tmp_path / "begin"
    arguments = [sys.executable, "-c", made, str(tmp_path / "home")]
    both = [
        subprocess.Popen(
            [*arguments, str(file), str(begin)], cwd=PROJECT, stdout=subprocess.PIPE, text=True
        )
        for file in ready
    ]
    while not all(file.exists() for file in ready):
        assert all(process.poll() is None for process in both)
    begin.touch()
    first, second = (process.communicate(timeout=60)[0].split() for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    assert len(set(first)) == 300
    assert len(list((tmp_path / "home" / "secrets").iterdir())) == 300  # no drafts are left
