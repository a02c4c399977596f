"""Errors in words: what went wrong, and what to do, in place of a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from forebear.errors import ForebearError
from forebear_dashboard import session
from forebear_dashboard.text import plain
from forebear_serve.client import RefusedError, UnreachableError

UNAUTHORISED, FORBIDDEN, NOT_FOUND, BUSY, NOT_READY = 401, 403, 404, 429, 503
KEPT = "told:error"
"""In the session: an error of a callback, told when the page is drawn."""


@contextmanager
def errors_told() -> Iterator[None]:
    """Around everything that asks the server; what was drawn before an error stays, and nothing after it is drawn."""
    kept = st.session_state.pop(KEPT, None)
    if kept is not None:
        _tell(kept)
    try:
        yield
    except ForebearError as failed:
        _tell(failed)
        st.stop()


@contextmanager
def errors_kept() -> Iterator[None]:
    """Around what a callback asks: the page is drawn all the same, with the error above it."""
    try:
        yield
    except ForebearError as failed:
        st.session_state[KEPT] = failed


def _tell(failed: ForebearError) -> None:
    reason = plain(failed)
    status = failed.status if isinstance(failed, RefusedError) else 0
    if status == UNAUTHORISED:
        session.sign_out(f"Your token is not accepted any more: {failed}")
        st.rerun()
    elif status == FORBIDDEN:
        st.warning(f"**Your token does not allow this.** {reason}. Sign out, and in with a token that has the scope.")
    elif status in {BUSY, NOT_READY}:
        st.warning(f"**The server is busy.** {reason}")
        st.button("Try again", key="told:again")
    elif isinstance(failed, UnreachableError):
        st.error(f"**The server does not answer.** {reason}")
        st.button("Try again", key="told:again")
    else:
        st.error(reason)
        number = failed.problem.get("instance") if isinstance(failed, RefusedError) else None
        if number:
            st.caption(f"Request {plain(number)}: the server's log has more under this name.")
