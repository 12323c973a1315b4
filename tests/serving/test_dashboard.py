"""The pages in a real browser: they open, filter, speak both languages, and call nobody else."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from psycopg.errors import InsufficientPrivilege

from serving import queries
from warehouse.connections import connect
from warehouse.embedded import free_port

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium to look at the pages with: apt-get install chromium"
)
SWITCHES = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
expect.set_options(timeout=60_000)  # of a machine that has other things to do
PAGES = {
    "en": ["Overview", "Tier explorer", "Customer", "Model scoreboard", "Data quality"],
    "zh": ["总览", "客户查找", "单个客户", "模型成绩", "数据质量"],
}


@pytest.fixture(scope="module")
def address(settings, shop) -> Iterator[str]:
    """Where `tierhouse dashboard` serves the published shop, which it reads as an analyst."""
    port = free_port()
    variables = {
        "TIERHOUSE_HOME": str(settings.home),
        "TIERHOUSE_ANALYST_URL": shop.analyst_url,
        "TIERHOUSE_DASHBOARD_PORT": str(port),
    }
    log = settings.home / "dashboard.log"
    with log.open("wb") as out:
        running = subprocess.Popen(
            [Path(sys.executable).with_name("tierhouse"), "dashboard"],
            env=os.environ | variables,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while not is_well(f"http://127.0.0.1:{port}/_stcore/health"):
            assert running.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait()


def is_well(url: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as response:
            return response.read() == b"ok"
    except OSError:
        return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield found
        found.close()


@pytest.fixture
def page(browser, address) -> Iterator[Page]:
    """A reader's window. What goes wrong in it, and whom it calls, is noted and must be nothing."""
    window = browser.new_page(viewport={"width": 1360, "height": 1000})
    wrong: list[str] = []
    window.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    window.on("pageerror", lambda error: wrong.append(str(error)))
    window.on(
        "request", lambda asked: wrong.append(asked.url) if is_beyond(asked.url, address) else None
    )
    window.set_default_timeout(60_000)
    yield window
    window.close()
    assert wrong == []


def is_beyond(url: str, address: str) -> bool:
    return not url.startswith((address, address.replace("http", "ws", 1), "data:", "blob:"))


def settled(page: Page) -> None:
    """Until the page's run has ended and shows no failure."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)


@pytest.mark.parametrize("language", PAGES)
def test_every_page_opens_in_both_languages(page, address, language):
    page.goto(address)
    if language != "en":
        page.get_by_text("中文", exact=True).click()
    for name in PAGES[language]:
        page.get_by_test_id("stSidebarNav").get_by_text(name, exact=True).click()
        settled(page)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page).to_have_title(name)


def test_filters_narrow_the_list_and_the_download_holds_what_they_leave(page, address, shop):
    page.goto(address)
    page.get_by_test_id("stSidebarNav").get_by_text("Tier explorer").click()
    expect(page.get_by_text(f"{shop.customers} customers, expected")).to_be_visible()
    choose(page, "tier", "gold")
    expect(page.get_by_text(f"{shop.gold} customers, expected")).to_be_visible()
    settled(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of the first").click()
    header, *rows = download.value.path().read_text().splitlines()
    assert header.startswith("customer_id,tier,") and len(rows) == shop.gold
    choose(page, "country", "Spain")
    choose(page, "movement", "up")
    expect(page.get_by_text(f"{shop.gold_up_in_spain} customers, expected")).to_be_visible()
    page.get_by_label("Pseudonym begins with").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_text("0 customers, expected")).to_be_visible()
    settled(page)


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_test_id("stMultiSelect").filter(has_text=label).get_by_role("combobox").click()
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")


def test_the_first_version_is_compared_with_none(page, address, first_day):
    page.goto(address)
    expect(page.get_by_text("This is the first version")).to_be_visible()
    settled(page)
    expect(page.get_by_text("moved up", exact=True)).to_have_count(0)
    expect(page.get_by_text("expected spend", exact=True).first).to_be_visible()


def test_a_link_to_a_customer_shows_their_tier_their_reasons_and_what_they_did(
    browser, address, shop
):
    page = browser.new_page()  # Streamlit looks for its own server below the link first: a 404
    page.goto(f"{address}/customer?customer=c000&language=zh")
    expect(page.get_by_text("近来没有下单")).to_be_visible()
    expect(page.get_by_text("platinum", exact=True).first).to_be_visible()
    expect(page.get_by_role("heading", name="行为时间线")).to_be_visible()
    settled(page)
    page.goto(f"{address}/customer?customer=nobody")
    expect(page.get_by_text("No customer nobody is published.")).to_be_visible()
    page.close()


def test_whoever_reads_the_pages_can_read_nothing_else(shop):
    with connect(shop.analyst_url) as connection:
        for table in ("scores.customer_scores", "features.customer_events", "pii.customers"):
            with pytest.raises(InsufficientPrivilege), connection.transaction():
                connection.execute(f"select from {table} limit 1")


def test_a_time_line_holds_what_was_known_on_the_published_day(shop):
    with queries.snapshot(shop.analyst_url) as ask:
        found = ask(queries.TIMELINE, customer="c000").to_dict("records")
    assert found == [
        {"event_date": date(2025, 5, 1), "kind": "purchase", "events": 2, "amount": 40.0},
        {"event_date": date(2025, 5, 9), "kind": "return", "events": 1, "amount": -10.0},
    ]


def test_all_that_a_page_shows_is_of_one_version_also_while_the_next_is_published(shop, urls):
    with queries.snapshot(shop.analyst_url) as ask:
        before = queries.published(ask)
        with connect(urls.warehouse) as connection:
            connection.execute("delete from ops.published returning version_id")
            assert connection.execute("select from analytics.tier_summary").fetchall() == []
            assert queries.published(ask) == before
            connection.rollback()
