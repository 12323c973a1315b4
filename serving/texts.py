"""What the pages and the report say, in English and in Chinese; the words stand in texts.yml."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("texts.yml")
LANGUAGES = {"en": "English", "zh": "中文"}

Say = Callable[..., str]


def speak(language: str) -> Say:
    """A function that says the text of a key in this language, its {places} filled with values.

    Raises KeyError: a text or a language that is not there.
    """

    def say(key: str, **values: object) -> str:
        return read()[key][language].format(**values)

    return say


@cache
def read() -> dict[str, dict[str, str]]:
    """Key, language, text."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))
