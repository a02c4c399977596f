"""Sending training images to the review queue, with the answer in which they stood out."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import streamlit as st

from forebear.attribution import Attribution
from forebear_dashboard import scopes, session
from forebear_dashboard.ancestors import Chosen
from forebear_dashboard.answers import Subject
from forebear_dashboard.text import counted
from forebear_serve.database import Scope
from forebear_serve.review_schemas import Evidence, ReviewRequest

LONGEST_FINGERPRINT = 16_000
"""Characters; a longer one is sent as its hash."""


def send_form(page: str, subject: Subject, chosen: Sequence[Chosen]) -> None:
    """Above the grids, whose ticked images it sends."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        note = st.text_input(
            "Note for the reviewers", key=f"{page}:note", max_chars=1_000, placeholder="optional", on_change="ignore"
        )
        asked = send_button(f"{page}:send")
    if not asked:
        return
    if not chosen:
        st.warning("Tick “Review” below the images that are to be judged first.")
        return
    send(requests(subject.picture_id, chosen, note))


def send_button(key: str) -> bool:
    """Whether it was pressed; it rests where the token may not open reviews."""
    why = scopes.reason(Scope.REVIEW)
    return st.button("Send ticked images to review", key=key, disabled=why is not None, help=why)


def requests(picture_id: str, chosen: Iterable[Chosen], note: str) -> tuple[ReviewRequest, ...]:
    """One for each sample: of two estimators' answers, the first one is the evidence."""
    found: dict[str, ReviewRequest] = {}
    for one in chosen:
        evidence = Evidence(
            fingerprint=_fingerprint(one.answer),
            estimator=one.answer.estimator,
            score=one.influence.score,
            rank=one.influence.rank,
        )
        sample_id = one.influence.sample_id
        found.setdefault(
            sample_id, ReviewRequest(sample_id=sample_id, picture_id=picture_id, note=note, attribution=evidence)
        )
    return tuple(found.values())


def send(asked: Sequence[ReviewRequest]) -> None:
    """Open the reviews, and say how many are new."""
    opened = session.client().create_reviews(asked)
    new = sum(one.new for one in opened)
    known = len(opened) - new
    words = f"Sent {counted(new, 'image', 'images')} to review." if new else "Nothing new:"
    st.success(f"{words}{f' {known} were in the queue already.' if known else ''}", icon="✔️")
    st.page_link("views/review.py", label="Open the review queue")


def _fingerprint(answer: Attribution) -> str:
    told = json.dumps(asdict(answer.fingerprint), sort_keys=True, separators=(",", ":"))
    if len(told) <= LONGEST_FINGERPRINT:
        return told
    return f"blake2b:{hashlib.blake2b(told.encode(), digest_size=16).hexdigest()}"
