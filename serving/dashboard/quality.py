"""What the gates found, which rows were refused, how old the tables are, what was published."""

import streamlit as st

from serving import queries
from serving.dashboard import tables
from serving.queries import Ask
from serving.texts import Say


def show(ask: Ask, say: Say) -> None:
    st.subheader(say("gates"))
    tables.show(ask(queries.GATES), tables.GATES, say)
    failing = ask(queries.FAILING)
    st.subheader(say("not_holding"))
    if failing.empty:
        st.success(say("all_hold"))
    else:
        tables.show(failing.assign(observed=failing["observed"].map(str)), tables.FAILING, say)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader(say("quarantine"))
        refused = ask(queries.QUARANTINE)
        if refused.empty:
            st.success(say("nothing_refused"))
        else:
            tables.show(refused, tables.QUARANTINE, say)
    with right:
        st.subheader(say("freshness"))
        tables.show(ask(queries.FRESHNESS), tables.FRESHNESS, say)
    st.subheader(say("publish_log"))
    tables.show(ask(queries.PUBLISH_LOG), tables.PUBLISH_LOG, say)
