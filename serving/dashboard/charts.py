"""The pages' figures: frames in, Altair charts out. Blue is expected, orange what really was."""

from datetime import date

import altair as alt
import pandas as pd

from serving.texts import Say

Figure = alt.LayerChart | alt.FacetChart
BLUE = "#1f5fa8"
ORANGE = "#d9822b"
QUIET = "#9aa0a6"
INK = "#24303c"
PALE = "#f4f6f9"
SHADES = ("#123a68", "#1f5fa8", "#5b93cf", "#9dc0e5", "#cfdfef")
HEIGHT = 280


def shares(tiers: pd.DataFrame, say: Say) -> Figure:
    """tiers: tier, tier_rank, customers, expected_spend. How many they are, and what they bring."""
    tiers = tiers.assign(
        customer_share=tiers["customers"] / tiers["customers"].sum(),
        expected_share=tiers["expected_spend"] / tiers["expected_spend"].sum(),
    )
    kinds = {"customer_share": say("customers"), "expected_share": say("expected_spend")}
    long = tiers.melt(
        id_vars=["tier", "tier_rank"], value_vars=[*kinds], var_name="kind", value_name="share"
    )
    long["kind"] = long["kind"].map(kinds)
    base = alt.Chart(long).encode(
        y=alt.Y("tier:N", sort=_order(tiers), title=None),
        yOffset=alt.YOffset("kind:N", sort=[*kinds.values()]),
        x=alt.X("share:Q", title=None, axis=alt.Axis(format="%", grid=False)),
    )
    bars = base.mark_bar(cornerRadiusEnd=2).encode(
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=[*kinds.values()], range=[SHADES[3], BLUE]),
            legend=alt.Legend(title=None, orient="top"),
        ),
        tooltip=["tier", alt.Tooltip("kind", title=" "), alt.Tooltip("share", format=".1%")],
    )
    labels = base.mark_text(align="left", dx=4, color=INK).encode(
        text=alt.Text("share:Q", format=".1%")
    )
    return (bars + labels).properties(height=max(HEIGHT, 44 * len(tiers)))


def migrations(moves: pd.DataFrame, say: Say) -> Figure:
    """moves: previous_tier, previous_tier_rank, tier, tier_rank, customers, share_of_previous."""
    shown = moves.assign(
        previous_tier=moves["previous_tier"].fillna(say("new")),
        previous_tier_rank=moves["previous_tier_rank"].fillna(10_000),
    )
    base = alt.Chart(shown).encode(
        x=alt.X(
            "tier:N",
            sort=_order(moves),
            title=say("tier_now"),
            axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False),
        ),
        y=alt.Y(
            "previous_tier:N",
            sort=_order(shown, "previous_tier"),
            title=say("tier_before"),
            axis=alt.Axis(domain=False, ticks=False),
        ),
    )
    cells = base.mark_rect(cornerRadius=2, stroke="white", strokeWidth=2).encode(
        color=alt.Color(
            "share_of_previous:Q",
            scale=alt.Scale(domain=[0, 1], range=["#eef3f9", BLUE]),
            legend=None,
        ),
        tooltip=[
            alt.Tooltip("previous_tier", title=say("tier_before")),
            alt.Tooltip("tier", title=say("tier_now")),
            alt.Tooltip("customers", title=say("customers"), format=","),
            alt.Tooltip("share_of_previous", title=say("share_of_previous"), format=".1%"),
        ],
    )
    counts = base.mark_text().encode(
        text=alt.Text("customers:Q", format=","),
        color=alt.condition("datum.share_of_previous > 0.5", alt.value("white"), alt.value(INK)),
    )
    return (cells + counts).properties(height=HEIGHT)


def over_time(totals: pd.DataFrame, value: str, say: Say) -> alt.Chart:
    """totals: as_of_date, tier, tier_rank and the value, a line per tier."""
    return (
        alt.Chart(totals)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "as_of_date:T", title=None, axis=alt.Axis(format="%Y-%m-%d", labelOverlap=True)
            ),
            y=alt.Y(f"{value}:Q", title=say(value), scale=alt.Scale(zero=True)),
            color=_tiers(_order(totals)),
            tooltip=[
                alt.Tooltip("as_of_date:T", title=say("as_of_date"), format="%Y-%m-%d"),
                "tier",
                alt.Tooltip(value, title=say(value), format=",.0f"),
            ],
        )
        .properties(height=HEIGHT)
    )


