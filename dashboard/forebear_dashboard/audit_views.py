"""What the audit page shows of each kind: lists of training images to look at, and curves over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from forebear_dashboard import cards
from forebear_dashboard.sending import send, send_button
from forebear_dashboard.text import counted, escaped, percent, plain, score
from forebear_dashboard.thumbnails import thumbnails
from forebear_serve.audit_schemas import Concentration, Duplicate, GroupAudit, Nearness, OutlierScore
from forebear_serve.client import Client
from forebear_serve.review_schemas import ReviewRequest
from forebear_serve.schemas import SampleInfo

PAGE_SIZE = 24
GLANCE = 12
"""Images of a group that is selected."""
PAIRS = 12
"""On a page: two cards each."""
FRAME = 32
"""Pixels that the frame around a pair takes."""
SCORES = {
    OutlierScore.SELF: ("score on itself", "high for an image that is learnt from itself alone"),
    OutlierScore.SUPPORT: ("support by others", "low for an image that the others do not help to learn"),
    OutlierScore.ISOLATION: ("isolation", "high for an image that has few of its kind"),
}
MEASURES = {
    Nearness.PIXEL: ("pixels", "root mean squared difference at the model's resolution"),
    Nearness.SHIFTED: ("pixels, moved and mirrored", "the same on reduced pictures, the least over small moves"),
    Nearness.GRADIENT: ("gradients", "cosine of the estimator's own inner product: what the model learns from them"),
}


@dataclass(frozen=True)
class Found:
    """A training image of a list, and why it is in it."""

    sample: SampleInfo
    place: str
    """Before its caption: rank, and value."""
    reason: str
    """The note with which it goes to review."""


def outliers(client: Client, estimator: str) -> None:
    """Images that stand out."""
    score = st.radio(
        "Stands out by",
        [one.value for one in SCORES],
        format_func=lambda one: SCORES[OutlierScore(one)][0],
        captions=[meaning for _, meaning in SCORES.values()],
        horizontal=True,
        key="by",
        bind="query-params",
    )
    after = _turned(f"audit:outliers:{score}:{estimator}", PAGE_SIZE)
    page = client.outliers(score, estimator=estimator, after=after, limit=PAGE_SIZE)
    name = SCORES[OutlierScore(score)][0]
    found = [
        (Found(one.sample, f"#{one.rank}: {_number(one.value)}", f"audit: outlier #{one.rank} by {name}"),)
        for one in page.outliers
    ]
    _list(found, page.total, f"audit:outliers:{score}:{estimator}", PAGE_SIZE)


def influential(client: Client, estimator: str) -> None:
    """Images that count for everything."""
    key = f"audit:influential:{estimator}"
    page = client.influential(estimator=estimator, after=_turned(key, PAGE_SIZE), limit=PAGE_SIZE)
    st.caption(
        f"Images with the largest mean influence on {page.references:,} training images that stood for queries: they "
        "rank high for every picture, and say little about any single one."
    )
    found = [
        (
            Found(
                one.sample,
                f"#{one.rank}: {percent(one.share)} of all",
                f"audit: generally influential, #{one.rank} by {page.estimator}",
            ),
        )
        for one in page.influential
    ]
    _list(found, page.total, key, PAGE_SIZE)


def duplicates(client: Client, estimator: str) -> None:
    """Pairs that are nearly or wholly the same."""
    measure, asked = compared_by(estimator)
    key = f"audit:duplicates:{measure}:{asked}"
    page = client.duplicates(measure, estimator=asked, after=_turned(key, PAIRS), limit=PAIRS)
    pairs = [_pair(pair, measure) for pair in page.duplicates]
    _list(pairs, page.total, key, PAIRS, "pair", "pairs")


def compared_by(estimator: str) -> tuple[str, str | None]:
    """A measure of nearness, and the estimator where it takes one."""
    measure = st.radio(
        "Compared by",
        [one.value for one in MEASURES],
        format_func=lambda one: MEASURES[Nearness(one)][0],
        captions=[meaning for _, meaning in MEASURES.values()],
        horizontal=True,
        key="measure",
        bind="query-params",
    )
    return measure, estimator if measure == Nearness.GRADIENT.value else None


def _pair(pair: Duplicate, measure: str) -> tuple[Found, Found]:
    same = ", the same" if pair.same else ""
    place = f"pair {pair.rank}: {pair.value:.3g}{same}"
    return tuple(  # type: ignore[return-value]
        Found(one, place, f"audit: near duplicate of {other.id} by {measure}")
        for one, other in ((pair.first, pair.second), (pair.second, pair.first))
    )


def overview(client: Client, estimator: str) -> None:
    """How unevenly influence is spread, and how gradients depend on the timestep."""
    spread = client.concentration(estimator=estimator)
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader("Concentration of influence")
        st.metric(
            "Gini coefficient", f"{spread.gini:.2f}", help="0: all images give the same; 1: one gives everything."
        )
        most = 1 - spread.lorenz[90] if len(spread.lorenz) > 90 else 0.0
        st.caption(
            f"The tenth of the images that gives most gives {percent(most)} of the influence on {spread.references:,} "
            "training images that stood for queries. The dashed line: all give the same."
        )
        st.vega_lite_chart(spec=_lorenz(spread), width="stretch", key="audit:lorenz")
    with right:
        st.subheader("Gradient norms by timestep")
        st.caption(
            "Median over the training images, a line for each checkpoint, with quartiles. Where norms depend on the "
            "timestep, scores that are no cosines follow the timestep."
        )
        norms = client.norms()
        rows = [
            {"checkpoint": name, "timestep": one.timestep, "median": one.median, "low": one.low, "high": one.high}
            for name, quartiles in norms.checkpoints.items()
            for one in quartiles
        ]
        st.vega_lite_chart(spec=_norms(rows), width="stretch", key="audit:norms")


def groups(client: Client, estimator: str) -> None:
    """How influential each value of a column is."""
    audited = {one.name: one for one in client.audited_groups(estimator=estimator)}
    if not audited:
        st.info("The training images have no groups. Name some in the data set's settings (`group_columns`).")
        return
    name = st.selectbox("Group by", list(audited), key="audit:group", width=260)
    values: Sequence[GroupAudit] = audited[name].values
    st.caption(
        f"{counted(audited[name].distinct, 'value', 'values')}, the largest first; {len(values)} listed. Select a row "
        "to see its images. Among the top 5 %: 5 % is what chance gives."
    )
    rows: list[dict[str, Any]] = [
        {
            "value": one.value or "none",
            "images": one.samples,
            "share of influence": 100 * one.share,
            "of the images": 100 * one.samples / max(1, sum(other.samples for other in values)),
            "mean influence": float(f"{one.influence:.3g}"),
            "mean score on itself": float(f"{one.self_influence:.3g}"),
            "among the top 5 %": 100 * one.influential,
        }
        for one in values
    ]
    shares = ("share of influence", "of the images", "among the top 5 %")
    most = max(row[one] for row in rows for one in shares[:2])
    event = st.dataframe(
        rows,
        hide_index=True,
        column_config={
            one: st.column_config.ProgressColumn(one, format="%.1f %%", min_value=0, max_value=most)
            for one in shares[:2]
        }
        | {shares[2]: st.column_config.NumberColumn(shares[2], format="%.1f %%")},
        on_select="rerun",
        selection_mode="single-row",
        key=f"audit:groups:{name}",
        alt=f"Influence of each {name}",
    )
    chosen = event.selection.rows
    _some_of(client, name, values[chosen[0] if chosen else 0])


def _some_of(client: Client, column: str, group: GroupAudit) -> None:
    """The first images of a group, and the way to all of them."""
    st.subheader(f"{plain(column)}: {plain(group.value or 'none')}")
    st.page_link(
        "views/images.py",
        label=f"Open all {counted(group.samples, 'image', 'images')}",
        query_params={"group": column, "value": group.value or ""},
    )
    few = client.samples(group=column, value=group.value, limit=GLANCE).samples
    ticked_list(
        [(Found(one, "", f"audit: {column} {group.value}"),) for one in few], f"audit:of:{column}:{group.value}"
    )


def _turned(key: str, size: int) -> int:
    """What comes before the page that is turned to."""
    return (int(st.session_state.get(f"{key}:page", 1)) - 1) * size


def _list(
    found: Sequence[tuple[Found, ...]], total: int, key: str, size: int, one: str = "image", many: str = "images"
) -> None:
    """Cards with ticks, those that belong together in one frame, and what sends the ticked ones to review."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(counted(total, one, many))
        if total > size:
            st.pagination(-(-total // size), key=f"{key}:page")
    ticked_list(found, key)


def ticked_list(found: Sequence[tuple[Found, ...]], key: str) -> None:
    """Cards in frames, with ticks, and what sends the ticked ones to review."""
    if not found:
        st.info("There is none.")
        return
    place = st.container()
    everyone = [each for together in found for each in together]
    pictures = thumbnails(each.sample.id for each in everyone)
    columns = cards.told_columns([each.sample.groups for each in everyone])
    ticked = []

    def cards_of(together: tuple[Found, ...], number: int) -> None:
        for place, each in enumerate(together):
            if _card(each, pictures[each.sample.id], columns, f"{key}:{number}:{place}:{each.sample.id}"):
                ticked.append(each)

    most = max(map(len, found))
    with st.grid(min_column_width=cards.CARD_WIDTH * min(most, 2) + FRAME * (most > 1), gap="xsmall"):
        for number, together in enumerate(found):
            if len(together) == 1:
                cards_of(together, number)
            else:
                with (
                    st.container(border=True, key=f"frame-{key}:{number}"),
                    st.grid(min_column_width=cards.CARD_WIDTH, gap="xsmall"),
                ):
                    cards_of(together, number)
    with place:
        _send(ticked, key)


def _card(one: Found, png: bytes | None, columns: Sequence[str], key: str) -> bool:
    with cards.card(key):
        place = f'<div class="fb-facts"><b>{escaped(one.place)}</b></div>' if one.place else ""
        picture = cards.picture(png, one.sample.caption, one.sample.id)
        st.html(picture + place + cards.sample_facts(one.sample, columns))
        with st.container(horizontal=True, horizontal_alignment="distribute", gap="xxsmall"):
            ticked = st.checkbox("Review", key=f"{key}:tick", on_change="ignore")
            if st.button("Inspect", key=f"{key}:inspect", type="tertiary"):
                cards.inspect(one.sample.id)
    return ticked


def _send(ticked: Sequence[Found], key: str) -> None:
    if not send_button(f"{key}:send"):
        return
    if not ticked:
        st.warning("Tick “Review” below the images that are to be judged first.")
        return
    reasons: dict[str, str] = {}
    for one in ticked:
        reasons.setdefault(one.sample.id, one.reason)
    send([ReviewRequest(sample_id=sample_id, note=reason) for sample_id, reason in reasons.items()])


def _number(value: float) -> str:
    """Three digits, and no power of ten where it can be read without."""
    return score(value).removeprefix("+")


def _lorenz(spread: Concentration) -> dict[str, Any]:
    last = max(1, len(spread.lorenz) - 1)
    points = [{"images": 100 * at / last, "influence": 100 * share} for at, share in enumerate(spread.lorenz)]
    axes = {
        "x": {"field": "images", "type": "quantitative", "title": "images, those that give least first (%)"},
        "y": {"field": "influence", "type": "quantitative", "title": "share of influence (%)"},
    }
    even = {"values": [{"images": 0, "influence": 0}, {"images": 100, "influence": 100}]}
    return {
        "description": f"Lorenz curve of influence; Gini coefficient {spread.gini:.2f}.",
        "height": 280,
        "layer": [
            {"data": {"values": points}, "mark": {"type": "line"}, "encoding": axes},
            {"data": even, "mark": {"type": "line", "strokeDash": [4, 4], "opacity": 0.6}, "encoding": axes},
        ],
    }


def _norms(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    data = {"values": list(rows)}
    x = {"field": "timestep", "type": "quantitative"}
    legend = {"orient": "bottom", "title": None, "symbolOpacity": 1}
    kind = {"field": "checkpoint", "type": "nominal", "legend": legend}
    ends_of_all = [min(row["low"] for row in rows), max(row["high"] for row in rows)] if rows else []
    scale = {"type": "log", "domain": ends_of_all, "nice": False} if all(row["low"] > 0 for row in rows) else {}
    y = {"field": "median", "type": "quantitative", "title": "gradient norm", "scale": scale}
    ends = {"y": {**y, "field": "low"}, "y2": {"field": "high"}}
    return {
        "description": "Gradient norm against timestep, by checkpoint.",
        "height": 280,
        "layer": [
            {"data": data, "mark": {"type": "area", "opacity": 0.15}, "encoding": {"x": x, "color": kind, **ends}},
            {
                "data": data,
                "mark": {"type": "line", "point": True},
                "encoding": {"x": x, "y": y, "color": kind, "strokeDash": {**kind, "legend": None}, "shape": kind},
            },
        ],
    }


def shown_estimator(known: Sequence[str], default: str) -> str:
    """By which influence is measured here."""
    chosen: str = st.selectbox(
        "Estimator", known, index=known.index(default), key="estimator", bind="query-params", width=260
    )
    return chosen
