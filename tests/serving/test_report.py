"""The report of a published day: whole, the same each time, and every number can be asked again."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from ml.pipelines import reason_names
from serving import queries, report
from serving.report import SECTIONS, OtherDay
from tests.serving.conftest import BEFORE, CATEGORY, DAY

BLOCKS = [block for blocks in SECTIONS.values() for block in blocks]


class Page(HTMLParser):
    """What a browser makes of the page: its tags with attributes, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def files(shop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return {
        language: report.write(shop.analyst_url, DAY, language, folder, reason_names(language))
        for language in ("en", "zh")
    }


@pytest.fixture(scope="module")
def page(files) -> Page:
    return Page(files["en"].page.read_text())


def test_nothing_on_the_page_is_fetched_and_nothing_runs(page):
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    addresses = [
        value for _, names in page.tags for key, value in names.items() if key in ("src", "href")
    ]
    assert addresses and all(address.startswith("#") for address in addresses)
    assert "url(" not in page.text and "@import" not in page.text
    policies = [names["content"] for tag, names in page.tags if "http-equiv" in names]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_what_a_shop_calls_its_things_is_text(files):
    html, markdown = files["en"].page.read_text(), files["en"].markdown.read_text()
    assert CATEGORY in Page(html).text and CATEGORY not in html
    rows = [line for line in markdown.splitlines() if line.startswith("| c0")]
    assert rows and all("<b>" not in row for row in rows)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1


def test_every_table_has_as_many_cells_as_headings(page):
    sizes = [0]
    for tag, _ in page.tags:
        if tag == "tr":
            sizes.append(0)
        elif tag in ("th", "td"):
            sizes[-1] += 1
    assert min(sizes[1:]) > 1


def test_the_numbers_are_those_of_the_shop(page, shop):
    (brief,) = re.findall(r"(\d+) customers are expected to spend ([\d,]+)", page.text)
    assert brief == (f"{shop.customers}", f"{shop.spend:,.0f}")
    assert f"{shop.fallen} down, 20 new" in page.text


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", ("the first version", "no version before")), ("zh", ("第一个版本", "没有上一版本"))],
)
def test_the_first_version_is_compared_with_none(shop, first_day, language, said, tmp_path):
    files = report.write(shop.analyst_url, first_day, language, tmp_path, {})
    text = files.markdown.read_text()
    assert all(words in text for words in said)
    assert "280 new" not in text and "280 位为新客户" not in text


def test_every_block_shows_its_query_and_the_query_gives_what_it_shows(files, page, shop):
    shown = re.findall(r'tierhouse sql "(.*?)"', page.text, re.DOTALL)
    assert len(shown) == len(BLOCKS)
    with queries.snapshot(shop.analyst_url) as ask:
        for block, query in zip(BLOCKS, shown, strict=True):
            assert not set(query) & set('"$`\\'), block.name  # a shell leaves it as it is
            pd.testing.assert_frame_equal(ask(query), ask(block.query))
            assert query in files["en"].markdown.read_text()


def test_of_the_same_version_it_is_the_same_page(files, shop, tmp_path):
    again = report.write(shop.analyst_url, DAY, "en", tmp_path, reason_names("en"))
    assert again.page.read_bytes() == files["en"].page.read_bytes()
    assert again.markdown.read_bytes() == files["en"].markdown.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {"2025-06-08.html", "2025-06-08.md"}


def test_the_chinese_page_says_the_same_numbers(files):
    numbers = [
        [
            row
            for row in files[language].markdown.read_text().splitlines()
            if row.startswith("| platinum")
        ]
        for language in ("en", "zh")
    ]
    assert numbers[0][0] == numbers[1][0]
    assert "近来没有下单" in files["zh"].page.read_text()


def test_a_day_that_analysts_do_not_read_has_no_report_and_it_is_said_which_they_read(
    shop, tmp_path
):
    with pytest.raises(OtherDay, match=f"analysts read {DAY}"):
        report.write(shop.analyst_url, BEFORE, "en", tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_which_day_analysts_read_and_ends_with_a_code_of_its_own(
    shop, settings, urls, tierhouse
):
    ended = tierhouse(
        "report", "--as-of", str(BEFORE),
        TIERHOUSE_HOME=str(settings.home), TIERHOUSE_WAREHOUSE_URL=urls.warehouse,
    )  # fmt: skip
    assert ended.returncode == report.OTHER_DAY
    assert f"analysts read {DAY}" in " ".join(ended.stdout.split())


def test_money_at_risk_is_what_they_would_spend_times_the_chance_that_they_do_not(shop):
    with queries.snapshot(shop.analyst_url) as ask:
        by_tier = ask(queries.AT_RISK)
        one_by_one = ask(
            "select tier, expected_spend::float8 as spend, purchase_probability as buys "
            "from analytics.customer_360"
        )
    at_risk = one_by_one["spend"] / one_by_one["buys"] * (1 - one_by_one["buys"])
    expected = at_risk.groupby(one_by_one["tier"]).sum()
    assert by_tier.set_index("tier")["spend_at_risk"].to_dict() == pytest.approx(expected.to_dict())