def outlook(horizons: pd.DataFrame, value: str, form: str, say: Say) -> Figure:
    """horizons: horizon_days and the value; expected_spend_low and _high where they are known."""
    base = alt.Chart(horizons).encode(
        x=alt.X("horizon_days:Q", title=say("horizon_days"), scale=alt.Scale(domainMin=0))
    )
    line = base.mark_line(point=True, color=BLUE).encode(
        y=alt.Y(f"{value}:Q", title=say(value), axis=alt.Axis(format=form)),
        tooltip=[
            alt.Tooltip("horizon_days", title=say("horizon_days")),
            alt.Tooltip(value, title=say(value), format=form),
        ],
    )
    layers = [line]
    if value == "expected_spend" and horizons["expected_spend_low"].notna().any():
        known = horizons.dropna(subset=["expected_spend_low", "expected_spend_high"])
        spread = (
            alt.Chart(known)
            .mark_rule(color=SHADES[3], strokeWidth=6)
            .encode(
                x="horizon_days:Q",
                y="expected_spend_low:Q",
                y2="expected_spend_high:Q",
                tooltip=[
                    alt.Tooltip("expected_spend_low", title=say("lower_end"), format=form),
                    alt.Tooltip("expected_spend_high", title=say("upper_end"), format=form),
                ],
            )
        )
        layers = [spread, line]
    return alt.layer(*layers).properties(height=HEIGHT)


def tier_history(stays: pd.DataFrame, until: date, say: Say) -> Figure:
    """stays: tier, tier_rank, valid_from, valid_to. A bar per stay, the highest tier on top."""
    shown = stays.assign(valid_to=stays["valid_to"].fillna(pd.Timestamp(until)))
    base = alt.Chart(shown).encode(
        x=alt.X("valid_from:T", title=None, axis=alt.Axis(format="%Y-%m-%d", labelOverlap=True)),
        y=alt.Y("tier:N", sort=_order(stays), title=None),
        tooltip=[
            "tier",
            alt.Tooltip("valid_from:T", title=say("valid_from"), format="%Y-%m-%d"),
            alt.Tooltip("expected_spend:Q", title=say("expected_spend"), format=",.0f"),
        ],
    )
    bars = base.mark_bar(color=BLUE, height=14, cornerRadius=2).encode(x2="valid_to:T")
    starts = base.mark_point(color=BLUE, filled=True, size=110)
    return (bars + starts).properties(height=60 + 36 * shown["tier"].nunique())


def timeline(events: pd.DataFrame, say: Say) -> alt.Chart:
    """events: event_date, kind, events, amount. A circle per day and kind of what was done."""
    shown = events.assign(kind=events["kind"].map(lambda kind: say(f"kind_{kind}")))
    return (
        alt.Chart(shown)
        .mark_circle(color=BLUE, opacity=0.55)
        .encode(
            x=alt.X(
                "event_date:T", title=None, axis=alt.Axis(format="%Y-%m-%d", labelOverlap=True)
            ),
            y=alt.Y("kind:N", title=None, axis=alt.Axis(grid=True)),
            size=alt.Size("events:Q", legend=None, scale=alt.Scale(range=[30, 400])),
            tooltip=[
                alt.Tooltip("event_date:T", title=say("event_date"), format="%Y-%m-%d"),
                alt.Tooltip("kind", title=say("kind")),
                alt.Tooltip("events", title=say("events"), format=","),
                alt.Tooltip("amount", title=say("amount"), format=",.2f"),
            ],
        )
        .properties(height=70 + 30 * shown["kind"].nunique())
    )


