"""Who shops alike: customers grouped by when, how much and what they buy, under names that stay.

Each trait of `segments.yml` is put on a log or root scale, standardised, and cut at three spreads;
what is not known lies in the middle. A segment is a centre, and a customer is of the nearest one.

Where the centres are is found on a sample, by K-means (k-means++ starts) and by hierarchical
clustering (Ward 1963) that K-means then settles. Three things say how many there are: the mean
silhouette (Rousseeuw 1987), the gap statistic against uniform points in the box of the principal
axes (Tibshirani, Walther and Hastie 2001), and stability, the mean adjusted Rand index (Hubert and
Arabie 1985) between the segments and those of bootstrap samples (Hennig 2007).

Centres are kept from version to version, so that a customer changes segments by what they do. Once
K-means that starts from them finds clearly closer ones, they are found anew, and matched with the
old ones by the Hungarian algorithm: what is still the same segment keeps its name.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from scipy.cluster.hierarchy import cut_tree, ward
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from threadpoolctl import threadpool_limits

from ml import customer_hash, reasons

Array = np.ndarray
Frame = pd.DataFrame

EVERYBODY = "all_customers"  # where there is one segment
METHODS = ("kmeans", "ward")
KEPT = "kept"  # the method of segments that an earlier version found
FARTHEST = 3.0  # spreads from the mean: what is beyond is no farther
STANDS_OUT = 0.5  # spreads from the mean that deserve a word
ROWS_AT_ONCE = 100_000
PUNCTUATION = {"en": (", ", ": "), "zh": ("，", "：")}


@dataclass(frozen=True)
class Config:
    """fewest, most: segments that are tried. customers: a shop with fewer has one segment. known:
    share of customers of whom a trait must be known. sample, judged: customers among whom centres
    are found, and those of them on whom their number is judged, the first by a hash of their name.
    stable: least stability of what is chosen. tolerance: how much closer new centres must be, as a
    share of the squared distances, to take the place of the old ones."""

    fewest: int = 3
    most: int = 8
    customers: int = 100
    known: float = 0.5
    sample: int = 50_000
    judged: int = 1_000
    starts: int = 3
    bootstraps: int = 10
    references: int = 5
    stable: float = 0.8
    tolerance: float = 0.05
    seed: int = 0


class Word(NamedTuple):
    """slot: `when` they come or `how` they buy."""

    slot: str
    en: str
    zh: str

    @property
    def slug(self) -> str:
        return self.en.replace(" ", "_")


CUSTOMERS = Word("how", "customers", "顾客")  # who stand out by nothing in how they buy
TYPICAL = Word("when", "typical", "普通")  # nor in when they come


@dataclass(frozen=True)
class Trait:
    """A column that customers are grouped by; segments.yml says what the fields are."""

    column: str
    scale: str
    high: Word | None
    low: Word | None
    sentences: tuple[reasons.Sentence, ...]
    instead: str | None

    def measure(self, values: Array) -> Array:
        """From the column's own unit to where distances are taken."""
        amounts = np.maximum(values, 0)
        return np.log1p(amounts) if self.scale == "log" else np.sqrt(np.minimum(amounts, 1))

    def in_its_unit(self, measured: Array) -> Array:
        return np.expm1(measured) if self.scale == "log" else np.square(measured)


def _trait(column: str, about: dict) -> Trait:
    def word(said: dict[str, str] | None) -> Word | None:
        if said is None:
            return None
        slot = "when" if "when" in said else "how"
        return Word(slot, said[slot], said["zh"])

    return Trait(
        column,
        about["scale"],
        word(about.get("high")),
        word(about.get("low")),
        tuple(reasons.read_sentence(said) for said in about["sentences"]),
        about.get("instead"),
    )


def _read_traits() -> dict[str, Trait]:
    said = yaml.safe_load(Path(__file__).with_name("segments.yml").read_text(encoding="utf-8"))
    return {column: _trait(column, about) for column, about in said["traits"].items()}


TRAITS = _read_traits()  # what is read of customer_features, by column


@dataclass(frozen=True)
class Definition:
    """Segments as the next version needs them.

    traits: columns. names: of the k segments. centres: (k, traits), each in its column's own unit.
    mean, spread: (traits,) of the measured values.
    """

    traits: tuple[str, ...]
    names: tuple[str, ...]
    centres: Array
    mean: Array
    spread: Array

    @property
    def standardised(self) -> Array:
        """(k, traits) the centres where distances are taken."""
        measured = [
            TRAITS[column].measure(self.centres[:, at]) for at, column in enumerate(self.traits)
        ]
        return _scaled(np.reshape(measured, self.centres.T.shape).T, self)


