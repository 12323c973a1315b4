"""Names, addresses and the shop's own customer numbers are in `pii`, and nowhere else."""

import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
import shop_files
from typer.testing import CliRunner

from tierhouse import app
from warehouse.settings import Settings, TierhouseError

CANARIES = 1_000
REFUSED = range(0, CANARIES, 20)  # customers with a birth year that is none
MALFORMED = range(7, CANARIES, 100)  # and with a comma too many in the name
DAY = date(2026, 1, 5)
# In every planted value, and in nothing else.
PLANTED = re.compile(rb"qanary|4909904173377", re.IGNORECASE)


def customer(number: int) -> shop_files.Row:
    return shop_files.row("customers", number) | {
        "customer_id": f"qanary-{number:04}",
        "email": f"qanary{number:04}@mail.example",
        "phone": f"+4909904173377{number:04}",
        "full_name": f"Ann Qanary{number:04} Smith",
    }


def line(number: int) -> shop_files.Row:
    at = shop_files.midnight(2025, 1 + number % 12, 1 + number % 28)
    return shop_files.row("order_lines", number) | {
        "customer_id": f"qanary-{number * 7 % CANARIES:04}",
        "ordered_at": at,
        "product_id": f"p{number % 20}",
    }


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return shop_files.canonical(tmp_path_factory.mktemp("canaries") / "shop", {})


@pytest.fixture(scope="module")
def files(shop: Path) -> Path:
    """A day's delivery: a thousand customers, some of whose rows are refused, and their orders."""
    folder = shop.parent / "files"
    customers = []
    for number in range(CANARIES):
        row = customer(number)
        if number in REFUSED:
            row["birth_year"] = "unknown"
        record = shop_files.record(shop_files.fields(row))
        if number in MALFORMED:
            record = record.replace(b"Ann Qanary", b"Qanary, Ann ")
        customers.append(record)
    header = shop_files.header("customers")
    shop_files.write_records(folder / "customers.csv", [header, *customers])
    lines = [line(number) for number in range(5_000)]
    for number in range(0, len(lines), 100):
        lines[number]["quantity"] = "many"
    # And an address that nobody asked for.
    records = [
        shop_files.record([*shop_files.fields(one), b"qanary@mail.example"]) for one in lines
    ]
    header = shop_files.header("order_lines") + b",contact"
    shop_files.write_records(folder / "order_lines.csv", [header, *records])
    products = shop_files.rows("products", 20)
    shop_files.write_csv(folder / "products.csv", "products", products)
    return folder


def drifted(folder: Path) -> dict[str, Path]:
    """Files that are refused; a refusal says what it found."""
    rows = [customer(number) for number in range(30)]
    records = [shop_files.record(shop_files.fields(row)) for row in rows]
    header = shop_files.header("customers")
    shifted = [b",".join([*record.split(b",")[3:], b"", b"", b""]) for record in records]
    unclosed = [records[0].replace(b"Ann Qanary", b'"Ann Qanary'), *records[1:]]
    found = {
        "without a header": records,
        "with its columns shifted": [header, *shifted],
        "without its key": [header.replace(b"customer_id", b"id"), *records],
        "with a quote never closed": [header, *unclosed],
        "with another delimiter": [header, *(record.replace(b",", b";") for record in records)],
        "with another delimiter throughout": [
            line.replace(b",", b";") for line in (header, *records)
        ],
        "with bytes that are no text": [
            header, *(record.replace(b"Ann Q", b"\xc4nn Q") for record in records),
        ],
        "with control characters": [
            header, *(record.replace(b"@mail", b"\x07@mail") for record in records),
        ],
    }  # fmt: skip
    return {
        kind: shop_files.write_records(folder / kind.replace(" ", "_") / "customers.csv", lines)
        for kind, lines in found.items()
    } | {
        "text in a Parquet number": _typed(folder / "typed" / "customers.parquet", rows),
    }