def gain(curves: pd.DataFrame, say: Say) -> Figure:
    """curves: candidate, place, x, y. Share of spend held by the customers ranked first."""
    lines = (
        alt.Chart(curves)
        .mark_line()
        .encode(
            x=alt.X("x:Q", title=say("gain_x"), axis=alt.Axis(format="%")),
            y=alt.Y("y:Q", title=say("gain_y"), axis=alt.Axis(format="%")),
            color=_candidates(curves),
            tooltip=[
                "candidate", alt.Tooltip("x", format=".0%"), alt.Tooltip("y", format=".1%"),
            ],
        )
    )  # fmt: skip
    chance = alt.Chart(pd.DataFrame({"x": [0, 1], "y": [0, 1]}))
    return (
        chance.mark_line(color=QUIET, strokeDash=[4, 4]).encode(x="x:Q", y="y:Q") + lines
    ).properties(height=HEIGHT + 60)


def calibration(curves: pd.DataFrame, say: Say) -> Figure:
    """curves: candidate, place, x (expected), y (actual): a point per tenth of the customers."""
    points = (
        alt.Chart(curves)
        .mark_line(point=True)
        .encode(
            x=alt.X("x:Q", title=say("calibration_x")),
            y=alt.Y("y:Q", title=say("calibration_y")),
            color=_candidates(curves),
            order="x:Q",
            tooltip=[
                "candidate", alt.Tooltip("x", format=",.0f"), alt.Tooltip("y", format=",.0f"),
            ],
        )
    )  # fmt: skip
    end = float(curves[["x", "y"]].max().max())
    exact = alt.Chart(pd.DataFrame({"x": [0, end], "y": [0, end]}))
    return (
        exact.mark_line(color=QUIET, strokeDash=[4, 4]).encode(x="x:Q", y="y:Q") + points
    ).properties(height=HEIGHT + 60)


def origins(metrics: pd.DataFrame, say: Say) -> alt.Chart:
    """metrics: candidate, place, origin, value. How the candidates did on each held-out window."""
    return (
        alt.Chart(metrics)
        .mark_line(point=True)
        .encode(
            x=alt.X("origin:T", title=say("origin"), axis=alt.Axis(format="%Y-%m-%d")),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)),
            color=_candidates(metrics),
            tooltip=[
                "candidate",
                alt.Tooltip("origin:T", format="%Y-%m-%d"),
                alt.Tooltip("value", format=".3f"),
            ],
        )
        .properties(height=HEIGHT + 60)
    )


def judged(tiers: pd.DataFrame, say: Say) -> alt.Chart:
    """tiers: tier, tier_rank, evaluated_expected_share, evaluated_realised_share."""
    kinds = {
        "evaluated_expected_share": say("expected"),
        "evaluated_realised_share": say("realised"),
    }
    long = tiers.melt(
        id_vars=["tier", "tier_rank"], value_vars=[*kinds], var_name="kind", value_name="share"
    )
    long["kind"] = long["kind"].map(kinds)
    return (
        alt.Chart(long)
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            y=alt.Y("tier:N", sort=_order(tiers), title=None),
            yOffset=alt.YOffset("kind:N", sort=[*kinds.values()]),
            x=alt.X("share:Q", title=say("share_of_spend"), axis=alt.Axis(format="%", grid=False)),
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=[*kinds.values()], range=[BLUE, ORANGE]),
                legend=alt.Legend(title=None, orient="top"),
            ),
            tooltip=["tier", "kind", alt.Tooltip("share", format=".1%")],
        )
        .properties(height=max(HEIGHT, 44 * len(tiers)))
    )


def _order(frame: pd.DataFrame, column: str = "tier") -> list[str]:
    """The tiers from the highest to the lowest."""
    return frame.sort_values(f"{column}_rank")[column].unique().tolist()


def _tiers(order: list[str]) -> alt.Color:
    steps = [
        SHADES[min(place * len(SHADES) // max(len(order), 1), 4)] for place in range(len(order))
    ]
    return alt.Color(
        "tier:N",
        scale=alt.Scale(domain=order, range=steps),
        legend=alt.Legend(title=None, orient="top"),
    )


def _candidates(frame: pd.DataFrame) -> alt.Color:
    """The best candidate, whose place is 0, in blue."""
    return alt.Color(
        "candidate:N",
        scale=alt.Scale(
            domain=list(dict.fromkeys(frame.sort_values("place")["candidate"])),
            range=[BLUE, ORANGE, "#4f8a5b", "#8a5fa8", "#a85f5f", "#7a7a7a", "#3c9aa8"],
        ),
        legend=alt.Legend(title=None, orient="top", columns=3),
    )
