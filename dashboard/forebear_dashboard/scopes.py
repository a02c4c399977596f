"""What the token of this session allows: what it does not is hidden, or rests and says why."""

import streamlit as st

from forebear.errors import ForebearError
from forebear_dashboard import session
from forebear_dashboard.text import plain
from forebear_serve.client import Client
from forebear_serve.database import Scope
from forebear_serve.schemas import TokenInfo

KEPT_SECONDS = 60.0
DOES = {
    Scope.READ: "see anything of the run",
    Scope.GENERATE: "make pictures and trace them",
    Scope.REVIEW: "open and judge reviews",
    Scope.ADMIN: "see jobs",
}


@st.cache_data(ttl=KEPT_SECONDS, max_entries=64, show_spinner=False)
def _token(_client: Client, asked_as: str) -> TokenInfo:  # noqa: ARG001 - a key of the cache
    return _client.token()


def token() -> TokenInfo | None:
    """Of this session, asked for once a minute; None where the server does not say: its refusals then tell."""
    try:
        return _token(session.client(), session.asked_as())
    except ForebearError:
        return None


def may(scope: Scope) -> bool:
    known = token()
    return known is None or scope in known.scopes


def reason(scope: Scope) -> str | None:
    """Why something rests, for its `help`; None when the token allows it."""
    return None if may(scope) else f"Your token lacks the scope {scope.value}, which is needed to {DOES[scope]}."


def told_missing(scope: Scope) -> bool:
    """Say in place of a page or a part of it what the token lacks; False when it lacks nothing."""
    why = reason(scope)
    if why is None:
        return False
    known = token()
    has = ", ".join(one.value for one in known.scopes) if known is not None else ""
    st.info(f"{why} It has: {plain(has) or 'none'}. Sign out, and in with another one.")
    return True
