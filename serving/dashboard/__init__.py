"""The analysts' pages. They read the schema `analytics`, and nothing else; each page is a file."""

from pathlib import Path

from serving.dashboard.charts import BLUE, INK, PALE

APP = Path(__file__).with_name("app.py")


def options(port: int) -> dict[str, str]:
    """Streamlit's settings, as the environment says them: on loopback, with nobody told."""
    return {
        "STREAMLIT_SERVER_ADDRESS": "127.0.0.1",
        "STREAMLIT_SERVER_PORT": str(port),
        "STREAMLIT_SERVER_HEADLESS": "true",
        "STREAMLIT_SERVER_FILE_WATCHER_TYPE": "none",
        "STREAMLIT_SERVER_SHOW_EMAIL_PROMPT": "false",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        "STREAMLIT_CLIENT_TOOLBAR_MODE": "minimal",
        "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "none",
        "STREAMLIT_CLIENT_SHOW_ERROR_LINKS": "false",
        "STREAMLIT_LOGGER_HIDE_WELCOME_MESSAGE": "true",
        "STREAMLIT_THEME_BASE": "light",
        "STREAMLIT_THEME_PRIMARY_COLOR": BLUE,
        "STREAMLIT_THEME_TEXT_COLOR": INK,
        "STREAMLIT_THEME_SECONDARY_BACKGROUND_COLOR": PALE,
        "STREAMLIT_THEME_METRIC_VALUE_FONT_SIZE": "1.6rem",
        "STREAMLIT_THEME_HEADING_FONT_SIZES": '["2.1rem", "1.6rem", "1.25rem"]',
        "STREAMLIT_THEME_BASE_RADIUS": "small",
        "STREAMLIT_THEME_SHOW_WIDGET_BORDER": "true",
    }
