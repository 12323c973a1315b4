"""Both languages say all that the pages and the report need, and nothing else stands there."""

import re
from pathlib import Path
from string import Formatter

from serving import queries, report, texts
from serving.dashboard import overview, tables
from serving.terminal import SCOREBOARD
from warehouse.settings import PROJECT

SERVING = Path(texts.__file__).parent
SAID = re.compile(r"""say\(\s*["'](\w+)["'](?! ~)""")


def said():
    """Every key that the code says: written out, or of the names that it goes through."""
    sources = [*SERVING.rglob("*.py"), *(SERVING / "templates").iterdir()]
    keys = {key for source in sources for key in SAID.findall(source.read_text())}
    pages = {
        page.stem
        for page in (SERVING / "dashboard").glob("*.py")
        if "def show(ask" in page.read_text()
    }
    keys |= {f"{kind}_{page}" for page in pages for kind in ("page", "title")}
    shown = {name for value in vars(tables).values() if isinstance(value, tuple) for name in value}
    blocks = [block for section in report.SECTIONS.values() for block in section]
    keys |= shown | {name for block in blocks for name in block.columns}
    keys |= {f"section_{section}" for section in report.SECTIONS}
    for section in report.SECTIONS.values():
        keys |= {f"block_{block.name}" for block in section if len(section) > 1}
    keys |= {f"report_{block.name}" for block in blocks}
    keys |= {f"report_{name}_none" for name in MAY_BE_EMPTY}
    keys |= {f"kind_{kind}" for kind in kinds()}
    return (
        keys
        | {*overview.FIGURES, *overview.MOVES}
        | set(queries.MOVEMENTS)
        | set(SCOREBOARD)
        | OF_CHARTS
    )


def kinds():
    """Of events, as analytics.customer_timeline names them."""
    (listed,) = re.findall(
        r"\(array\[(.*?)\]\)", (PROJECT / "warehouse" / "analytics.sql").read_text(), re.S
    )
    return re.findall(r"'(\w+)'", listed)


MAY_BE_EMPTY = {
    "migrations", "fallen", "risen", "why_moved", "segments", "drivers", "judged", "scoreboard",
    "gates", "not_holding", "quarantine",
}  # fmt: skip
OF_CHARTS = {"customers_over_time", "expected_spend_over_time", "gain", "calibration"}


def test_every_text_is_there_in_every_language_and_fills_the_same_places():
    for key, text in texts.read().items():
        assert set(text) == set(texts.LANGUAGES), key
        places = {
            language: {name for _, name, _, _ in Formatter().parse(said) if name}
            for language, said in text.items()
        }
        assert len({frozenset(names) for names in places.values()}) == 1, key
        assert all(said.strip() for said in text.values()), key


def test_every_text_that_is_said_is_there_and_none_stands_there_unsaid():
    assert said() - set(texts.read()) == set()
    assert set(texts.read()) - said() == set()
