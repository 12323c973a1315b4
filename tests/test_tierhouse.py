"""What a person sees who gets it wrong: one paragraph with the mend, the right exit code."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tierhouse import app
from warehouse.connections import connect
from warehouse.embedded import free_port
from warehouse.settings import PROJECT

HEADER = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
HOW_TO = PROJECT / "docs" / "how-to"
COMMANDS = (
    "load", "delivery", "sources check", "quarantine list", "quarantine show", "quarantine replay",
    "lookup", "rotate-key", "simulate", "build", "check", "train", "tune", "promote",
    "rollback", "policy check", "score", "publish", "report", "dashboard", "backtest", "embed",
    "lookalikes", "explain", "sql", "demo", "up", "down", "status", "doctor", "docs", "airflow",
)  # fmt: skip
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/how-to/{p.name}" for p in HOW_TO.glob("*.md"))]


@pytest.fixture(scope="module")
def installation(settings, urls, tierhouse, tmp_path_factory) -> dict[str, str]:
    """A shop with three orders."""
    file = tmp_path_factory.mktemp("shop") / "shop.csv"
    lines = [f"{n},A{n},THING,1,2011-0{n}-01 10:00:00,5.00,1234{n},Spain\n" for n in (1, 2, 3)]
    file.write_text(HEADER + "".join(lines))
    variables = {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_WAREHOUSE_URL": settings.warehouse_url.get_secret_value(),
    }
    assert tierhouse("load", "online_retail", str(file), **variables).returncode == 0
    return variables


@pytest.fixture
def refused(tierhouse, installation):
    """Run a command that must be refused; return its one paragraph."""

    def run(code: int, *arguments: str, **variables: str) -> str:
        ended = tierhouse(*arguments, **{**installation, **variables})
        assert ended.returncode == code, ended.stdout + ended.stderr
        assert ended.stderr.startswith("Error: ")
        assert "Traceback" not in ended.stdout + ended.stderr
        assert "\n\n" not in ended.stderr
        lines = [line.removeprefix("Error: ") for line in ended.stderr.splitlines()]
        assert max(len(line) for line in lines if " " in line) <= 80  # a path is not cut
        return " ".join(ended.stderr.split())

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command):
    help_text = CliRunner().invoke(app, [*command.split(), "--help"], prog_name="tierhouse")
    assert help_text.exit_code == 0
    assert f"tierhouse {command}" in help_text.stdout.split("Example:")[1]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_a_page_names_exists(page):
    named = re.findall(
        r"(?:^|`|bin/)tierhouse ([a-z-]+)", (PROJECT / page).read_text(), re.MULTILINE
    )
    assert set(named) <= {command.split()[0] for command in COMMANDS}


def test_a_report_of_what_nobody_published(refused):
    said = refused(1, "report", "--as-of", "2018-01-01")
    assert "Nothing is published" in said and "tierhouse publish" in said


def test_a_dashboard_whose_port_is_anothers(refused):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused(1, "dashboard", TIERHOUSE_DASHBOARD_PORT=port)
    assert port in said and "TIERHOUSE_DASHBOARD_PORT" in said


def test_a_tier_policy_is_checked_without_a_warehouse_and_a_bad_one_is_wrong_usage(
    tierhouse, tmp_path
):
    """An override that ended is said, and is no mistake."""
    home = {"TIERHOUSE_HOME": str(tmp_path / "home")}
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text(
        "tiers: [{name: a, share: 1}]\n"
        "overrides: [{customer: 0123456789abcdef0123456789abcdef, tier: a, until: 2020-01-01}]\n"
    )
    bad.write_text("tiers: [{name: a, shar: 1}]\n")
    ended = tierhouse("policy", "check", str(good), **home)
    assert ended.returncode == 0
    said = " ".join(ended.stdout.split())
    assert "ended on 2020-01-01: take it out" in said
    assert "can be followed. It was tried on nobody: the warehouse is not up." in said
    ended = tierhouse("policy", "check", str(bad), **home)
    assert ended.returncode == 2
    assert "unknown key `shar` in tier 1; allowed are name, share" in " ".join(ended.stderr.split())
    assert tierhouse("policy", "check", str(tmp_path / "none.yml"), **home).returncode == 2
    assert not (tmp_path / "home").exists()


def test_a_path_that_is_not_there(refused):
    said = refused(2, "load", "online_retail", "/no/such/file.csv")
    assert "nothing at /no/such/file.csv" in said
    assert "Give `tierhouse load online_retail` the file" in said


def test_a_file_without_the_needed_columns(refused, tmp_path, settings):
    file = tmp_path / "wrong.csv"
    file.write_text("order,date\n1,2011-01-01\n")
    said = refused(3, "load", "online_retail", str(file))
    assert "lacks the column Invoice or InvoiceNo" in said
    assert "Its first line has 2 fields, and none is such a header" in said
    assert "Nothing was loaded" in said
    with connect(settings.warehouse_url.get_secret_value()) as connection:
        assert connection.execute("select count(*) from raw.order_lines").fetchone() == (3,)


@pytest.mark.parametrize("command", ["build", "train", "score"])
def test_a_day_before_the_first_order(refused, command):
    said = refused(2, command, "--as-of", "2011-01-01")
    assert "the first order is of 2011-01-01" in said
    assert "Choose a day after 2011-01-01" in said


@pytest.mark.parametrize("day", ["yesterday", "2011-13-01", ""])
def test_a_day_that_is_no_day(refused, day):
    assert "not a day such as 2018-01-01" in refused(2, "build", "--as-of", day)


def test_a_horizon_longer_than_the_history(refused):
    said = refused(2, "backtest", "--origins", "2011-01-02", "--horizon", "4500")
    assert "What the 4500 days from 2011-01-02 brought is not known yet" in said
    assert "a shorter horizon" in said


@pytest.mark.parametrize(
    "asked",
    ["train --as-of 2011-01-01", "score --as-of yesterday", "backtest", "check features",
     "backtest --origins 2011-03-02 --horizon 4500", "tune --as-of 2019-01-01"],
)  # fmt: skip
def test_a_wrong_day_is_refused_before_what_takes_seconds_to_load(installation, asked):
    heavy = {"great_expectations", "lightgbm", "mlflow", "pandas", "torch"}
    program = (
        "import sys, tierhouse\n"
        "try: tierhouse.main()\n"
        f"finally: print(*({heavy} & set(sys.modules)), file=sys.stdout)"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TIERHOUSE")}
    ended = subprocess.run(
        [sys.executable, "-c", program, *asked.split()],
        env={**clean, **installation}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.split()) == (2, []), ended.stderr


def test_too_little_history_to_tune(refused):
    assert "first order is of 2011-01-01" in refused(2, "tune", "--as-of", "2011-03-02")


def test_a_backtest_without_days_or_with_both_ways_to_name_them(refused):
    assert "either the days to predict from" in refused(2, "backtest")
    both = refused(2, "backtest", "--origins", "2011-01-02", "--as-of", "2011-03-01")
    assert "either the days to predict from" in both


def test_a_model_that_nobody_has(refused):
    asked = ("backtest", "--origins", "2011-01-02", "--horizon", "30")
    said = refused(2, *asked, "--models", "mean,oracle")
    assert "There is no model oracle. There are lightgbm_hurdle, mean," in said


def test_a_scoreboard_for_a_folder_that_is_not_there(refused):
    asked = ("backtest", "--origins", "2011-03-02", "--json", "/no/such/folder/scores.json")
    assert "There is no folder /no/such/folder" in refused(2, *asked)


def test_publishing_a_day_that_was_not_scored(refused):
    said = refused(1, "publish", "--as-of", "2011-03-02")
    assert "Run `tierhouse score --as-of 2011-03-02` first" in said


def test_checking_features_that_were_not_built(refused):
    assert "tierhouse build" in refused(1, "check", "features", "--as-of", "2011-03-02")


@pytest.mark.parametrize("service", ["AIRFLOW", "MLFLOW"])
def test_a_port_in_use(refused, tmp_path, service):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        free = {
            "TIERHOUSE_AIRFLOW_PORT": str(free_port()),
            "TIERHOUSE_MLFLOW_PORT": str(free_port()),
        }
        taken = {f"TIERHOUSE_{service}_PORT": str(port)}
        said = refused(1, "up", TIERHOUSE_HOME=str(tmp_path), **{**free, **taken})
    assert f"Port {port} on 127.0.0.1" in said
    assert f"set TIERHOUSE_{service}_PORT to a free port" in said
    assert list(tmp_path.iterdir()) == []


def test_a_warehouse_that_does_not_answer(refused):
    address = f"postgresql://me:my_password@127.0.0.1:{free_port()}/shop"
    said = refused(1, "sql", "select 1", TIERHOUSE_WAREHOUSE_URL=address)
    assert "does not answer" in said
    assert "TIERHOUSE_WAREHOUSE_URL" in said
    assert "my_password" not in said


def test_a_setting_that_makes_no_sense(refused):
    said = refused(2, "status", TIERHOUSE_AIRFLOW_PORT="many")
    assert "TIERHOUSE_AIRFLOW_PORT" in said
    assert "many" not in said


def test_a_second_demo_beside_the_first(refused, tmp_path):
    holder = "import sys, time, pathlib; from warehouse.dag_runs import only_one\n" + (
        "with only_one(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        said = refused(1, "demo", TIERHOUSE_HOME=str(tmp_path))
    finally:
        first.kill()
        first.wait()
    assert f"Another `tierhouse demo` (pid {first.pid}) is running" in said
    assert "TIERHOUSE_HOME" in said


def test_the_right_to_run_a_demo_ends_with_its_process(tmp_path):
    from warehouse.dag_runs import only_one

    holder = "import sys, pathlib, os; from warehouse.dag_runs import only_one\n" + (
        "with only_one(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", holder, str(tmp_path)], check=False)
    with only_one(tmp_path):
        pass


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_sql_prints_in_the_form_asked_for(tierhouse, installation, form):
    asked = ("sql", "select order_id from raw.order_lines order by 1 limit 1", "--format", form)
    printed = tierhouse(*asked, **installation)
    assert printed.returncode == 0
    read = {
        "csv": lambda text: text == "order_id\n1\n",
        "json": lambda text: json.loads(text) == [{"order_id": "1"}],
        "table": lambda text: [line.strip() for line in text.split()][::2] == ["order_id", "1"],
    }
    assert read[form](printed.stdout)


def test_sql_does_not_write(refused):
    assert "one statement that reads" in refused(1, "sql", "delete from raw.order_lines")


def test_there_is_nothing_to_roll_back_to_before_something_is_published(refused):
    assert "There is no earlier version" in refused(3, "rollback")


def test_status_says_which_shop_is_loaded_and_what_of_it(tierhouse, installation):
    ended = tierhouse("status", **installation)
    assert ended.returncode == 0
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("loaded"))
    assert line.split()[1] == "online_retail"
    rows = [line.split() for line in ended.stdout.splitlines() if line.endswith(" rows")]
    assert rows == [[name, "3", "rows"] for name in ("customers", "order_lines", "products")]
    ages = [line.split()[1] for line in ended.stdout.splitlines() if " h ago" in line]
    assert ages == ["fresh"]
    assert max(map(len, ended.stdout.splitlines())) <= 80


def test_status_and_doctor_start_nothing(tierhouse, tmp_path):
    ended = tierhouse("status", TIERHOUSE_HOME=str(tmp_path))
    assert ended.returncode == 0
    assert "down" in ended.stdout
    examined = tierhouse(
        "doctor",
        TIERHOUSE_HOME=str(tmp_path),
        TIERHOUSE_AIRFLOW_PORT=str(free_port()),
        TIERHOUSE_MLFLOW_PORT=str(free_port()),
    )
    assert examined.returncode == 0, examined.stdout
    assert not (tmp_path / "postgres").exists()


def test_doctor_says_what_to_mend_and_ends_with_1(tierhouse, tmp_path):
    examined = tierhouse(
        "doctor",
        TIERHOUSE_HOME=str(tmp_path),
        TIERHOUSE_WAREHOUSE_URL=f"postgresql://me@127.0.0.1:{free_port()}/shop",
    )
    assert examined.returncode == 1
    assert "Check that the server runs and that TIERHOUSE_WAREHOUSE_URL is right" in " ".join(
        examined.stdout.split()
    )
