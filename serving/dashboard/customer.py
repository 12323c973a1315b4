"""One customer: the tier and since when, what is expected and why, and what was before."""

import re
from typing import Any

import pandas as pd
import streamlit as st

from serving import queries
from serving.dashboard import charts, tables
from serving.queries import Ask
from serving.texts import Say

MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!$~:<>|])")  # a shop's words are no Markdown


def show(ask: Ask, say: Say) -> None:
    wanted = st.text_input(
        say("customer_id"), key="customer", bind="query-params", placeholder=say("customer_help")
    )
    if not wanted:
        st.info(say("customer_help"))
        return
    found = ask(queries.CUSTOMER, customer=wanted.strip())
    if found.empty:
        st.warning(say("customer_unknown", customer=wanted))
        return
    facts = found.iloc[0]
    customer = facts["customer_id"]
    _figures(facts, say)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(say("why"))
        _reasons(ask(queries.REASONS, customer=customer), say)
        st.subheader(say("tier_history"))
        stays = ask(queries.HISTORY, customer=customer)
        st.altair_chart(charts.tier_history(stays, facts["as_of_date"], say))
    with right:
        st.subheader(say("outlook"))
        outlook = _with_interval(ask(queries.OUTLOOK, customer=customer), facts)
        st.altair_chart(charts.outlook(outlook, "expected_spend", ",.0f", say))
        st.altair_chart(charts.outlook(outlook, "purchase_probability", ".0%", say))
    events = ask(queries.TIMELINE, customer=customer)
    st.subheader(say("timeline"))
    if events.empty:
        st.caption(say("no_events"))
    else:
        st.altair_chart(charts.timeline(events, say))
    st.subheader(say("facts"))
    _facts(facts, say)


def _figures(facts: pd.Series, say: Say) -> None:
    tier, money, buys, leaves, due = st.columns(5)
    tier.metric(
        say("tier"),
        facts["tier"],
        say("since", day=facts["tier_since"]),
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    interval = say(
        "interval",
        low=_money(facts["expected_spend_low"]),
        high=_money(facts["expected_spend_high"]),
    )
    known = pd.notna(facts["expected_spend_low"])
    money.metric(
        say("expected_spend"),
        _money(facts["expected_spend"]),
        interval if known else None,
        delta_color="off",
        delta_arrow="off",
        border=True,
    )
    buys.metric(say("purchase_probability"), f"{facts['purchase_probability']:.0%}", border=True)
    leaves.metric(say("churn_probability"), f"{facts['churn_probability']:.0%}", border=True)
    day = facts["next_order_date"]
    due.metric(say("next_order_date"), str(day) if pd.notna(day) else "–", border=True)


def _reasons(reasons: pd.DataFrame, say: Say) -> None:
    if reasons.empty:
        st.caption(say("no_reasons"))
    for reason in reasons.itertuples(index=False):
        arrow = ":green[↑]" if float(str(reason.effect)) > 1 else ":orange[↓]"
        text = MARKS.sub(r"\\\1", getattr(reason, f"text_{say('language')}"))
        st.markdown(f"{arrow} **×{reason.effect:.2f}**  {text}")
    st.caption(say("reasons_caution"))


def _with_interval(outlook: pd.DataFrame, facts: pd.Series) -> pd.DataFrame:
    """The interval belongs to the horizon of the tiers alone."""
    judged = outlook["horizon_days"] == facts["horizon_days"]
    for end in ("expected_spend_low", "expected_spend_high"):
        value = facts[end]
        outlook[end] = float("nan")
        outlook.loc[judged, end] = float("nan") if pd.isna(value) else float(value)
    return outlook


def _facts(facts: pd.Series, say: Say) -> None:
    """All that the view says of the customer, a line each."""
    lines = facts.dropna().astype(str).rename_axis("fact").reset_index(name="value")
    tables.show(lines, tables.FACTS, say)


def _money(value: Any) -> str:
    return "–" if pd.isna(value) else f"{float(str(value)):,.0f}"
