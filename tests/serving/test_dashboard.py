"""The pages in a real browser: they open, filter, speak both languages, and call nobody else."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

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


def test_filters_narrow_the_list_and_the_download_holds_what_is_shown(page, address, shop):
    page.goto(address)
    page.get_by_test_id("stSidebarNav").get_by_text("Tier explorer").click()
    settled(page)
    expect(page.get_by_text(f"{shop.customers:,} customers")).to_be_visible()
    page.get_by_test_id("stMultiSelect").first.click()
    page.get_by_role("option", name="gold").click()
    page.keyboard.press("Escape")
    expect(page.get_by_text(f"{shop.gold:,} customers")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_text("CSV of the first").click()
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 1 + shop.gold
