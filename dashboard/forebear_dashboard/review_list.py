"""The review queue as a list: filters, the page that is shown, and verdicts on many at once."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from forebear.images import png_uri
from forebear_dashboard import samples, scopes, session
from forebear_dashboard.text import counted
from forebear_dashboard.thumbnails import thumbnails
from forebear_dashboard.told import errors_kept
from forebear_serve.client import Client
from forebear_serve.database import Scope, Verdict
from forebear_serve.review_schemas import ReviewChange, ReviewInfo, ReviewPage

ANY = "any"
STATES = ("open", "decided", ANY)
VERDICTS = {
    Verdict.KEEP: "Keep",
    Verdict.REMOVE: "Remove",
    Verdict.LICENCE_ISSUE: "Licence issue",
    Verdict.UNSURE: "Unsure",
}
PAGE_SIZE = 100
PENDING = "review:pending"
"""In the session: changes that were asked for and not confirmed yet."""
Pending = tuple[Sequence[ReviewChange], Verdict]
STACK = "review:after"
"""In the session: where the pages begin that were turned over."""


def verdict_name(verdict: Verdict | None) -> str:
    return "open" if verdict is None else VERDICTS[verdict]


def review_filter(client: Client) -> dict[str, Any]:
    """Of `Client.reviews`; bound to the page's address."""
    columns = {one.name: one for one in samples.groups(client)}
    state = st.segmented_control(
        "State", STATES, default="open", required=True, key="state", bind="query-params", on_change=_first_page
    )
    with st.expander("More filters"), st.grid(4, min_column_width=180):
        verdict = st.selectbox(
            "Verdict",
            [ANY, *(one.value for one in VERDICTS)],
            key="verdict",
            bind="query-params",
            on_change=_first_page,
        )
        text = st.text_input("Note contains", key="note", bind="query-params", max_chars=200, on_change=_first_page)
        group = st.selectbox("Group", [ANY, *columns], key="group", bind="query-params", on_change=_first_page)
        value = None
        if group != ANY:
            value = st.selectbox(
                "Value",
                [one.value for one in columns[group].values],
                key=f"review:value:{group}",
                format_func=lambda one: one or "none",
                on_change=_first_page,
            )
    chosen = {
        "state": None if state == ANY else state,
        "verdict": None if verdict == ANY else verdict,
        "text": text.strip() or None,
        "group": None if group == ANY else group,
        "value": value,
    }
    return {name: one for name, one in chosen.items() if one is not None}


def review_page(client: Client, chosen: dict[str, Any]) -> ReviewPage:
    """The page that is turned to."""
    begins: list[str] = st.session_state.get(STACK, [])
    return client.reviews(after=begins[-1] if begins else None, limit=PAGE_SIZE, **chosen)


def page_turner(page: ReviewPage) -> None:
    """How many there are, and the way to older ones."""
    begins: list[str] = st.session_state.get(STACK, [])
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{counted(page.total, 'review', 'reviews')}, the newest first; {len(page.reviews)} on this page")
        with st.container(horizontal=True, width="content"):
            if begins:
                st.button("Newer", key="review:newer", on_click=_turn, args=(None,))
            if page.next:
                st.button("Older", key="review:older", on_click=_turn, args=(page.next,))


def review_table(reviews: Sequence[ReviewInfo], key: str) -> list[ReviewInfo]:
    """All of them as rows; returns those that are selected."""
    pictures = thumbnails(one.sample_id for one in reviews)
    rows = [_row(one, pictures[one.sample_id]) for one in reviews]
    event = st.dataframe(
        rows,
        hide_index=True,
        row_height=48,
        column_config={
            "picture": st.column_config.ImageColumn("picture", width="small"),
            "score": st.column_config.NumberColumn("score", format="%+.4g"),
            "changed": st.column_config.DatetimeColumn("changed", format="YYYY-MM-DD HH:mm"),
        },
        on_select="rerun",
        selection_mode="multi-row",
        key=key,
        alt="The reviews of this page",
    )
    return [reviews[row] for row in event.selection.rows if row < len(reviews)]


def bulk_form(selected: Sequence[ReviewInfo], shown: Sequence[ReviewInfo]) -> None:
    """One verdict on many, after a question."""
    st.caption("Select rows in the table, or take all that it shows.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        everything = st.checkbox(f"All {len(shown)} shown", key="review:all")
        chosen = shown if everything else selected
        verdict = st.selectbox(
            "Verdict for all of them", list(VERDICTS), format_func=VERDICTS.__getitem__, key="review:bulk", width=220
        )
        why = scopes.reason(Scope.REVIEW)
        st.button(
            f"Judge {counted(len(chosen), 'review', 'reviews')}",
            disabled=not chosen or why is not None,
            help=why,
            key="review:bulk-ask",
            on_click=_ask,
            args=(chosen, verdict),
        )
    pending: Pending | None = st.session_state.get(PENDING)
    if pending is not None:
        _confirm(*pending)


def _ask(chosen: Sequence[ReviewInfo], verdict: Verdict) -> None:
    changes = tuple(ReviewChange(id=one.id, version=one.version, verdict=verdict) for one in chosen)
    st.session_state[PENDING] = changes, verdict


def _confirm(changes: Sequence[ReviewChange], verdict: Verdict) -> None:
    """Asked before anything is changed."""
    with st.container(border=True):
        st.markdown(
            f"{counted(len(changes), 'review', 'reviews')} will say **{VERDICTS[verdict]}**; none of them will when "
            "somebody has changed one meanwhile. Each can be changed again, and the log keeps what it was."
        )
        with st.container(horizontal=True):
            st.button(
                f"Yes, {VERDICTS[verdict].lower()}",
                type="primary",
                key="review:bulk-yes",
                on_click=_judge,
                args=(changes,),
            )
            st.button("No", key="review:bulk-no", on_click=_judge, args=((),))


def _judge(changes: Sequence[ReviewChange]) -> None:
    st.session_state.pop(PENDING, None)
    if changes:
        with errors_kept():
            session.client().change_reviews(changes)
            st.session_state["review:all"] = False


def _row(one: ReviewInfo, png: bytes | None) -> dict[str, Any]:
    found = one.attribution
    return {
        "picture": None if png is None else png_uri(png),
        "id": one.id,
        "image": one.sample_id,
        "verdict": verdict_name(one.verdict),
        "note": one.note,
        "score": None if found is None else found.score,
        "rank": None if found is None else found.rank,
        "by": one.reviewer or one.creator,
        "changed": one.changed,
        "groups": ", ".join(f"{name}: {value}" for name, value in one.groups.items()),
    }


def _first_page() -> None:
    st.session_state[STACK] = []


def _turn(after: str | None) -> None:
    begins: list[str] = st.session_state.setdefault(STACK, [])
    if after is None:
        begins.pop()
    else:
        begins.append(after)
