"""The segments of a day: what is read of the version before, and what is kept of this one."""

import json
from datetime import date

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa

from ml import figures, segments
from ml.pipelines.tracking import finite, open_mlflow, tags_of
from warehouse.connections import Urls, read_arrow
from warehouse.settings import Settings

RFM = "rfm_segment"
COLUMNS = ["customer_id", *segments.TRAITS, RFM]
SEGMENTS = "customer_segments"  # the experiment: a run for each time that centres are found


def group(
    settings: Settings,
    urls: Urls,
    as_of: date,
    shopping: pd.DataFrame,
    expected_spend: np.ndarray,
    before: str | None,
) -> dict[str, pa.Table]:
    """The rows of scores.customer_segments, segment_profiles and segment_evidence, without their
    version.

    shopping: COLUMNS of every customer of the day. expected_spend: (n,) in the same order. before:
    the version whose segments go on. Centres that were found on this day are recorded in MLflow.
    """
    found = segments.segment(shopping, None if before is None else _read_definition(urls, before))
    names = np.array(found.definition.names, dtype=object)[found.place]
    profiles = segments.profiles(shopping, found, expected_spend)
    agreement = before and _agreement(urls, before, shopping["customer_id"], names)
    if found.is_new:
        _record(settings, urls, as_of, found, profiles)
    scale = _json(found.definition, np.stack([found.definition.mean, found.definition.spread], 1))
    return {
        "customer_segments": pa.table({
            "customer_id": pa.array(shopping["customer_id"], pa.string()),
            RFM: pa.array(shopping[RFM], pa.string()),
            "segment": pa.array(names, pa.string()),
        }),
        "segment_profiles": pa.table({
            **pa.Table.from_pylist([profile._asdict() for profile in profiles]).to_pydict(),
            "centre": [_json(found.definition, centre) for centre in found.definition.centres],
            "scale": [scale] * len(profiles),
        }),
        "segment_evidence": pa.table({
            "method": [one.method for one in found.evidence],
            "segments": pa.array([one.segments for one in found.evidence], pa.int32()),
            **{
                name: pa.array([getattr(one, name) for one in found.evidence], pa.float64())
                for name in ("silhouette", "gap", "stability")
            },
            "agreement": pa.array(
                [agreement if one.chosen else None for one in found.evidence], pa.float64()
            ),
            "chosen": [one.chosen for one in found.evidence],
        }),
    }  # fmt: skip


def _json(definition: segments.Definition, values: np.ndarray) -> str:
    """One value, or one list of values, for each trait."""
    return json.dumps(dict(zip(definition.traits, values.tolist(), strict=True)))


def _read_definition(urls: Urls, version_id: str) -> segments.Definition | None:
    """The segments of a version; None where it has none, or traits that are no more."""
    rows = read_arrow(
        urls.warehouse,
        "select segment, centre::text as centre, scale::text as scale "
        "from scores.segment_profiles where version_id = $1 order by segment",
        [version_id],
    ).to_pydict()
    if not rows["segment"]:
        return None
    scale = json.loads(rows["scale"][0])
    traits = tuple(column for column in segments.TRAITS if column in scale)
    if len(traits) < len(scale):
        return None
    centres = [[json.loads(centre)[column] for column in traits] for centre in rows["centre"]]
    mean, spread = np.array([scale[column] for column in traits]).reshape(-1, 2).T
    return segments.Definition(
        traits, tuple(rows["segment"]), np.array(centres).reshape(-1, len(traits)), mean, spread
    )


def _agreement(
    urls: Urls, version_id: str, customer_id: pd.Series, names: np.ndarray
) -> float | None:
    """With the version's segments, on the customers of both; None where nobody is of both."""
    before = read_arrow(
        urls.warehouse,
        "select customer_id, segment from scores.customer_segments where version_id = $1",
        [version_id],
    ).to_pandas()
    was = before.set_index("customer_id")["segment"].reindex(customer_id).to_numpy()
    known = pd.notna(was)
    return segments.agreement(names[known], was[known]) if known.any() else None


def _record(
    settings: Settings,
    urls: Urls,
    as_of: date,
    found: segments.Segments,
    profiles: list[segments.Profile],
) -> None:
    """What was found and why, as a run of its own."""
    open_mlflow(settings, urls, SEGMENTS)
    chosen = found.chosen
    with mlflow.start_run(
        run_name=as_of.isoformat(), tags=tags_of(settings, as_of, settings.horizon_days)
    ):
        mlflow.log_params({"method": chosen.method, "segments": chosen.segments})
        told = {name: getattr(chosen, name) for name in ("silhouette", "gap", "stability")}
        mlflow.log_metrics(finite({name: value or np.nan for name, value in told.items()}))
        mlflow.log_dict({"evidence": [one._asdict() for one in found.evidence]}, "evidence.json")
        mlflow.log_dict({"profiles": [one._asdict() for one in profiles]}, "profiles.json")
        mlflow.log_figure(figures.segments(found, profiles), "figures/segments.png")
