"""How the model did on held-out windows beside the baselines, and how the tiers did."""

import streamlit as st

from serving import queries
from serving.dashboard import charts, tables
from serving.queries import Ask
from serving.terminal import SCOREBOARD
from serving.texts import Say

COMPARED = 6  # candidates in a figure: the best ones


def show(ask: Ask, say: Say) -> None:
    metrics = ask(queries.SCOREBOARD)
    if metrics.empty:
        st.info(say("no_model"))
        return
    pooled = metrics[metrics["origin"].isna()]
    board = pooled.pivot(index="candidate", columns="metric", values="value")
    board = board.reindex(columns=[*SCOREBOARD]).reset_index()
    board = board.sort_values("normalized_gini", ascending=False)
    st.subheader(say("scoreboard"))
    tables.show(board, ("candidate", *SCOREBOARD), say)
    st.caption(say("scoreboard_help"))
    best = board["candidate"].head(COMPARED)
    places = {name: place for place, name in enumerate(best)}
    metrics["place"] = metrics["candidate"].map(places)
    curves = ask(queries.CURVES)
    curves["place"] = curves["candidate"].map(places)
    left, right = st.columns(2, gap="large")
    for place, kind, chart in (
        (left, "gain", charts.gain),
        (right, "calibration", charts.calibration),
    ):
        with place:
            st.subheader(say(kind))
            of_kind = curves[(curves["kind"] == kind) & curves["place"].notna()]
            st.altair_chart(chart(of_kind, say)) if len(of_kind) else st.caption(say("no_curves"))
    st.caption(say("curves_help"))
    st.subheader(say("by_origin"))
    metric = st.segmented_control(
        say("metric"), [*SCOREBOARD], format_func=say, default="normalized_gini", required=True
    )
    by_origin = metrics[metrics["origin"].notna() & (metrics["metric"] == metric)]
    st.altair_chart(charts.origins(by_origin[by_origin["place"].notna()], say))
    st.subheader(say("tiers_judged"))
    st.caption(say("tiers_judged_help"))
    st.altair_chart(charts.judged(ask(queries.TIERS), say))
    tables.show(ask(queries.EVALUATION), tables.EVALUATION, say)
