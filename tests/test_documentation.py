"""The how-to pages do what they say: their files are written, their commands run."""

import re
import shlex
from collections.abc import Callable
from datetime import date

import psycopg
import pytest
import small_versions

from warehouse import publishing
from warehouse.connections import connect
from warehouse.contract import TABLES
from warehouse.settings import PROJECT

HOW_TO = PROJECT / "docs" / "how-to"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (HOW_TO / page).read_text(), re.M | re.S)


def commands(page: str) -> list[list[str]]:
    """The arguments of every `tierhouse` command in a page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("tierhouse ")]


@pytest.fixture(scope="module")
def run(settings, urls, tierhouse, tmp_path_factory) -> Callable[..., str]:
    """Run a command of the page in the folder where its reader is; return what it prints."""
    here = tmp_path_factory.mktemp("reader")
    (here / "my_shop").mkdir()
    (here / "exports").mkdir()
    (source,) = blocks("bring-your-shop.md", "yaml")
    (select,) = blocks("bring-your-shop.md", "sql")
    (purchases,) = blocks("bring-your-shop.md", "csv")
    (here / "my_shop" / "source.yml").write_text(source)
    (here / "my_shop" / "order_lines.sql").write_text(select)
    (here / "exports" / "purchases.csv").write_text(purchases)

    def run(arguments: list[str]) -> str:
        placed = [str(here / part) if part.startswith("./") else part for part in arguments]
        ended = tierhouse(
            *placed,
            TIERHOUSE_HOME=str(settings.home),
            TIERHOUSE_WAREHOUSE_URL=urls.warehouse,
            COLUMNS="80",
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert max(map(len, ended.stdout.splitlines()), default=0) <= 80
        return ended.stdout

    return run


def test_three_columns_in_a_csv_file_become_order_lines(run, urls):
    tried, _, loaded, *_ = commands("bring-your-shop.md")
    assert tried[:2] == ["sources", "check"]
    assert "Nothing was written" in run(tried)
    with connect(urls.warehouse) as connection:
        assert connection.execute("select count(*) from raw.order_lines").fetchone() == (0,)
    run(loaded)
    with connect(urls.warehouse) as connection:
        spent = connection.execute(
            "select source_customer_id, sum(quantity * unit_price)::text "
            "from raw.order_lines inner join pii.customer_ids using (customer_id) "
            "group by 1 order by 1"
        ).fetchall()
        first = connection.execute("select min(ordered_at)::text from raw.order_lines").fetchone()
    assert [(who, float(much)) for who, much in spent] == [
        ("ann@example.org", 12.45),
        ("bob@example.org", 12.50),
    ]
    assert first == ("2024-03-01 09:15:00",)  # Berlin is an hour ahead


def test_the_commands_for_refused_rows_run(run):
    run(commands("bring-your-shop.md")[2])
    for command in commands("mend-refused-rows.md"):
        assert run(command)


def test_the_contract_is_told_as_it_is():
    page = (HOW_TO / "bring-your-shop.md").read_text()
    for table in TABLES.values():
        (row,) = re.findall(rf"^\| {table.name} \| (.*) \|$", page, re.M)
        told = re.sub(r"\*|personal: ", "", row).replace("; ", ", ").split(", ")
        assert told == [*table.landed, *table.personal]
        starred = {name.strip("*") for name in re.split(", |; ", row) if name.endswith("*")}
        needed = {name for name in table.columns if table.is_required(name)}
        assert starred == needed - {"currency"}


def test_every_question_to_the_warehouse_is_answered(run, urls):
    day = date(2025, 6, 1)
    small_versions.write_gated(urls, day, {"a": ("platinum", 50.0), "b": ("bronze", 1.0)})
    publishing.publish(urls, day, keep=8)
    (command,) = commands("ask-the-warehouse.md")
    assert "platinum,1," in run(command)
    page = (HOW_TO / "ask-the-warehouse.md").read_text()
    with psycopg.connect(urls.warehouse) as connection:
        for query in blocks("ask-the-warehouse.md", "sql"):
            asked = connection.execute(query.encode())
            answers = asked.fetchall()
            assert answers or not re.search("horizon_days|customer_id =|tier_summary", query), query
        views = connection.execute(
            "select relname from pg_class where relnamespace = 'analytics'::regnamespace"
        ).fetchall()
    unasked = {name for (name,) in views} - set(re.findall(r"analytics\.(\w+)", page))
    assert unasked == {"customer_reasons", "model_curves", "quarantine_summary"}


def test_every_reason_for_quarantine_is_told():
    page = (HOW_TO / "mend-refused-rows.md").read_text()
    core = [(PROJECT / "warehouse" / f"{name}.py").read_text() for name in ("mapping", "landing")]
    reasons = re.findall(
        r"'((?:missing|unparsable|impossible|future|absurd|unknown|conflicting|invalid|malformed|"
        r"control)_\w+)'",
        "".join(core).replace('"', "'"),
    )
    assert set(reasons) > {"missing_key", "conflicting_key"}
    assert [reason for reason in sorted(set(reasons)) if f"`{reason}`" not in page] == []
