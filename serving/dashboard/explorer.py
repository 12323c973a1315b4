"""Find customers by tier, segment, movement, country or pseudonym, and take the list along."""

import streamlit as st

from serving import queries
from serving.dashboard import tables
from serving.queries import Ask, Filters
from serving.texts import Say
from warehouse.connections import analyst_url
from warehouse.settings import read_settings

ROWS = 500
MOST_ROWS = 100_000


def show(ask: Ask, say: Say) -> None:
    filters = _filters(ask, say)
    found, money = queries.count(ask, filters)
    st.markdown(say("found", customers=f"{found:,}", expected_spend=f"{money:,.0f}"))
    rows = queries.find(ask, filters, ROWS)
    picked = tables.show(
        rows,
        tables.CUSTOMERS,
        say,
        on_select="rerun",
        selection_mode="single-row",
        height=520,
        key="found",
    )
    left, right = st.columns([3, 1], vertical_alignment="center")
    left.caption(say("rows_shown", shown=f"{len(rows):,}", found=f"{found:,}"))
    right.download_button(
        say("download", rows=f"{min(found, MOST_ROWS):,}"),
        lambda: _csv(filters),
        "customers.csv",
        "text/csv",
        icon=":material/download:",
        on_click="ignore",
    )
    if picked.selection.rows:
        customer = str(rows.at[picked.selection.rows[0], "customer_id"])
        st.switch_page(st.session_state["pages"]["customer"], query_params={"customer": customer})


def _filters(ask: Ask, say: Say) -> Filters:
    """One field for each thing that this shop has."""
    choices = {
        "tier": ask(queries.TIERS)["tier"].tolist(),
        "movement": list(queries.MOVEMENTS),
        "segment": ask(queries.SEGMENTS)["segment"].tolist(),
        "country": ask(queries.COUNTRIES)["country"].tolist(),
    }
    there = [name for name, values in choices.items() if values]
    *fields, search = st.columns(len(there) + 1)
    chosen = {
        name: field.multiselect(
            say(name),
            choices[name],
            format_func=say if name == "movement" else str,
            placeholder=say("all"),
        )
        for name, field in zip(there, fields, strict=True)
    }
    return Filters(
        tiers=chosen["tier"],
        movements=chosen["movement"],
        segments=chosen.get("segment", []),
        countries=chosen.get("country", []),
        customer=search.text_input(say("search")).strip(),
    )


def _csv(filters: Filters) -> bytes:
    """Asked anew when somebody clicks: the pages hold no long lists."""
    with queries.snapshot(analyst_url(read_settings())) as ask:
        rows = queries.find(ask, filters, MOST_ROWS)
    return rows.to_csv(index=False, lineterminator="\n").encode()
