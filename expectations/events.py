"""Gate of what the sequence models read: is the stream whole, in order, and about the past?"""

from collections.abc import Mapping

import great_expectations as gx

from expectations.tables import (
    Columns,
    Scope,
    Table,
    at_least,
    at_most,
    has_rows,
    rows_outside,
    visible,
)

RANGES: Mapping[str, tuple[float, float]] = {
    "kind": (1, 16),
    "category_code": (0, 16**7),
    "product_bucket": (0, 8192),
    "log_amount": (-50, 50),
    "hour": (0, 23),
    "weekday": (1, 7),
}
# The raw table's times; each that is not null is a row of the stream.
TIMES: Mapping[str, tuple[str, ...]] = {
    "order_lines": ("ordered_at",),
    "events": ("occurred_at",),
    "reviews": ("reviewed_at",),
    "campaign_contacts": ("contacted_at", "opened_at", "clicked_at", "redeemed_at"),
}
# A day of fewer rows says nothing about its feed: chance alone can halve it.
MIN_ROWS = 20


def customer_events(_: Columns = ()) -> gx.ExpectationSuite:
    """The stream as of the day."""
    return gx.ExpectationSuite(
        name="customer_events",
        expectations=[
            has_rows("The stream holds nothing that was known by this day."),
            at_most(
                "rows_missing_from_raw",
                0,
                "critical",
                "The stream has not as many rows as the raw tables have visible ones: build the "
                "day again.",
            ),
            # The table is the same for all days; a row known too early is the future.
            at_most(
                "rows_known_too_early",
                0,
                "critical",
                "Rows are known on their own day or before: a model would read the future.",
            ),
            *(
                at_most(
                    f"{column}_outside",
                    0,
                    "critical",
                    f"Null, or not within {low:g} and {high:g}.",
                )
                for column, (low, high) in RANGES.items()
            ),
            at_most("negative_waits", 0, "critical", "Seconds since the row before are negative."),
            at_most(
                "missing_waits",
                0,
                "critical",
                "A row that is not its customer's first has no seconds since the row before.",
            ),
            # Compared with the quietest of 28 days, so that a shop closed on Sundays is never
            # wrong, and by feed, so that none hides behind another.
            at_least(
                "newest_day_to_quietest",
                0.2,
                "warning",
                "Far fewer rows became known on the day than on any of the 28 before: is the "
                "newest delivery of every table loaded?",
            ),
            at_most(
                "newest_day_to_busiest",
                5,
                "warning",
                "Far more rows became known on the day than on any of the 28 before: did a "
                "delivery bring older days again?",
            ),
            # Without the products' newest delivery the newest products have no category.
            at_least(
                "category_share_to_usual",
                0.5,
                "warning",
                "Rows with a product that has a category, against the 28 days before: is the "
                "newest delivery of the products loaded?",
            ),
            at_least(
                "category_share_to_usual",
                0.1,
                "critical",
                "Hardly a product of the newest day has a category: load the products, and build "
                "again.",
            ),
        ],
    )


def customer_events_facts(scope: Scope, _: Columns) -> str:
    """One pass over the stream, into a row for each day and feed, and one over each raw table."""
    day = scope.date_literal
    outside = "".join(
        # A null is outside too.
        f",\n{rows_outside(f'coalesce({column}, -1000)', low, high)} as {column}_outside"
        for column, (low, high) in RANGES.items()
    )
    sums = "".join(
        f",\ncoalesce(sum({column}_outside), 0) as {column}_outside" for column in RANGES
    )
    raw_rows = " + ".join(
        f"(select {' + '.join(f'count(*) filter (where {visible(scope, t)})' for t in times)} "
        f"from raw.{table})"
        for table, times in TIMES.items()
    )
    return f"""
    with

    days as materialized (
        select
            known_on,
            case
                when kind <= 2 then 'order_lines'
                when kind <= 10 then 'events'
                when kind <= 12 then 'reviews'
                else 'campaign_contacts'
            end as feed,
            count(*) as rows,
            count(*) filter (where known_on <= event_date) as known_too_early,
            count(*) filter (where seconds_since_last < 0) as negative_waits,
            count(*) filter (where seconds_since_last is null and position > 1) as missing_waits,
            count(*) filter (where product_bucket > 0) as with_product,
            count(*) filter (where product_bucket > 0 and category_code > 0)
                as with_category{outside}
        from features.customer_events
        where known_on <= {day}
        group by 1, 2
    ),

    totals as (
        select
            cast(coalesce(sum(rows), 0) as bigint) as rows,
            coalesce(sum(known_too_early), 0) as known_too_early,
            coalesce(sum(negative_waits), 0) as negative_waits,
            coalesce(sum(missing_waits), 0) as missing_waits,
            cast(sum(with_category) filter (where known_on = {day}) as double precision)
                / nullif(sum(with_product) filter (where known_on = {day}), 0)
                as newest_category_share,
            sum(with_product) filter (where known_on = {day}) as newest_products,
            cast(
                sum(with_category) filter (where known_on < {day} and known_on >= {day} - 28)
                as double precision
            ) / nullif(
                sum(with_product) filter (where known_on < {day} and known_on >= {day} - 28), 0
            ) as usual_category_share{sums}
        from days
    ),

    recent as (
        select
            fed.feed,
            back,
            cast(coalesce(days.rows, 0) as double precision) as rows
        from (select distinct feed from days) as fed
        cross join generate_series(0, 28) as back
        left join days on days.feed = fed.feed and days.known_on = {day} - back
    ),

    feeds as (
        select
            feed,
            max(rows) filter (where back = 0) as newest,
            min(rows) filter (where back > 0) as quietest,
            max(rows) filter (where back > 0) as busiest
        from recent
        group by feed
    )

    select
        totals.rows as row_count,
        abs(totals.rows - ({raw_rows})) as rows_missing_from_raw,
        totals.known_too_early as rows_known_too_early,
        negative_waits,
        missing_waits,
        coalesce((select min(newest / quietest) from feeds where quietest >= {MIN_ROWS}), 1)
            as newest_day_to_quietest,
        coalesce(
            (
                select max(newest / busiest)
                from feeds
                where busiest >= {MIN_ROWS} and feed <> 'campaign_contacts'
            ),
            1
        ) as newest_day_to_busiest,
        case
            when newest_products >= {MIN_ROWS} and usual_category_share >= 0.1
                then newest_category_share / usual_category_share
            else 1
        end as category_share_to_usual{"".join(f", {column}_outside" for column in RANGES)}
    from totals
    """


TABLES = (
    Table(
        name="customer_events",
        suite=customer_events,
        facts=customer_events_facts,
        needs={
            "features.customer_events": "tierhouse build --as-of DAY",
            **{f"raw.{table}": "tierhouse load SOURCE PATH" for table in TIMES},
        },
    ),
)
