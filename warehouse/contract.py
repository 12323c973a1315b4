"""The shop contract: seven tables that every source maps to. `raw` is made from it.

A type is written once, in words that DuckDB and PostgreSQL share.
"""

from collections.abc import Mapping
from dataclasses import dataclass

REQUIRED = "not null"
# What every landed row carries besides the contract's columns.
PROVENANCE = {
    "content_hash": "bigint not null",
    "file_id": "integer not null",
    "source_row": "integer not null",
    "delivered_at": "timestamp not null",
    # When the key first came with a day's delivery; null: the source has no such time.
    "known_at": "timestamp",
}
EVENT_TYPES = (
    "view", "search", "wishlist", "cart_add", "cart_remove", "checkout", "login", "support",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """`columns`: name -> type, with `not null` where required. `personal` ones go to `pii` only.

    `corrects`: without a word from the source, a newer delivery corrects a row of this table;
    otherwise a key that comes again with other content is a conflict. `times` are when what the
    row tells of happened: the first one always, the others where it did.
    """

    name: str
    key: tuple[str, ...]
    columns: Mapping[str, str]
    personal: tuple[str, ...] = ()
    corrects: bool = True
    times: tuple[str, ...] = ()

    def kind(self, column: str) -> str:
        """The column's type without `not null`."""
        return self.columns[column].removesuffix(REQUIRED).strip()

    def is_required(self, column: str) -> bool:
        """Whether a row without this column's value is no row of this table."""
        return self.columns[column].endswith(REQUIRED)

    @property
    def landed(self) -> tuple[str, ...]:
        """The columns that `raw` holds."""
        return tuple(name for name in self.columns if name not in self.personal)


# In the order of loading: what is referred to comes first.
TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "customers",
            key=("customer_id",),
            columns={
                "customer_id": "text not null",
                "signed_up_at": "timestamp",
                "country": "text",
                "region": "text",
                "birth_year": "integer",
                "gender": "text",
                "income_band": "text",
                "household": "text",
                "acquisition_channel": "text",
                "email": "text",
                "phone": "text",
                "full_name": "text",
            },
            personal=("email", "phone", "full_name"),
        ),
        Table(
            "products",
            key=("product_id",),
            columns={
                "product_id": "text not null",
                "product_name": "text",
                "category": "text",
                "subcategory": "text",
                "brand": "text",
                "unit_cost": "decimal(14, 4)",
            },
        ),
        Table(
            "order_lines",
            key=("order_id", "line_number"),
            columns={
                "order_id": "text not null",
                "line_number": "bigint not null",
                "customer_id": "text not null",
                "ordered_at": "timestamp not null",
                "product_id": "text",
                "quantity": "decimal(18, 6) not null",
                "unit_price": "decimal(18, 6) not null",
                "discount_amount": "decimal(18, 6)",
                "currency": "text not null",
                "channel": "text",
            },
            corrects=False,
            times=("ordered_at",),
        ),
        Table(
            "events",
            key=("event_id",),
            columns={
                "event_id": "text not null",
                "customer_id": "text not null",
                "session_id": "text",
                "occurred_at": "timestamp not null",
                "event_type": "text not null",
                "product_id": "text",
            },
            corrects=False,
            times=("occurred_at",),
        ),
        Table(
            "reviews",
            key=("review_id",),
            columns={
                "review_id": "text not null",
                "customer_id": "text not null",
                "product_id": "text",
                "rating": "decimal(4, 2)",
                "body": "text",
                "reviewed_at": "timestamp not null",
            },
            times=("reviewed_at",),
        ),
        Table(
            "campaigns",
            key=("campaign_id",),
            columns={
                "campaign_id": "text not null",
                "campaign_name": "text",
                "channel": "text",
                "offer": "text",
                "starts_on": "date",
                "ends_on": "date",
                "cost_per_contact": "decimal(14, 4)",
            },
        ),
        Table(
            "campaign_contacts",
            key=("contact_id",),
            columns={
                "contact_id": "text not null",
                "campaign_id": "text not null",
                "customer_id": "text not null",
                "contacted_at": "timestamp not null",
                "treatment_arm": "text",
                "opened_at": "timestamp",
                "clicked_at": "timestamp",
                "redeemed_at": "timestamp",
            },
            times=("contacted_at", "opened_at", "clicked_at", "redeemed_at"),
        ),
    )
}
# Bounds that hold for every shop; a source adds its own.
BOUNDS = {
    "customers": {"birth_year": (1900, 2100)},
    "reviews": {"rating": (0, 10)},
}


DATED = tuple(table.name for table in TABLES.values() if table.times)


def ddl() -> str:
    """The statements that make the tables of `raw`, unless they are there, and watch them."""
    statements = []
    for table in TABLES.values():
        columns = {name: table.columns[name] for name in table.landed} | PROVENANCE
        listed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        statements.append(
            f"create table if not exists raw.{table.name} "
            f"({listed}, primary key ({', '.join(table.key)}));\n"
            f"alter table raw.{table.name} add column if not exists known_at "
            f"{PROVENANCE['known_at']};"
        )
        if table.times:
            statements.append(time_index(table))
        statements += _triggers(table)
    return "\n".join(statements)


def time_index(table: Table) -> str:
    """The statement that makes a dated table's index by time, unless it is there.

    Rows come roughly in the order of their times, so the bounds of every 32 pages find a day.
    """
    return (
        f"create index if not exists {table.name}_by_time on raw.{table.name} "
        f"using brin ({table.times[0]}, known_at) with (pages_per_range = 32);"
    )


def _triggers(table: Table) -> list[str]:
    """What ops.note_changes is called with: the columns that are compared, and what is noted.

    The latter is a query that makes (entity_id, day, is_whole) of the rows that differ, `changed`.
    """
    # The contents and not their hash, which nobody mends who mends a row by hand.
    compared = [*table.landed, "known_at"]
    if table.times:
        noted = " union ".join(
            f"select distinct customer_id, cast({time} as date), false from changed "
            f"where {time} is not null"
            for time in table.times
        )
    elif table.name == "products":
        # A product of the same category before and after is twice in `changed`.
        noted = (
            "select distinct case when count(*) = 1 then product_id end, cast(null as date), "
            "false from changed group by product_id, category"
        )
    else:
        noted = "select distinct cast(null as text), cast(null as date), true from changed"
    arguments = f"'{', '.join(compared)}', '{noted}'"
    sides = {
        "insert": "referencing new table as appeared",
        "delete": "referencing old table as vanished",
        "update": "referencing old table as vanished new table as appeared",
        "truncate": "",
    }
    return [
        f"create or replace trigger note_{event} after {event} on raw.{table.name} {side} "
        f"for each statement execute function ops.note_changes({arguments});"
        for event, side in sides.items()
    ]