class Evidence(NamedTuple):
    """For so many segments, found in one way; nothing is known where there is one segment."""

    method: str
    segments: int
    silhouette: float | None = None
    gap: float | None = None
    stability: float | None = None
    chosen: bool = False


class Profile(NamedTuple):
    segment: str
    customers: int
    expected_spend: float
    description_en: str
    description_zh: str


@dataclass(frozen=True)
class Segments:
    """Of n customers of a day: place (n,) of each one's segment in definition.names. is_new: the
    centres were found on this day."""

    definition: Definition
    place: Array
    evidence: tuple[Evidence, ...]
    is_new: bool

    @property
    def chosen(self) -> Evidence:
        return next(one for one in self.evidence if one.chosen)


def segment(
    frame: Frame, previous: Definition | None = None, config: Config | None = None
) -> Segments:
    """Put every customer of a day in exactly one segment.

    frame: customer_id and the columns of TRAITS, one row per customer; a column that the shop does
    not have may be absent. previous: the segments of the version before. The order of the rows is
    of no account.
    """
    config = config or Config()
    rows = _first_by_hash(frame["customer_id"], config.sample)
    sample = frame.iloc[rows]
    with threadpool_limits(1):  # to share out a fit this small takes longer than the fit
        if previous is not None and (kept := _kept(frame, sample, previous, config)):
            return kept
        traits = _usable(sample, config)
        measured = [_measured(sample, column) for column in traits]
        mean = np.array([np.nanmean(values) for values in measured])
        spread = np.array([np.nanstd(values) for values in measured])
        unnamed = Definition(tuple(traits), (), np.empty((0, len(traits))), mean, spread)
        centres, evidence = _find(_points(sample, unnamed), config)
        place = _nearest_of(frame, unnamed, centres)
    by_size = np.lexsort((*centres.T, -np.bincount(place, minlength=len(centres))))
    centres = centres[by_size]
    definition = replace(
        unnamed,
        names=_names(centres, unnamed, previous),
        centres=_in_their_units(centres, unnamed),
    )
    return Segments(definition, np.argsort(by_size)[place], tuple(evidence), is_new=True)


def agreement(segments: Array, before: Array) -> float:
    """Adjusted Rand index of two divisions of the same customers: 1 the same, 0 as by chance."""
    return float(adjusted_rand_score(before, segments))


def profiles(frame: Frame, found: Segments, expected_spend: Array) -> list[Profile]:
    """Every segment in figures and words: medians of its customers of the day, of shares means."""
    definition = found.definition
    told = [
        column
        for column, trait in TRAITS.items()
        if column in frame and trait.instead not in definition.traits
    ]
    of_segment = frame[told].astype(float).groupby(found.place)
    typical = of_segment.median()
    for column in told:
        if TRAITS[column].scale == "root":
            typical[column] = of_segment[column].mean()
    said = [reasons.say(typical, TRAITS[column].sentences) for column in told]
    customers = np.bincount(found.place)
    spend = np.bincount(found.place, weights=expected_spend)
    rows = []
    for row, name in enumerate(definition.names):
        titles = title_of(name)
        texts = [
            titles[language]
            + colon
            + comma.join(text[language][row] for text in said if text[language][row])
            for language, (comma, colon) in PUNCTUATION.items()
        ]
        rows.append(Profile(name, int(customers[row]), round(float(spend[row]), 2), *texts))
    return rows


def title_of(name: str) -> dict[str, str]:
    """A segment's name as one would say it, by language."""
    words = [word for trait in TRAITS.values() for word in (trait.high, trait.low) if word]
    slugs = {word.slug: word for word in (*words, CUSTOMERS, TYPICAL)}
    said, rest = [], name
    while rest and name != EVERYBODY:
        known = [slug for slug in slugs if f"{rest}_".startswith(f"{slug}_")]
        slug = max(known, key=len, default=rest.split("_")[0])
        said.append(slugs.get(slug, Word("how", slug, slug)))
        rest = rest[len(slug) + 1 :]
    if not said:
        return {"en": "All customers", "zh": "全部顾客"}
    en, zh = ", ".join(word.en for word in said), "、".join(word.zh for word in said)
    return {
        "en": en.replace(f", {CUSTOMERS.en}", f" {CUSTOMERS.en}").capitalize(),
        "zh": zh.replace(f"、{CUSTOMERS.zh}", CUSTOMERS.zh),
    }


