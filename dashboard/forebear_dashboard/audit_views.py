"""What the audit page shows of each kind: lists of training images to look at, and curves over all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from forebear_dashboard import cards
from forebear_dashboard.sending import send, send_button
from forebear_dashboard.text import counted, escaped, percent, score
from forebear_dashboard.thumbnails import thumbnails
from forebear_serve.audit_schemas import Concentration, Duplicate, GroupAudit, Nearness, OutlierScore
from forebear_serve.client import Client
from forebear_serve.review_schemas import ReviewRequest
from forebear_serve.schemas import SampleInfo

PAGE_SIZE = 24
PAIRS = 12
"""On a page: two cards each."""
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
        captions=[f"{name}: {meaning}" for name, meaning in SCORES.values()],
        horizontal=True,
        key="by",
        bind="query-params",
    )
    after = _turned(f"audit:outliers:{score}:{estimator}", PAGE_SIZE)
    page = client.outliers(score, estimator=estimator, after=after, limit=PAGE_SIZE)
    name = SCORES[OutlierScore(score)][0]
    found = [
        Found(one.sample, f"#{one.rank}: {_number(one.value)}", f"audit: outlier #{one.rank} by {name}")
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
        Found(
            one.sample,
            f"#{one.rank}, {percent(one.share)} of influence",
            f"audit: generally influential, #{one.rank} by {page.estimator}",
        )
        for one in page.influential
    ]
    _list(found, page.total, key, PAGE_SIZE)


def duplicates(client: Client, estimator: str) -> None:
    """Pairs that are nearly or wholly the same."""
    measure = st.radio(
        "Compared by",
        [one.value for one in MEASURES],
        captions=[f"{name}: {meaning}" for name, meaning in MEASURES.values()],
        horizontal=True,
        key="measure",
        bind="query-params",
    )
    asked = estimator if measure == Nearness.GRADIENT.value else None
    key = f"audit:duplicates:{measure}:{asked}"
    page = client.duplicates(measure, estimator=asked, after=_turned(key, PAIRS), limit=PAIRS)
    found = [one for pair in page.duplicates for one in _pair(pair, measure)]
    _list(found, page.total, key, PAIRS, "pair", "pairs")


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
    st.caption(f"{counted(audited[name].distinct, 'value', 'values')}, the largest first; {len(values)} listed.")
    rows = [
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
    st.dataframe(
        rows,
        hide_index=True,
        column_config={one: st.column_config.NumberColumn(one, format="%.1f %%") for one in shares},
    )
    value = st.selectbox("Look at the images of", [one.value for one in values], key="audit:value", width=260)
    st.page_link("views/images.py", label="Open these images", query_params={"group": name, "value": value or ""})


def _turned(key: str, size: int) -> int:
    """What comes before the page that is turned to."""
    return (int(st.session_state.get(f"{key}:page", 1)) - 1) * size


def _list(found: Sequence[Found], total: int, key: str, size: int, one: str = "image", many: str = "images") -> None:
    """Cards with ticks, and what sends the ticked ones to review."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(counted(total, one, many))
        if total > size:
            st.pagination(-(-total // size), key=f"{key}:page")
    if not found:
        st.info("There is none.")
        return
    place = st.container()
    pictures = thumbnails(each.sample.id for each in found)
    columns = cards.told_columns([each.sample.groups for each in found])
    ticked = []
    with st.grid(min_column_width=cards.CARD_WIDTH, gap="xsmall"):
        for number, each in enumerate(found):
            if _card(each, pictures[each.sample.id], columns, f"{key}:{number}:{each.sample.id}"):
                ticked.append(each)
    with place:
        _send(ticked, key)


def _card(one: Found, png: bytes | None, columns: Sequence[str], key: str) -> bool:
    with st.container(border=True, gap="xxsmall"):
        cards.picture(png, one.sample.caption, one.sample.id)
        st.html(f'<div class="fb-facts"><b>{escaped(one.place)}</b></div>')
        cards.sample_facts(one.sample, columns)
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
                "encoding": {"x": x, "y": y, "color": kind, "strokeDash": kind, "shape": kind},
            },
        ],
    }


def shown_estimator(known: Sequence[str], default: str) -> str:
    """By which influence is measured here."""
    chosen: str = st.selectbox(
        "Estimator", known, index=known.index(default), key="estimator", bind="query-params", width=260
    )
    return chosen
