"""The dashboard's entry: `streamlit run` executes this file; `forebear dashboard` calls that with safe settings."""

from pathlib import Path

import streamlit as st

from forebear_dashboard import scopes, session
from forebear_dashboard.text import escaped
from forebear_dashboard.told import errors_told
from forebear_serve.client import RefusedError, UnreachableError
from forebear_serve.database import Scope

HERE = Path(
    __file__
).parent  # pages lie in views/: Streamlit would take a folder of the name pages for an app of its own making
STYLE = HERE / "style.css"
PAGES = {
    "generate": "Generate and trace",
    "trace": "Trace an image",
    "compare": "Compare generators",
    "images": "Training images",
    "audit": "Dataset audit",
    "review": "Review queue",
    "health": "Runs and health",
}
"""Titles by file name. Without sections: those of Streamlit are no list to a screen reader."""
NEEDS = {"generate": Scope.GENERATE, "trace": Scope.GENERATE, "compare": Scope.GENERATE}
"""Pages that are hidden from tokens without the scope; a link to one of them says why."""


def main() -> None:
    # An emoji, since a Material icon here would be fetched from elsewhere.
    st.set_page_config(page_title="Forebear", page_icon="🌿", layout="wide", initial_sidebar_state="auto")
    st.html(STYLE)
    signed_in = session.signed_in()
    session.write_cookie()
    page = st.navigation(_pages(signed_in), position="sidebar" if signed_in else "hidden")
    if not signed_in:
        if _sign_in():
            _enter(page)
        return
    with st.sidebar:
        _account()
    with errors_told():
        if not scopes.told_missing(Scope.READ):
            page.run()


def _pages(signed_in: bool) -> list[st.Page]:
    """The first that the token may use is where one begins."""
    shown = [name for name in PAGES if not signed_in or scopes.may(NEEDS.get(name, Scope.READ))]
    first = (shown or list(PAGES))[0]
    return [
        st.Page(
            HERE / "views" / f"{name}.py",
            title=title,
            url_path=name,
            default=name == first,
            visibility="visible" if name in shown else "hidden",
        )
        for name, title in PAGES.items()
    ]


def _enter(page: st.Page) -> None:
    """The page that was asked for, or else the first that the token may use."""
    first = next((name for name in PAGES if scopes.may(NEEDS.get(name, Scope.READ))), None)
    if page.url_path or first in {None, next(iter(PAGES))}:
        st.rerun()
    st.switch_page(HERE / "views" / f"{first}.py")


def _sign_in() -> bool:
    """Whether a token has just been accepted."""
    with st.container(key="entry"):
        return _entry()


def _entry() -> bool:
    st.title("Forebear")
    st.write("Which training images does a picture descend from? Sign in to ask.")
    message = st.session_state.get(session.MESSAGE)
    if message:
        st.warning(message)
    with st.form("sign-in"):
        secret = st.text_input(
            "Access token", type="password", placeholder="fb_…", autocomplete="current-password", key="sign-in:token"
        )
        asked = st.form_submit_button("Sign in", type="primary", width="stretch")
    st.caption(
        "Tokens are made on the server: `forebear token create NAME --run RUN --scope read --scope generate "
        "--scope review`. `forebear serve` prints one when it first starts."
    )
    if not asked:
        return False
    if not secret.strip():
        st.error("Paste a token first; it begins with fb_.")
        return False
    try:
        session.sign_in(secret.strip())
    except RefusedError as refused:
        st.error(f"This token is not accepted: {refused}")
    except UnreachableError as failed:
        st.error(str(failed))
    else:
        return True
    return False


def _account() -> None:
    known = scopes.token()
    if known is not None:
        until = "" if known.expires is None else f", until {known.expires:%Y-%m-%d}"
        scopes_told = ", ".join(one.value for one in known.scopes)
        st.html(f'<div class="fb-facts"><b>{escaped(known.name)}</b> may: {scopes_told}{until}</div>')
    st.html(f'<div class="fb-facts fb-dim">Server {escaped(session.address())}</div>')
    if not session.by_environment():
        st.button("Sign out", on_click=session.sign_out, key="session:out")


main()