def _typed(path: Path, rows: list[shop_files.Row]) -> Path:
    swapped = [row | {"birth_year": row["email"]} for row in rows]
    return shop_files.write_parquet(path, "customers", swapped, birth_year=pa.string())


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def said(settings: Settings, urls, tierhouse: Run, shop, files) -> Iterator[dict[str, str]]:
    """What every command said that had to do with the canaries: title -> both of its outputs."""
    assert settings.warehouse_url is not None
    ours = {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_WAREHOUSE_URL": settings.warehouse_url.get_secret_value(),
    }
    outputs: dict[str, str] = {}

    def run(title: str, *arguments: str, ends: tuple[int, ...] = (0,)) -> None:
        ended = tierhouse(*arguments, **ours)
        assert ended.returncode in ends, (title, ended.returncode, ended.stdout, ended.stderr)
        outputs[title] = ended.stdout + ended.stderr

    def run_here(title: str, *arguments: str, is_refused: bool = False) -> None:
        """As `run`, in this process: sooner, and what it raises is what it would have said."""
        ended = CliRunner(env=ours).invoke(app, arguments)
        assert is_refused == isinstance(ended.exception, TierhouseError), (title, ended)
        outputs[title] = f"{ended.output} {ended.exception}"

    at, day = (str(shop), str(files)), ("--day", str(DAY))
    assert len(REFUSED) + len(MALFORMED) > 0.05 * CANARIES  # the first time it is too much
    run("refused", "load", *at, *day, ends=(3,))
    text = (shop / "source.yml").read_text()
    (shop / "source.yml").write_text(text + "\nmax_quarantined_share: 0.2\n")
    run_here("sources check", "sources", "check", *at)
    run("load", "load", *at, *day)
    run_here("load again", "load", *at, *day)
    for kind, file in drifted(shop.parent / "drifted").items():
        run_here(f"load {kind}", "load", str(shop), str(file), *day, is_refused=True)
        ended = CliRunner(env=ours).invoke(app, ["sources", "check", str(shop), str(file)])
        outputs[f"sources check {kind}"] = f"{ended.output} {ended.exception}"
    run_here("quarantine list", "quarantine", "list")
    run_here("quarantine show", "quarantine", "show", "--limit", "1000")
    run_here("quarantine replay", "quarantine", "replay", str(shop))
    run("check raw", "check", "raw", ends=(0, 3))
    run("build", "build", "--as-of", "2026-01-06")
    run_here("a query", "sql", "select * from features.customer_features limit 5")
    yield outputs


def test_the_commands_say_no_personal_data(said):
    leaks = [title for title, text in said.items() if PLANTED.search(text.encode())]
    assert leaks == []


def test_no_table_outside_pii_holds_personal_data(said, urls):
    held = shop_files.contents(urls.warehouse)
    leaks = {
        table: hits[:3]
        for table, rows in held.items()
        if not table.startswith("pii.")
        and (hits := [row for row in rows if PLANTED.search(row.encode())])
    }
    assert leaks == {}
    assert held["raw.customers"] and held["quarantine.rows"]
    assert held["features.feat_customer_rfm"]


def test_no_file_of_the_installation_holds_personal_data(said, settings):
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    leaks = [path for path in files if PLANTED.search(path.read_bytes())]
    assert leaks == []
    assert files


def test_the_log_of_the_server_holds_no_personal_data(said, server):
    with psycopg.connect(server, autocommit=True) as connection:
        try:
            (log,) = connection.execute(
                "select pg_read_binary_file(pg_current_logfile())"
            ).fetchone() or (b"",)
        except psycopg.Error:
            pytest.skip("this role may not read the log of this server")
    if log is None:
        pytest.skip("this server keeps no log that it knows of")
    assert not PLANTED.search(log)


def test_pii_holds_every_good_customer_under_the_pseudonym(said, settings, urls):
    key = settings.secret("pseudonyms").encode()
    good = [n for n in range(CANARIES) if n not in REFUSED and n not in MALFORMED]
    with psycopg.connect(urls.warehouse) as connection:
        people = connection.execute(
            "select customer_id, email, phone, full_name from pii.customers"
        ).fetchall()
        known = dict(
            connection.execute(
                "select source_customer_id, customer_id from pii.customer_ids"
            ).fetchall()
        )
    rows = [customer(number) for number in good]
    assert set(people) == {
        (shop_files.pseudonym(row["customer_id"], key), row["email"], row["phone"],
         row["full_name"])
        for row in rows
    }  # fmt: skip
    assert len(people) == len(good)
    for row in rows:
        assert known[row["customer_id"]] == shop_files.pseudonym(row["customer_id"], key)


def test_the_search_finds_the_canaries_where_they_belong(said, urls):
    with psycopg.connect(urls.warehouse) as connection:
        rows = connection.execute("select one::text from pii.customers as one").fetchall()
    assert all(PLANTED.search(text.encode()) for (text,) in rows)
