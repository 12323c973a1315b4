"""What Streamlit runs for every reader and every click: the frame around the pages."""

from functools import partial
from pathlib import Path
from types import ModuleType

import streamlit as st

from serving import queries, texts
from serving.dashboard import customer, explorer, overview, quality, scoreboard
from warehouse.connections import analyst_url
from warehouse.settings import TierhouseError, read_settings

ICON = Path(__file__).with_name("icon.svg")
PAGES = {
    "overview": (overview, ":material/monitoring:"),
    "explorer": (explorer, ":material/groups:"),
    "customer": (customer, ":material/person:"),
    "scoreboard": (scoreboard, ":material/leaderboard:"),
    "quality": (quality, ":material/verified:"),
}


def main() -> None:
    """One run: the language, the navigation, and the page that was asked for."""
    st.set_page_config(page_icon=ICON.read_text(), layout="wide")
    asked = st.query_params.get("language")  # a link may say it; from then on the switch does
    st.session_state.setdefault("language", asked if asked in texts.LANGUAGES else "en")
    with st.sidebar:
        language = st.segmented_control(
            "Language · 语言",
            [*texts.LANGUAGES],
            format_func=lambda code: texts.LANGUAGES[code],
            required=True,
            key="language",
        )
    say = texts.speak(language or "en")
    pages = {
        name: st.Page(
            partial(serve, page, say),
            title=say(f"page_{name}"),
            icon=icon,
            url_path=name,
            default=page is overview,
        )
        for name, (page, icon) in PAGES.items()
    }
    st.session_state["pages"] = pages
    st.navigation([*pages.values()]).run()


def serve(page: ModuleType, say: texts.Say) -> None:
    """Show a page, all of it from one moment, or one sentence that says why not."""
    st.title(say(f"title_{page.__name__.rpartition('.')[2]}"))
    try:
        with queries.snapshot(analyst_url(read_settings())) as ask:
            published = queries.published(ask)
            if published is None and page is not quality:
                st.info(say("nothing_published"))
                return
            if published is not None:
                st.caption(say("published", **published._asdict()))
            page.show(ask, say)
    except TierhouseError as error:
        st.error(str(error))


main()