def _kept(frame: Frame, sample: Frame, previous: Definition, config: Config) -> Segments | None:
    """The segments of before where they still fit the day, else None."""
    k = len(previous.names)
    if k == 1 or tuple(_usable(sample, config)) != previous.traits:
        return None
    centres = previous.standardised
    points = _points(sample, previous)
    settled = _settled(points, centres)
    distances = cdist(points, centres, "sqeuclidean").min(axis=1).sum()
    place = _nearest_of(frame, previous, centres)
    if distances > (1 + config.tolerance) * settled.inertia_ or len(np.unique(place)) < k:
        return None
    judged = points[: config.judged]
    ((_, fits),) = _fits("kmeans", judged, [k], config)
    seen = _evidence(KEPT, judged, _nearest(judged, centres), fits)
    return Segments(previous, place, (seen._replace(chosen=True),), is_new=False)


def _find(points: Array, config: Config) -> tuple[Array, list[Evidence]]:
    """Centres (k, traits) among standardised points (n, traits), and why so many."""
    judged = points[: config.judged]
    most = min(config.most, len(np.unique(judged, axis=0)) - 1) if points.size else 0
    if len(points) < config.customers or most < config.fewest:
        return np.zeros((1, points.shape[1])), [Evidence("kmeans", 1, chosen=True)]
    centres, evidence = {}, []
    for method in METHODS:
        for k, fits in _fits(method, judged, range(config.fewest, most + 1), config):
            centres[method, k] = fits.of_points.cluster_centers_
            evidence.append(_evidence(method, judged, fits.of_points.labels_, fits))
    best = max(evidence, key=lambda one: (min(one.stability, config.stable), one.silhouette))
    start = centres[best.method, best.segments]
    settled = _settled(points, start)
    return settled.cluster_centers_, [one._replace(chosen=one is best) for one in evidence]


def _settled(points: Array, start: Array) -> Any:
    """K-means from these centres (k, traits)."""
    settings: dict[str, Any] = {"init": start, "n_init": 1}
    return KMeans(len(start), **settings).fit(points)


class _Fits(NamedTuple):
    """One way to find k centres, on points, on bootstraps of them, and on uniform points: fitted
    KMeans, whose types scikit-learn does not say."""

    of_points: Any
    of_bootstraps: list[Any]
    of_references: list[Any]


def _fits(
    method: str, points: Array, numbers: Sequence[int], config: Config
) -> Iterator[tuple[int, _Fits]]:
    """For each number of segments, its fits."""
    rng = np.random.default_rng(config.seed)
    n, middle = len(points), points.mean(axis=0)
    bootstraps = [points[rng.integers(0, n, n)] for _ in range(config.bootstraps)]
    _, _, axes = np.linalg.svd(points - middle, full_matrices=False)
    turned = (points - middle) @ axes.T
    box = turned.min(axis=0), turned.max(axis=0)
    references = [rng.uniform(*box, turned.shape) @ axes for _ in range(config.references)]
    sets = [points, *bootstraps, *references]
    cuts = [cut_tree(ward(one), numbers).T for one in sets if method == "ward"]
    for at, k in enumerate(numbers):
        fits = []
        for number, one in enumerate(sets):
            if method == "kmeans":
                settings: dict[str, Any] = {"n_init": config.starts, "random_state": config.seed}
                fits.append(KMeans(k, **settings).fit(one))
            else:
                cut = cuts[number][at]
                start = np.stack([one[cut == place].mean(axis=0) for place in range(k)])
                fits.append(_settled(one, start))
        ends = 1 + config.bootstraps
        yield k, _Fits(fits[0], fits[1:ends], fits[ends:])


def _evidence(method: str, points: Array, labels: Array, fits: _Fits) -> Evidence:
    """What speaks for labels (n,) of points, by what the fits found elsewhere."""
    middles = pd.DataFrame(points).groupby(labels).transform("mean").to_numpy()
    uniform = np.mean([np.log(one.inertia_) for one in fits.of_references])
    again = [adjusted_rand_score(labels, one.predict(points)) for one in fits.of_bootstraps]
    return Evidence(
        method,
        fits.of_points.n_clusters,
        silhouette=float(silhouette_score(points, labels)),
        gap=float(uniform - np.log(np.square(points - middles).sum())),
        stability=float(np.mean(again)),
    )


