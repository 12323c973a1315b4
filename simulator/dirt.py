"""Damage that real files have, and the list of it.

Damaged rows are added to the clean ones, never put in their place: whoever refuses all of them has
the clean shop again, row for row. Each is a copy of a clean row with a key of its own (its first
letter becomes X) and one column broken; a duplicate keeps everything, a conflict keeps the key.
A typed Parquet file cannot hold unparsable numbers, broken encodings or rows of the wrong length.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

DUPLICATE, CONFLICT = "duplicate", "conflict"


@dataclass(frozen=True)
class Kind:
    """`column` becomes `value`, and the loader should say `reason` (or count the row as that)."""

    name: str
    column: str
    value: object
    reason: str


def _time(column: str) -> tuple[Kind, ...]:
    future, epoch = datetime.fromisoformat("2199-01-01"), datetime.fromisoformat("1970-01-01")
    return (
        Kind("future_time", column, future, "future_time"),
        Kind("epoch_time", column, epoch, "absurd_time"),
    )


def _amount(column: str, negative: float, huge: float) -> tuple[Kind, ...]:
    return (
        Kind(f"nan_{column}", column, float("nan"), "impossible_number"),
        Kind(f"infinite_{column}", column, float("inf"), "impossible_number"),
        Kind(f"overflowing_{column}", column, 1e300, "impossible_number"),
        Kind(f"negative_{column}", column, negative, "out_of_bounds"),
        Kind(f"huge_{column}", column, huge, "out_of_bounds"),
    )


def _missing(column: str, reason: str = "missing_value") -> Kind:
    return Kind(f"missing_{column}", column, None, reason)


_BELL = "be\x07ll"
KEYS = {
    "customers": "customer_id",
    "products": "product_id",
    "order_lines": "order_id",
    "events": "event_id",
    "reviews": "review_id",
    "campaigns": "campaign_id",
    "campaign_contacts": "contact_id",
}
# The column that a conflicting row changes, always by as much.
_CHANGED = {
    "customers": "signed_up_at",
    "products": "product_name",
    "order_lines": "quantity",
    "events": "occurred_at",
    "reviews": "reviewed_at",
    "campaigns": "campaign_name",
    "campaign_contacts": "contacted_at",
}
_ORPHAN_PRODUCT = Kind("orphan_product", "product_id", "P99999", "orphan_product")
_ORPHAN_CUSTOMER = Kind("orphan_customer", "customer_id", "C99999999999", "orphan_customer")
KINDS: dict[str, tuple[Kind, ...]] = {
    "customers": (
        *_time("signed_up_at"),
        Kind("control_character", "region", _BELL, "control_characters"),
    ),
    "products": (
        *_amount("unit_cost", -1.0, 1e6),
        Kind("control_character", "product_name", _BELL, "control_characters"),
    ),
    "order_lines": (
        *_amount("unit_price", -5.0, 1e6),
        *_amount("quantity", -1e5, 1e5),
        *_time("ordered_at"),
        _missing("line_number", "missing_key"),
        _missing("ordered_at"),
        _missing("quantity"),
        _missing("unit_price"),
        Kind("unknown_currency", "currency", "XXX", "unknown_currency"),
        Kind("control_character", "channel", _BELL, "control_characters"),
        _ORPHAN_PRODUCT,
        Kind("anonymous", "customer_id", None, "anonymous"),
    ),
    "events": (
        *_time("occurred_at"),
        _missing("occurred_at"),
        _missing("event_type"),
        Kind("anonymous", "customer_id", None, "anonymous"),
        Kind("unknown_event_type", "event_type", "teleport", "unknown_event_type"),
        Kind("control_character", "session_id", _BELL, "control_characters"),
        _ORPHAN_PRODUCT,
    ),
    "reviews": (
        Kind("nan_rating", "rating", float("nan"), "impossible_number"),
        Kind("huge_rating", "rating", 11.0, "out_of_bounds"),
        *_time("reviewed_at"),
        _missing("reviewed_at"),
        Kind("control_character", "body", _BELL, "control_characters"),
        _ORPHAN_PRODUCT,
        _ORPHAN_CUSTOMER,
    ),
    "campaigns": (
        *_amount("cost_per_contact", -1.0, 1e6),
        Kind("control_character", "offer", _BELL, "control_characters"),
    ),
    "campaign_contacts": (
        *_time("contacted_at"),
        _missing("contacted_at"),
        Kind("orphan_campaign", "campaign_id", "M9999", "orphan_campaign"),
        Kind("control_character", "treatment_arm", _BELL, "control_characters"),
        _ORPHAN_CUSTOMER,
    ),
}


def soil(
    rng: np.random.Generator, table: pa.Table, name: str, file: str, share: float
) -> tuple[pa.Table, pa.Table]:
    """The table with damaged rows among its own, `share` of all, and the list of them.

    The list has file, source_row (the first row is 1), table, kind, column and reason: what the
    loader should say of the row. Of a duplicate and of a conflict it may say so of the listed row
    or of the clean one with the same key, which is in the same file.
    """
    rows = table.num_rows
    damaged = min(int(rows * share / (1 - share) + rng.random()), rows)
    kinds = _kinds(name)
    kind = rng.integers(0, len(kinds), damaged)
    kind.sort()
    originals = rng.permutation(rows)[:damaged]
    spoiled = [
        _damage(table.take(pa.array(originals[kind == number])), name, kinds[number])
        for number in np.unique(kind)
    ]
    after = np.concatenate([np.arange(rows), rng.random(damaged) * rows])
    places = np.argsort(after, kind="stable")
    source_row = np.flatnonzero(places >= rows) + 1
    added = places[places >= rows] - rows
    listed = [kinds[number] for number in kind[added]]
    truth = pa.table(
        {
            "file": pa.array([file] * damaged, pa.string()),
            "source_row": pa.array(source_row, pa.int64()),
            "table": pa.array([name] * damaged, pa.string()),
            "kind": pa.array([each.name for each in listed], pa.string()),
            "column": pa.array([each.column for each in listed], pa.string()),
            "reason": pa.array([each.reason for each in listed], pa.string()),
        }
    )
    mixed = pa.concat_tables([table, *spoiled]).unify_dictionaries().combine_chunks()
    return mixed.take(pa.array(places)), truth


def _kinds(name: str) -> tuple[Kind, ...]:
    key = KEYS[name]
    return (
        *KINDS[name],
        _missing(key, "missing_key"),
        Kind(DUPLICATE, key, None, "duplicate"),
        Kind(CONFLICT, _CHANGED[name], None, "conflicting_key"),
    )


def _damage(rows: pa.Table, name: str, kind: Kind) -> pa.Table:
    """The rows with a key of their own and one column broken, in the same types as before."""
    if kind.name == DUPLICATE:
        return rows
    if kind.name == CONFLICT:
        changed = [_changed(value) for value in rows.column(kind.column).to_pylist()]
        return _set(rows, kind.column, changed)
    own = [f"X{key[1:]}" for key in rows.column(KEYS[name]).to_pylist()]
    return _set(_set(rows, KEYS[name], own), kind.column, [kind.value] * rows.num_rows)


def _set(rows: pa.Table, column: str, values: list) -> pa.Table:
    place = rows.schema.get_field_index(column)
    field = rows.schema.field(place)
    if pa.types.is_dictionary(field.type):
        return rows.set_column(place, field, pa.array(values, pa.string()).dictionary_encode())
    return rows.set_column(place, field, pa.array(values, field.type))


def _changed(value: datetime | float | str) -> datetime | float | str:
    if isinstance(value, datetime):
        return value + timedelta(seconds=1)
    return f"{value} again" if isinstance(value, str) else value + 1
