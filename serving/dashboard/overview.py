"""Customers and money by tier, who moved since the version before, and whether all is fresh."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from serving import queries
from serving.dashboard import charts, tables
from serving.queries import Ask
from serving.texts import Say

FIGURES = ("customers", "expected_spend")
MOVES = ("customers_up", "customers_down", "customers_new")


def show(ask: Ask, say: Say) -> None:
    tiers = ask(queries.TIERS)
    migrations = ask(queries.MIGRATIONS)
    _figures(tiers, FIGURES if migrations.empty else FIGURES + MOVES, say)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(say("customers_and_money"))
        st.altair_chart(charts.shares(tiers, say))
    with right:
        st.subheader(say("where_from"))
        if migrations.empty:
            st.caption(say("first_version"))
        else:
            st.altair_chart(charts.migrations(migrations, say))
    tables.show(tiers, tables.TIERS, say)
    segments = ask(queries.SEGMENTS)
    if len(segments):
        st.subheader(say("segments"))
        described = segments.assign(description=segments[f"description_{say('language')}"])
        tables.show(described, tables.SEGMENTS, say)
    totals = ask(queries.TIERS_OVER_TIME)
    if totals["as_of_date"].nunique() > 1:
        left, right = st.columns(2, gap="large")
        for place, value in ((left, "customers"), (right, "expected_spend")):
            with place:
                st.subheader(say(f"{value}_over_time"))
                st.altair_chart(charts.over_time(totals, value, say))
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(say("freshness"))
        ages = ask(queries.FRESHNESS)
        if stale := ages.loc[ages["is_stale"], "table_name"].tolist():
            st.warning(say("stale_tables", tables=", ".join(stale)))
        tables.show(ages, tables.FRESHNESS, say)
    with right:
        st.subheader(say("gates"))
        tables.show(ask(queries.GATES), tables.GATES, say)


def _figures(tiers: pd.DataFrame, names: Sequence[str], say: Say) -> None:
    """The line of numbers that a manager reads first."""
    for place, name in zip(st.columns(len(names)), names, strict=True):
        place.metric(say(name), f"{tiers[name].sum():,.0f}", border=True)
