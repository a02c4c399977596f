"""The dashboard's entry: `streamlit run` executes this file; `forebear dashboard` calls that with safe settings."""

from pathlib import Path

import streamlit as st

from forebear_dashboard import session
from forebear_dashboard.told import errors_told
from forebear_serve.client import RefusedError, UnreachableError

HERE = Path(
    __file__
).parent  # pages lie in views/: Streamlit would take a folder of the name pages for an app of its own making
STYLE = HERE / "style.css"
PAGES = {
    "Ask": [
        ("generate", "Generate and trace"),
        ("trace", "Trace an image"),
        ("compare", "Compare generators"),
    ],
    "Audit": [
        ("images", "Training images"),
        ("audit", "Dataset audit"),
        ("review", "Review queue"),
    ],
    "Service": [("health", "Runs and health")],
}
"""File names and titles, by section."""


def main() -> None:
    # An emoji, since a Material icon here would be fetched from elsewhere.
    st.set_page_config(page_title="Forebear", page_icon="🌿", layout="wide", initial_sidebar_state="auto")
    st.html(STYLE)
    pages = {
        section: [
            st.Page(HERE / "views" / f"{name}.py", title=title, url_path=name, default=name == "generate")
            for name, title in entries
        ]
        for section, entries in PAGES.items()
    }
    signed_in = session.signed_in()
    session.write_cookie()
    page = st.navigation(pages, position="sidebar" if signed_in else "hidden")
    if not signed_in:
        _sign_in()
        return
    with st.sidebar:
        _account()
    with errors_told():
        page.run()


def _sign_in() -> None:
    st.title("Forebear")
    st.write("Which training images does a picture descend from? Sign in to ask.")
    message = st.session_state.get(session.MESSAGE)
    if message:
        st.warning(message)
    with st.form("sign-in", width=480):
        secret = st.text_input(
            "Access token", type="password", placeholder="fb_…", autocomplete="current-password", key="sign-in:token"
        )
        asked = st.form_submit_button("Sign in", type="primary")
    st.caption(
        "Tokens are made on the server: `forebear token create NAME --run RUN --scope read --scope generate "
        "--scope review`. `forebear serve` prints one when it first starts."
    )
    if not asked:
        return
    if not secret.strip():
        st.error("Paste a token first; it begins with fb_.")
        return
    try:
        session.sign_in(secret.strip())
    except RefusedError as refused:
        st.error(f"This token is not accepted: {refused}")
    except UnreachableError as failed:
        st.error(str(failed))
    else:
        st.rerun()


def _account() -> None:
    st.caption(f"Server `{session.address()}`")
    if not session.by_environment():
        st.button("Sign out", on_click=session.sign_out, key="session:out")


main()
