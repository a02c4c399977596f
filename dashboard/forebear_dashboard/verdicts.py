"""One review at a time: what it is about, and a verdict in one key."""

import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from forebear_dashboard import cards, scopes, session
from forebear_dashboard.answers import enlarged
from forebear_dashboard.review_list import VERDICTS, verdict_name
from forebear_dashboard.text import plain, score
from forebear_dashboard.thumbnails import made_pictures, thumbnails
from forebear_dashboard.told import errors_kept
from forebear_serve.database import Scope, Verdict
from forebear_serve.review_schemas import ReviewChange, ReviewInfo

KEYS = {Verdict.KEEP: "K", Verdict.REMOVE: "X", Verdict.LICENCE_ISSUE: "L", Verdict.UNSURE: "U"}
"""C and R are Streamlit's own."""
PLACE, LAST, TOLD = "review:place", "review:last", "review:told"
"""In the session: the position in the list, what was judged last, and what to say of it."""
SHOWN_SIDE = 256


def judge(reviews: Sequence[ReviewInfo]) -> None:
    """The review that it is the turn of, with verdicts and the way to its neighbours."""
    place = min(st.session_state.get(PLACE, 0), len(reviews) - 1)
    review = reviews[place]
    told = st.session_state.pop(TOLD, None)
    if told:
        st.success(told, icon="✔️")
    st.markdown(f"##### Review {place + 1} of {len(reviews)}: {verdict_name(review.verdict)}")
    pictures, facts = st.columns([1, 1.2], gap="medium")
    with pictures:
        _pictures(review)
    with facts:
        st.text_input(
            "Note", review.note, key=f"review:note:{review.id}:{review.version}", max_chars=4_000, on_change="ignore"
        )
        _verdict_buttons(review, place, len(reviews))
        _facts(review)
        with st.expander("History"):
            _history(review)


def _verdict_buttons(review: ReviewInfo, place: int, count: int) -> None:
    """Verdicts, and the way to the neighbours; those rest where the token may not judge."""
    why = scopes.reason(Scope.REVIEW)
    rests: dict[str, Any] = {"disabled": why is not None, "help": why}
    if why is not None:
        st.caption(f"{why} You can read along.")
    with st.container(horizontal=True):
        for verdict, name in VERDICTS.items():
            st.button(
                name,
                key=f"review:{verdict.value}",
                shortcut=KEYS[verdict],
                type="primary" if verdict is review.verdict else "secondary",
                on_click=_judged,
                args=(review, verdict),
                **rests,
            )
    with st.container(horizontal=True):
        for name, shortcut, to in (("Previous", "P", place - 1), ("Next", "N", place + 1)):
            st.button(
                name,
                key=f"review:{name.lower()}",
                shortcut=shortcut,
                on_click=_go,
                args=(to,),
                disabled=not 0 <= to < count,
            )
        st.button("Save the note", key="review:save", on_click=_judged, args=(review, None), **rests)
        if review.verdict is not None:
            st.button("Open again", key="review:reopen", on_click=_judged, args=(review, None, True), **rests)
        undo_button()


def undo_button() -> None:
    """Takes the last verdict of this session back."""
    last: ReviewInfo | None = st.session_state.get(LAST)
    if last is not None:
        st.button("Undo the last verdict", key="review:undo", shortcut="Z", on_click=_judged, args=(last, None, True))


def _pictures(review: ReviewInfo) -> None:
    """The training image, beside the picture that it was found for."""
    found, made = st.columns(2, gap="small", wrap=False)
    with found, cards.card("review:sample"):
        png = thumbnails([review.sample_id], SHOWN_SIDE)[review.sample_id]
        st.html(cards.picture(png, "", review.sample_id))
        st.caption(f"Training image {plain(review.sample_id)}")
        if st.button("Inspect", key="review:inspect", type="tertiary"):
            cards.inspect(review.sample_id)
    if review.picture_id:
        with made, cards.card("review:picture"):
            _made(review.picture_id)


def _made(picture_id: str) -> None:
    made = made_pictures([picture_id])[picture_id]
    if made is None:
        st.caption("The picture that it was found for is not kept any more.")
        return
    st.image(
        enlarged(made, side=SHOWN_SIDE), width="stretch", output_format="PNG", alt="The picture that it was found for"
    )
    st.caption("The picture that it was found for")
    st.page_link("views/generate.py", label="Its ancestors", query_params={"picture": picture_id})


def _facts(review: ReviewInfo) -> None:
    found = review.attribution
    facts: dict[str, str] = {}
    if found is not None:
        facts |= {"score": f"{score(found.score)} by {plain(found.estimator)}", "rank": str(found.rank)}
    facts |= {name: plain(review.groups[name]) for name in cards.told_columns([review.groups])}
    facts |= {
        "sent by": f"{plain(review.creator)}, {review.created:%Y-%m-%d %H:%M} UTC",
        "changed by": f"{plain(review.reviewer)}, {review.changed:%Y-%m-%d %H:%M} UTC" if review.reviewer else "nobody",
    }
    st.table(facts, border="horizontal")


def _history(review: ReviewInfo) -> None:
    rows = []
    for event in session.client().review_history(review.id):
        before = event.before or {}
        changed = {
            name: value
            for name, value in event.after.items()
            if name in {"verdict", "note"} and value != before.get(name)
        }
        rows.append(
            {
                "time (UTC)": event.time.strftime("%Y-%m-%d %H:%M:%S"),
                "who": event.actor,
                "what": event.action,
                "to": json.dumps(changed, ensure_ascii=False),
            }
        )
    st.dataframe(rows, hide_index=True)


def _judged(review: ReviewInfo, verdict: Verdict | None, reopen: bool = False) -> None:
    """A callback: the list that is drawn after it has the change already, so that a key goes to the next image."""
    note = st.session_state.get(f"review:note:{review.id}:{review.version}")
    with errors_kept():
        change = ReviewChange(id=review.id, version=review.version, verdict=verdict, note=note, reopen=reopen)
        (changed,) = session.client().change_reviews([change])
        st.session_state[LAST] = changed if verdict is not None else None
        said = f"{VERDICTS[verdict]}" if verdict is not None else "open again" if reopen else "note saved"
        st.session_state[TOLD] = f"Review {review.id}: {said}."
        if verdict is not None and st.session_state.get("state") != "open":
            _go(st.session_state.get(PLACE, 0) + 1)


def _go(place: int) -> None:
    st.session_state[PLACE] = max(0, place)
