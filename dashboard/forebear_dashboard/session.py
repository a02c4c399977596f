"""Who is signed in: the client of this browser session, found again after a reload by the key in a cookie."""

import os
import secrets
import threading
import time
from collections import OrderedDict

import streamlit as st

from forebear_serve.addresses import ADDRESS, DEFAULT_ADDRESS, TOKEN
from forebear_serve.client import Client

CLIENT, SECRET, MESSAGE = "session:client", "session:secret", "session:message"
"""Keys of the session's state."""
KEPT_SECONDS = 12 * 3600.0
"""For which a reload finds the session again."""
MOST_KEPT = 1_000
RETRIES = 1
"""Of a busy server's answers: a person sees that it is busy sooner than a program has to."""


class KeptSessions:
    """Tokens of sessions by random keys, in this process alone: a browser holds the key, never the token."""

    def __init__(self) -> None:
        self._lock, self._kept = threading.Lock(), OrderedDict[str, tuple[str, float]]()

    def keep(self, secret: str) -> str:
        """A key for it."""
        key = secrets.token_urlsafe(32)
        with self._lock:
            self._kept[key] = secret, time.monotonic() + KEPT_SECONDS
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return key

    def find(self, key: str) -> str | None:
        with self._lock:
            secret, until = self._kept.get(key, ("", 0.0))
        return secret if time.monotonic() < until else None

    def forget(self, key: str) -> None:
        with self._lock:
            self._kept.pop(key, None)


@st.cache_resource
def _kept() -> KeptSessions:
    return KeptSessions()


@st.cache_resource(max_entries=64, show_spinner=False)
def _connected(address: str, secret: str) -> Client:
    """One connection pool for each token."""
    return Client(address, secret, retries=RETRIES)


def address() -> str:
    return os.environ.get(ADDRESS) or DEFAULT_ADDRESS


def asked_as() -> str:
    """The server and the token: a key for what is kept of its answers."""
    return f"{address()} {st.session_state[SECRET]}"


def client() -> Client:
    """Of the token that this session is signed in by; the page ends here when there is none."""
    found = st.session_state.get(CLIENT)
    if found is None:
        st.stop()
    connected: Client = found
    return connected


def signed_in() -> bool:
    """Whether there is a client: from before, from the environment's token, or from the cookie of a reloaded page."""
    if CLIENT in st.session_state:
        return True
    if MESSAGE in st.session_state:  # it has just been signed out: the same token would end the same way
        return False
    secret = os.environ.get(TOKEN) or _kept().find(st.context.cookies.get(_cookie(), ""))
    if secret:
        _take(secret)
    return bool(secret)


def sign_in(secret: str) -> None:
    """Take a token that the server accepts; raises RefusedError or UnreachableError."""
    asked = Client(address(), secret, retries=RETRIES)
    try:
        asked.token()
    finally:
        asked.close()
    _take(secret)
    st.session_state.pop(MESSAGE, None)
    _set_cookie(_kept().keep(secret), KEPT_SECONDS)


def sign_out(message: str = "") -> None:
    """Forget the token here and in the browser; `message` stands above the form for the next one."""
    _kept().forget(st.context.cookies.get(_cookie(), ""))
    for key in list(st.session_state):
        del st.session_state[key]
    st.session_state[MESSAGE] = message
    _set_cookie("", 0.0)


def by_environment() -> bool:
    """Whether the token is the environment's, which nobody has to type."""
    return bool(os.environ.get(TOKEN)) and st.session_state.get(SECRET) == os.environ.get(TOKEN)


def _take(secret: str) -> None:
    st.session_state[CLIENT], st.session_state[SECRET] = _connected(address(), secret), secret


def _cookie() -> str:
    """Its name: cookies are shared by all ports of a host, sessions are not."""
    return f"forebear_{st.get_option('server.port')}"


def _set_cookie(value: str, lasts: float) -> None:
    """Both values are ours: the name is a number's, the key has letters, digits, '-' and '_' alone."""
    st.session_state[COOKIE] = f"{_cookie()}={value}; Max-Age={lasts:.0f}; Path=/; SameSite=Strict"


COOKIE = "session:cookie"


def write_cookie() -> None:
    """Have the browser keep what was set; Streamlit can read cookies, but writes none."""
    cookie = st.session_state.pop(COOKIE, None)
    if cookie is not None:
        st.html(f"<script>document.cookie = '{cookie}';</script>", unsafe_allow_javascript=True)
