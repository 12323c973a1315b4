"""Why a customer has their score: what moves their expected spend, in a few sentences.

Exact TreeSHAP (Lundberg et al. 2020, "From local explanations to global understanding with
explainable AI for trees", Nature Machine Intelligence 2) splits the raw score of each booster among
the features: the logit of P(buy), and the log of the spend of those who buy. To first order a
feature moves the log of expected spend by

    contribution to the logit x (1 - P(buy)) + contribution to the log amount

since d log P / d logit = 1 - P. Calibration and season are the same for all customers of a day, so
they are no reason for anybody. Contributions of columns that say the same thing are added up as one
family and said in one sentence, in the words of `reasons.yml`: the only file that is read.

LightGBM walks down every tree for every customer, half a millisecond for each of the two boosters.
What a leaf gives to its features depends on nothing but which of the splits above it a customer
passes, so it is worked out once for every pattern of a few splits, and looked up (the idea of Yang,
"Fast TreeSHAP: accelerating SHAP value computation for trees", 2021): the same numbers, up to the
rounding of doubles, in a fiftieth of the time.
"""

import operator
import re
import string
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import lightgbm as lgb
import numpy as np
import pandas as pd
import yaml
from scipy.special import expit

from ml.lightgbm_hurdle import Model, matrix

Array = np.ndarray
Frame = pd.DataFrame

DEFAULT_FAMILIES = Path(__file__).with_name("reasons.yml")
LANGUAGES = ("en", "zh")
MOST = 3
WORTH_SAYING = float(np.log(1.02))  # less than two percent of expected spend is no reason
ADDITIVE_TO = 1e-6
ROWS_AT_ONCE = 50_000  # contributions of so many customers are in memory together
SPLITS = 10  # whose patterns share a table; more where one leaf lies deeper
MOST_SPLITS = 16
MOST_BYTES = 2**28  # of a booster's tables

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


class Split(NamedTuple):
    """Left go values up to the threshold, and those that are not known if they are said to."""

    feature: int
    threshold: float
    unknown_goes_left: bool


class Step(NamedTuple):
    """One split on the way to a leaf: its number in the tree, its feature, the side, and the share
    of the training rows at the split that went there."""

    split: int
    feature: int
    is_left: bool
    share: float


Leaf = tuple[float, tuple[Step, ...]]  # its value, and the way to it


@dataclass(frozen=True)
class Table:
    """What some leaves of a tree add, by pattern: bit i is 1 for who goes left at splits[i].

    added: (features, 2 ** splits), to these features.
    """

    splits: tuple[Split, ...]
    features: tuple[int, ...]
    added: Array


@dataclass(frozen=True)
class Tables:
    """Of all trees of a booster. average: the average raw score of the training rows."""

    all: tuple[Table, ...]
    average: float


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


def contributions(booster: lgb.Booster, values: Array, num_threads: int = 1) -> Array:
    """What each feature adds to the raw score: (n, features + 1), the last is the average score.

    values: (n, features) in the order the booster knows, NaN where not known. Raises ValueError
    where the rows do not add up to the raw score within 1e-6: such numbers explain another model.
    """
    if not len(values):
        return np.zeros((0, booster.num_feature() + 1))
    found = np.asarray(booster.predict(values, pred_contrib=True, num_threads=num_threads))
    _refuse_unless_additive(booster, values, found.sum(axis=1), num_threads)
    return found