def _names(centres: Array, definition: Definition, previous: Definition | None) -> tuple[str, ...]:
    """Of standardised centres (k, traits), each another name."""
    if len(centres) == 1:
        return (EVERYBODY,)
    names = {} if previous is None else _still_there(centres, definition, previous)
    for place, centre in enumerate(centres):
        if place not in names:
            names[place] = _name(centre, definition.traits, set(names.values()))
    return tuple(names[place] for place in range(len(centres)))


def _still_there(centres: Array, definition: Definition, previous: Definition) -> dict[int, str]:
    """The names of before, by place of the centre that is still the same segment: it moved less
    than half the way to the next one."""
    shared = [column for column in definition.traits if column in previous.traits]
    if not shared or len(previous.names) == 1:
        return {}
    now, then = ([one.traits.index(column) for column in shared] for one in (definition, previous))
    before = Definition(
        tuple(shared),
        previous.names,
        previous.centres[:, then],
        definition.mean[now],
        definition.spread[now],
    ).standardised
    moved = cdist(centres[:, now], before)
    apart = cdist(before, before)
    np.fill_diagonal(apart, np.inf)
    farthest = apart.min(axis=1) / 2
    # A segment that is gone has no match: how far it is from all others must not move theirs.
    pairs = zip(*linear_sum_assignment(np.minimum(moved, farthest)), strict=True)
    return {
        int(place): previous.names[old] for place, old in pairs if moved[place, old] < farthest[old]
    }


def _name(centre: Array, traits: tuple[str, ...], taken: set[str]) -> str:
    """When they come and how they buy, a word of each; more words where the name is taken."""
    words: list[Word] = []
    for at in np.argsort(-np.abs(centre), kind="stable"):
        trait = TRAITS[traits[at]]
        word = trait.high if centre[at] > 0 else trait.low
        if word and abs(centre[at]) >= STANDS_OUT and word.slug not in {w.slug for w in words}:
            words.append(word)
    when = next((word for word in words if word.slot == "when"), None)
    how = next((word for word in words if word.slot == "how"), None)
    if when is None and how is None:
        when = TYPICAL
    said = [word for word in (when, how or CUSTOMERS) if word is not None]
    more = [word for word in words if word not in said]
    for count in range(len(more) + 1):
        chosen = sorted([*said, *more[:count]], key=lambda word: word.slot == "how")
        name = "_".join(word.slug for word in chosen)
        if name not in taken:
            return name
    return next(f"{name}_{n}" for n in range(2, len(taken) + 3) if f"{name}_{n}" not in taken)


def _first_by_hash(customer_id: pd.Series, most: int) -> Array:
    """Places of at most so many customers: a sample that stays the same from day to day."""
    return np.argsort(customer_hash.uniform(customer_id, "segments"), kind="stable")[:most]


def _usable(sample: Frame, config: Config) -> list[str]:
    """The traits that tell this shop's customers apart."""
    usable: list[str] = []
    for column, trait in TRAITS.items():
        measured = _measured(sample, column)
        known = measured[~np.isnan(measured)]
        if (
            trait.instead not in usable
            and len(known) >= max(config.known * len(measured), 1)
            and known.std() > 1e-6
        ):
            usable.append(column)
    return usable


def _measured(frame: Frame, column: str) -> Array:
    if column not in frame:
        return np.full(len(frame), np.nan)
    return TRAITS[column].measure(frame[column].to_numpy(dtype=float, na_value=np.nan))


def _points(frame: Frame, definition: Definition) -> Array:
    """(n, traits) standardised."""
    measured = [_measured(frame, column) for column in definition.traits]
    return _scaled(np.reshape(measured, (len(measured), len(frame))).T, definition)


def _scaled(measured: Array, definition: Definition) -> Array:
    scaled = (measured - definition.mean) / definition.spread
    return np.nan_to_num(scaled.clip(-FARTHEST, FARTHEST))  # not known: in the middle


def _in_their_units(centres: Array, definition: Definition) -> Array:
    measured = centres * definition.spread + definition.mean
    for at, column in enumerate(definition.traits):
        measured[:, at] = TRAITS[column].in_its_unit(measured[:, at])
    return measured


def _nearest_of(frame: Frame, definition: Definition, centres: Array) -> Array:
    """(n,) the place of the centre nearest to each customer."""
    place = np.zeros(len(frame), dtype=np.int64)
    for start in range(0, len(frame) if len(centres) > 1 else 0, ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        place[rows] = _nearest(_points(frame.iloc[rows], definition), centres)
    return place


def _nearest(points: Array, centres: Array) -> Array:
    return cdist(points, centres, "sqeuclidean").argmin(axis=1)
