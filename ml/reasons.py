"""Why a customer has their score: what moves their expected spend, in a few sentences.

Exact TreeSHAP (Lundberg et al. 2020, "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2) splits the raw score of each booster among
the features: the logit of P(buy), and the log of the spend of those who buy. To first order a
feature moves the log of expected spend by

    contribution to the logit x (1 - P(buy)) + contribution to the log amount

since d log P / d logit = 1 - P. Calibration and season are the same for all customers of a day, so
they are no reason for anybody. Contributions of columns that say the same thing are added up as one
family and said in one sentence, in the words of `reasons.yml`: the only file that is read.

"""

import operator
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lightgbm as lgb
import numpy as np
import pandas as pd
import yaml
from scipy.special import expit

from ml import treeshap
from ml.lightgbm_hurdle import Model, matrix

Array = np.ndarray
Frame = pd.DataFrame

DEFAULT_FAMILIES = Path(__file__).with_name("reasons.yml")
LANGUAGES = ("en", "zh")
MOST = 3
WORTH_SAYING = float(np.log(1.02))  # less than two percent of expected spend is no reason
ROWS_AT_ONCE = 50_000  # contributions of so many customers are in memory together

_COMPARISONS: dict[str, Callable[[Array, float], Array]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
_CONDITION = re.compile(r"(\w+) (<|<=|==|>=|>) (-?\d+(?:\.\d+)?)")
_STYLES = ("whole", "decimal", "money", "percent", "name")


class ReasonsError(ValueError):
    """The families cannot be followed; the message says what to change."""


class Part(NamedTuple):
    """A stretch of text, and the value that follows it: none at the end of a sentence.

    nouns: what is counted, for one and for more; empty where the text names it.
    """

    text: str
    column: str = ""
    style: str = "whole"
    nouns: tuple[str, ...] = ()


class Condition(NamedTuple):
    column: str
    comparison: str
    number: float


@dataclass(frozen=True)
class Sentence:
    """only: "raises", "lowers", or empty where it may be said of both. texts: by language."""

    texts: dict[str, tuple[Part, ...]]
    conditions: tuple[Condition, ...] = ()
    only: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """What must be known before the sentence can be said."""
        said = [part.column for parts in self.texts.values() for part in parts if part.column]
        return tuple(dict.fromkeys([*said, *(condition.column for condition in self.conditions)]))


class Join(NamedTuple):
    """Of whom a family says what another one says already."""

    family: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Family:
    """Columns that say the same thing. of_the_shop: true of everybody, so never a reason."""

    name: str
    label: dict[str, str]
    columns: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    joins: tuple[Join, ...] = ()
    of_the_shop: bool = False


@dataclass(frozen=True)
class Families:
    """All families, the last of which takes the columns that no other names."""

    all: tuple[Family, ...]

    @property
    def names(self) -> list[str]:
        return [family.name for family in self.all]

    def membership(self, features: Sequence[str]) -> Array:
        """(features, families) of 0 and 1: which family each feature belongs to."""
        place_of = {column: i for i, family in enumerate(self.all) for column in family.columns}
        places = [place_of.get(feature, len(self.all) - 1) for feature in features]
        return np.eye(len(self.all))[places]


@dataclass(frozen=True)
class Reasons:
    """The reasons of n customers, flat: those of customer i are offsets[i] to offsets[i + 1].

    offsets: (n + 1,) int32. The others are (reasons,), strongest first within a customer. family:
    its name. direction: "+" or "-". effect: factor on expected spend, to first order, against the
    average customer that the model learned from; above 1 where direction is "+". text_en, text_zh:
    what to say.
    """

    offsets: Array
    family: Array
    direction: Array
    effect: Array
    text_en: Array
    text_zh: Array


def read_families(path: Path = DEFAULT_FAMILIES) -> Families:
    """Read a YAML file of families; `reasons.yml` says how one is written. Raises ReasonsError."""
    path = Path(path)
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReasonsError(f"the reasons {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReasonsError(f"the reasons {path} are not YAML: {error}") from error
    if not isinstance(said, dict) or not isinstance(said.get("families"), dict):
        raise ReasonsError(f"the reasons {path} must hold a mapping `families`")
    families: list[Family] = []
    for name, about in said["families"].items():
        try:
            families.append(_family(name, about))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReasonsError(f"family {name} of {path} cannot be followed: {error}") from error
    names = [family.name for family in families]
    unknown = {join.family for family in families for join in family.joins} - set(names)
    if unknown:
        raise ReasonsError(f"{path}: there is no family {', '.join(sorted(unknown))} to join")
    columns = [column for family in families for column in family.columns]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise ReasonsError(f"{path}: {', '.join(twice)} must belong to one family only")
    if not families or families[-1].columns:
        raise ReasonsError(f"{path}: the last family takes all other columns and must name none")
    return Families(tuple(families))


def effects(model: Model, frame: Frame, families: Families, num_threads: int = 1) -> Array:
    """What each family adds to the log of expected spend, to first order: (n, families).

    frame: the features of n customers. The number of threads changes nothing but the time. Raises
    ValueError where a column that the model was trained on is missing, and as
    `treeshap.contributions`.
    """
    parts = [
        purchase * (1 - probability)[:, None] + amount
        for purchase, amount, probability in _by_family(model, frame, families, num_threads)
    ]
    return np.concatenate([np.zeros((0, len(families.all))), *parts])


def top_reasons(frame: Frame, effects: Array, families: Families, most: int = MOST) -> Reasons:
    """The strongest reasons of each customer, at most `most`; fewer where little moves the score.

    effects: (n, families) from `effects` for the same n customers. Sentences may also say columns
    that are no feature of the model; those that the frame lacks are not known. Families of equal
    effect come in the order of the file. Raises ValueError where the shapes do not belong together.
    """
    if effects.shape != (len(frame), len(families.all)):
        raise ValueError(
            f"{len(frame)} customers and {len(families.all)} families need as many effects, "
            f"not {effects.shape}"
        )
    columns = _Columns(frame)
    found = _joined(columns, effects, families)
    of_customers = np.array([not family.of_the_shop for family in families.all])
    strength = np.where(of_customers & (np.abs(found) >= WORTH_SAYING), np.abs(found), 0.0)
    best = np.argsort(-strength, axis=1, kind="stable")[:, :most]
    taken = np.take_along_axis(strength, best, axis=1) > 0
    rows, _ = np.nonzero(taken)
    family = best[taken]
    effect = found[rows, family]
    texts = _texts(columns, families, rows, family, effect > 0)
    return Reasons(
        offsets=np.concatenate([[0], np.cumsum(taken.sum(axis=1))]).astype(np.int32),
        family=np.array(families.names, dtype=object)[family],
        direction=np.where(effect > 0, "+", "-").astype(object),
        effect=np.exp(effect),
        text_en=texts["en"],
        text_zh=texts["zh"],
    )


def importance(model: Model, frame: Frame, families: Families, num_threads: int = 1) -> Frame:
    """Mean absolute contribution of each family over the n rows of frame, strongest first.

    Columns family, label_en, label_zh, purchase (in logits), amount (in logs of money) and spend
    (in logs of expected spend; families are sorted by it). A few thousand customers of a day say it
    as well as all of them. Raises ValueError where there are none, and as `effects`.
    """
    if not len(frame):
        raise ValueError("importance needs the features of at least one customer")
    total = np.zeros((3, len(families.all)))
    for purchase, amount, probability in _by_family(model, frame, families, num_threads):
        spend = purchase * (1 - probability)[:, None] + amount
        total += [np.abs(part).sum(axis=0) for part in (purchase, amount, spend)]
    purchase, amount, spend = total / len(frame)
    found = pd.DataFrame(
        {
            "family": families.names,
            "label_en": [family.label["en"] for family in families.all],
            "label_zh": [family.label["zh"] for family in families.all],
            "purchase": purchase,
            "amount": amount,
            "spend": spend,
        }
    )
    return found.sort_values("spend", ascending=False, kind="stable", ignore_index=True)


def dependence(
    booster: lgb.Booster, values: Array, features: Sequence[str], name: str, num_threads: int = 1
) -> Frame:
    """How the contribution of one feature follows its value: columns value and contribution, (n,).

    In the order of the rows, NaN where the value is not known. contribution: in logits for the
    purchase booster, in logs of money for the amount booster. Raises ValueError where the booster
    has no such feature, and as `treeshap.contributions`.
    """
    if name not in features:
        raise ValueError(f"the model was not trained on {name}, so nothing depends on it")
    place = list(features).index(name)
    found = treeshap.contributions(booster, values, num_threads)
    return pd.DataFrame({"value": values[:, place], "contribution": found[:, place]})


def say(frame: Frame, sentences: Sequence[Sentence]) -> dict[str, Array]:
    """(n,) by language: of each row of frame the first sentence that can be said, "" where none."""
    columns, open_rows = _Columns(frame), np.arange(len(frame))
    texts = {language: np.full(len(frame), "", dtype=object) for language in LANGUAGES}
    for sentence in sentences:
        sayable = columns.allow(sentence, open_rows)
        rows, open_rows = open_rows[sayable], open_rows[~sayable]
        for language, parts in sentence.texts.items():
            texts[language][rows] = columns.fill(parts, rows)
    return texts


def _by_family(
    model: Model, frame: Frame, families: Families, num_threads: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Contributions to the two boosters, (rows, families) each, and P(buy), (rows,), part by
    part."""
    member = families.membership(model.features)
    for start in range(0, len(frame), ROWS_AT_ONCE):
        values = matrix(frame.iloc[start : start + ROWS_AT_ONCE], model.features)
        purchase = treeshap.fast_contributions(model.purchase, values, num_threads)
        amount = treeshap.fast_contributions(model.amount, values, num_threads)
        probability = expit(purchase.sum(axis=1))
        yield purchase[:, :-1] @ member, amount[:, :-1] @ member, probability


def _joined(columns: "_Columns", effects: Array, families: Families) -> Array:
    """The effects (n, families), each where it is said."""
    found = effects.copy()
    for place, family in enumerate(families.all):
        left = np.arange(len(effects))
        for join in family.joins:
            moves = columns.meet(join.conditions, left)
            rows, left = left[moves], left[~moves]
            found[rows, families.names.index(join.family)] += effects[rows, place]
            found[rows, place] -= effects[rows, place]
    return found


def _texts(
    columns: "_Columns", families: Families, rows: Array, family: Array, raises: Array
) -> dict[str, Array]:
    """Of each reason its sentence in each language, family by family and sentence by sentence."""
    texts = {language: np.full(len(rows), "", dtype=object) for language in LANGUAGES}
    for place, about in enumerate(families.all):
        of_family = family == place
        for way, fits in (("raises", raises), ("lowers", ~raises)):
            open_places = np.flatnonzero(of_family & fits)
            for sentence in about.sentences:
                if not len(open_places):
                    break
                if sentence.only not in ("", way):
                    continue
                sayable = columns.allow(sentence, rows[open_places])
                places = open_places[sayable]
                for language, parts in sentence.texts.items():
                    texts[language][places] = columns.fill(parts, rows[places])
                open_places = open_places[~sayable]
    return texts


class _Columns:
    """The columns of a frame as sentences need them; each is converted once."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.converted: dict[tuple[str, bool], Array] = {}

    def of(self, part: Part | Condition, rows: Array) -> Array:
        """(rows,) of numbers, NaN where not known, or of names, None where not known."""
        named = isinstance(part, Part) and part.style == "name"
        key = part.column, named
        if key not in self.converted:
            convert = _names if named else _numbers
            self.converted[key] = convert(self.frame, part.column)
        return self.converted[key][rows]

    def meet(self, conditions: Sequence[Condition], rows: Array) -> Array:
        """(rows,) whether all the conditions hold; what is not known meets none."""
        met = np.ones(len(rows), dtype=bool)
        for condition in conditions:
            compare = _COMPARISONS[condition.comparison]
            met &= compare(self.of(condition, rows), condition.number)
        return met

    def allow(self, sentence: Sentence, rows: Array) -> Array:
        """(rows,) whether the sentence can be said of them."""
        allowed = self.meet(sentence.conditions, rows)
        for parts in sentence.texts.values():
            for part in parts:
                if part.column:
                    allowed &= pd.notna(self.of(part, rows))
        return allowed

    def fill(self, parts: Sequence[Part], rows: Array) -> Array:
        """(rows,) of text."""
        text = np.full(len(rows), "", dtype=object)
        for part in parts:
            text = text + part.text
            if part.column:
                value = self.of(part, rows)
                text = text + (value if part.style == "name" else _said(value, part))
        return text


def _numbers(frame: Frame, column: str) -> Array:
    if column not in frame:
        return np.full(len(frame), np.nan)
    numbers = frame[column].to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _names(frame: Frame, column: str) -> Array:
    if column not in frame:
        return np.full(len(frame), None, dtype=object)
    names = frame[column].astype(object)
    return names.where(names.notna() & (names != ""), None).to_numpy(dtype=object)


def _said(values: Array, part: Part) -> Array:
    """Numbers as a person would say them. Each different number is written once."""
    decimals = {"money": 2, "percent": 6, "decimal": 1}.get(part.style, 0)
    different, where = np.unique(np.round(values, decimals) + 0.0, return_inverse=True)
    written = [_WRITERS[part.style](number) for number in different.tolist()]
    if part.nouns:
        one, more = part.nouns
        written = [f"{number} {one if number == '1' else more}" for number in written]
    return np.array(written, dtype=object)[where]


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _decimal(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 10 else f"{number:.1f}".removesuffix(".0")


def _money(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.2f}".removesuffix(".00")


def _percent(share: float) -> str:
    if 0 < share < 0.01:
        return "<1%"
    if 0.99 < share < 1:
        return ">99%"
    return f"{100 * share:,.0f}%"


_WRITERS = {"whole": _whole, "decimal": _decimal, "money": _money, "percent": _percent}


def _family(name: str, about: dict) -> Family:
    unknown = set(about) - {"name", "joins", "columns", "of_the_shop", "sentences"}
    if unknown:
        raise ValueError(f"it has the unknown key {', '.join(sorted(unknown))}")
    sentences = tuple(read_sentence(said) for said in about["sentences"])
    for way in ("raises", "lowers"):
        if not any(said.only in ("", way) and not said.columns for said in sentences):
            raise ValueError(f"it needs a sentence for {way} that says no value and has no `when`")
    return Family(
        name=name,
        label={language: about["name"][language] for language in LANGUAGES},
        columns=tuple(about["columns"]),
        sentences=sentences,
        joins=tuple(
            Join(join["family"], _conditions(join["when"])) for join in about.get("joins", [])
        ),
        of_the_shop=about.get("of_the_shop", False),
    )


def read_sentence(said: dict) -> Sentence:
    """A sentence as YAML has it. Raises ValueError and KeyError: it cannot be followed."""
    unknown = set(said) - {"when", "only", *LANGUAGES}
    if unknown:
        raise ValueError(f"a sentence has the unknown key {', '.join(sorted(unknown))}")
    if said.get("only", "") not in ("", "raises", "lowers"):
        raise ValueError(f"`only` is raises or lowers, not {said['only']}")
    conditions = _conditions(said["when"]) if "when" in said else ()
    texts = {language: tuple(_parts(said[language])) for language in LANGUAGES}
    named = [{part.column for part in parts} - {""} for parts in texts.values()]
    if named[0] != named[1]:
        raise ValueError(f"{said['en']!r} says other values than {said['zh']!r}")
    return Sentence(texts, conditions, said.get("only", ""))


def _conditions(text: str) -> tuple[Condition, ...]:
    return tuple(_condition(part) for part in text.split(" and "))


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text.strip())
    if not found:
        raise ValueError(
            f"`when` compares a column with a number, such as overdue_ratio > 1: {text}"
        )
    return Condition(found[1], found[2], float(found[3]))


def _parts(text: str) -> Iterator[Part]:
    for before, column, how, _ in string.Formatter().parse(text):
        if column is None:
            yield Part(before)
            continue
        style, _, nouns = (how or "whole").partition(" ")
        if style not in _STYLES:
            style, nouns = "whole", how or ""
        pair = tuple(nouns.split("|")) if nouns else ()
        if not column or len(pair) not in (0, 2):
            raise ValueError(f"{{{column}:{how}}} is not a value of {', '.join(_STYLES)}, or nouns")
        yield Part(before, column, style, pair)