def fast_contributions(booster: lgb.Booster, values: Array, num_threads: int = 1) -> Array:
    """`contributions` up to the rounding of doubles, from tables that are made once for a booster.

    Making them takes about a second, so a few customers are quicker without. A booster whose trees
    are too deep for tables, or split otherwise than by a threshold, is asked itself.
    """
    tables = _tables(booster)
    if tables is None:
        return contributions(booster, values, num_threads)
    found = np.zeros((booster.num_feature() + 1, len(values)))
    found[-1] = tables.average
    columns = np.ascontiguousarray(values.T)
    step = max(-(-len(values) // num_threads), 1)
    parts = [slice(start, start + step) for start in range(0, len(values), step)]
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in pool.map(lambda part: _look_up(tables, columns[:, part], found[:, part]), parts):
            pass
    if len(values):
        _refuse_unless_additive(booster, values, found.sum(axis=0), num_threads)
    return found.T


def effects(model: Model, frame: Frame, families: Families, num_threads: int = 1) -> Array:
    """What each family adds to the log of expected spend, to first order: (n, families).

    frame: the features of n customers. The number of threads changes nothing but the time. Raises
    ValueError where a column that the model was trained on is missing, and as `contributions`.
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
    has no such feature, and as `contributions`.
    """
    if name not in features:
        raise ValueError(f"the model was not trained on {name}, so nothing depends on it")
    place = list(features).index(name)
    found = contributions(booster, values, num_threads)
    return pd.DataFrame({"value": values[:, place], "contribution": found[:, place]})


def _by_family(
    model: Model, frame: Frame, families: Families, num_threads: int
) -> Iterator[tuple[Array, Array, Array]]:
    """Contributions to the two boosters, (rows, families) each, and P(buy), (rows,), part by
    part."""
    member = families.membership(model.features)
    for start in range(0, len(frame), ROWS_AT_ONCE):
        values = matrix(frame.iloc[start : start + ROWS_AT_ONCE], model.features)
        purchase = fast_contributions(model.purchase, values, num_threads)
        amount = fast_contributions(model.amount, values, num_threads)
        probability = expit(purchase.sum(axis=1))
        yield purchase[:, :-1] @ member, amount[:, :-1] @ member, probability


def _refuse_unless_additive(
    booster: lgb.Booster, values: Array, total: Array, num_threads: int
) -> None:
    raw = np.asarray(booster.predict(values, raw_score=True, num_threads=num_threads))
    off = np.abs(total - raw).max()
    if not off <= ADDITIVE_TO:
        raise ValueError(
            f"contributions and score differ by {off:.3g}; explain the booster with the very trees "
            "that it predicts with: one output, all rounds, constant leaves"
        )


@lru_cache(maxsize=4)
def _tables(booster: lgb.Booster) -> Tables | None:
    """None where the trees do not fit into tables."""
    about = booster.dump_model()
    if about["num_tree_per_iteration"] != 1:
        return None
    groups, average, size = [], 0.0, 0
    for tree in about["tree_info"]:
        splits: list[Split] = []
        try:
            leaves = list(_leaves(tree["tree_structure"], splits))
        except NotImplementedError:
            return None
        average += sum(
            value * float(np.prod([step.share for step in way])) for value, way in leaves
        )
        for group in _groups(leaves) if splits else ():
            wide = len({step.split for _, way in group for step in way})
            size += 8 * wide * 2**wide
            if wide > MOST_SPLITS or size > MOST_BYTES:
                return None
            groups.append((group, splits))
    return Tables(tuple(_table(group, splits) for group, splits in groups), average)


def _leaves(node: dict, splits: list[Split], way: tuple[Step, ...] = ()) -> Iterator[Leaf]:
    """The leaves of a tree of `dump_model` from left to right; its splits are added to splits."""
    if "split_index" not in node:
        yield node["leaf_value"], way
        return
    if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
        raise NotImplementedError("only splits by a threshold, with nulls for what is not known")
    feature, threshold = node["split_feature"], node["threshold"]
    # A booster that saw no null in a column takes it for 0.
    left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
    place = len(splits)
    splits.append(Split(feature, threshold, left))
    for child, is_left in ((node["left_child"], True), (node["right_child"], False)):
        rows = child["internal_count"] if "split_index" in child else child["leaf_count"]
        step = Step(place, feature, is_left, rows / node["internal_count"])
        yield from _leaves(child, splits, (*way, step))


def _groups(leaves: Sequence[Leaf]) -> Iterator[list[Leaf]]:
    """Neighbours as long as they do not have more than SPLITS splits above them together."""
    group: list[Leaf] = []
    above: set[int] = set()
    for leaf in leaves:
        own = {step.split for step in leaf[1]}
        if group and len(above | own) > SPLITS:
            yield group
            group, above = [], set()
        group.append(leaf)
        above |= own
    yield group


def _table(group: Sequence[Leaf], splits: Sequence[Split]) -> Table:
    numbers = sorted({step.split for _, way in group for step in way})
    features = sorted({splits[number].feature for number in numbers})
    pattern = np.arange(2 ** len(numbers))
    goes_left = {number: (pattern >> bit) & 1 == 1 for bit, number in enumerate(numbers)}
    added = np.zeros((len(features), len(pattern)))
    for value, way in group:
        own = list(dict.fromkeys(step.feature for step in way))
        met = np.zeros(len(pattern), dtype=int)
        shares = np.ones(len(own))
        for bit, feature in enumerate(own):
            steps = [step for step in way if step.feature == feature]
            passes = [goes_left[step.split] == step.is_left for step in steps]
            met |= np.logical_and.reduce(passes).astype(int) << bit
            shares[bit] = np.prod([step.share for step in steps])
        for feature, shapley in zip(own, _shapley(shares), strict=True):
            added[features.index(feature)] += value * shapley[met]
    return Table(tuple(splits[number] for number in numbers), tuple(features), added)


def _shapley(shares: Array) -> Array:
    """Shapley values (d, 2 ** d) of the d features above a leaf of value 1, by pattern: bit i is 1
    where feature i leads to the leaf.

    shares: (d,), how much of the training rows a feature that is not known lets pass. A coalition
    is worth the product of what its members say, 0 or 1, and of the others' shares. The weights of
    coalitions of k others are the integrals of t^k (1 - t)^(d - 1 - k) over 0 to 1, so the sum over
    coalitions is the integral of a product, which Gauss-Legendre quadrature gives exactly.
    """
    d = len(shares)
    leads = ((np.arange(2**d) >> np.arange(d)[:, None]) & 1).astype(float)
    node, weight = np.polynomial.legendre.leggauss((d + 1) // 2)
    t = ((node + 1) / 2)[:, None, None]
    each = shares[:, None] * (1 - t) + leads * t
    others = each.prod(axis=1, keepdims=True) / each
    return (leads - shares[:, None]) * np.tensordot(weight / 2, others, axes=1)


def _look_up(tables: Tables, columns: Array, found: Array) -> None:
    """Add the contributions of n customers to found (features + 1, n); columns: (features, n)."""
    unknown = [np.isnan(column) for column in columns]
    unknown = [nulls if nulls.any() else None for nulls in unknown]
    pattern = np.empty(columns.shape[1], dtype=np.uint16)
    added = np.empty(columns.shape[1])
    for table in tables.all:
        pattern.fill(0)
        for bit, split in enumerate(table.splits):
            left = columns[split.feature] <= _at_most(split.threshold, columns.dtype)
            if split.unknown_goes_left and (nulls := unknown[split.feature]) is not None:
                left |= nulls
            pattern |= left.astype(np.uint16) << np.uint16(bit)
        places = pattern.astype(np.intp)
        for feature, numbers in zip(table.features, table.added, strict=True):
            found[feature] += np.take(numbers, places, out=added, mode="clip")


def _at_most(threshold: float, kind: np.dtype) -> np.floating:
    """The greatest number of this kind that is no greater, so that it divides them alike."""
    most = float(np.finfo(kind).max)
    nearest = kind.type(min(max(threshold, -most), most))
    return nearest if float(nearest) <= threshold else np.nextafter(nearest, kind.type(-np.inf))


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
    sentences = tuple(_sentence(said) for said in about["sentences"])
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


def _sentence(said: dict) -> Sentence:
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
