"""Widgets that pages share for asking: estimators, mode, how many, and a picture's label or prompt."""

import streamlit as st

from forebear_dashboard import session
from forebear_dashboard.answers import Question
from forebear_dashboard.text import plain
from forebear_serve.client import Client
from forebear_serve.schemas import EstimatorInfo, GeneratorInfo, Mode

MOST_ESTIMATORS = 2
"""That fit side by side."""
MOST_SHOWN = 48
KEPT_SECONDS = 60.0
MODES = {"fast": "at the store's own timesteps", "exact": "at more timesteps, with intervals and p-values: slower"}


@st.cache_data(ttl=KEPT_SECONDS, max_entries=32, show_spinner=False)
def _generators(_client: Client, asked_as: str) -> tuple[GeneratorInfo, ...]:  # noqa: ARG001 - a key of the cache
    return _client.generators()


@st.cache_data(ttl=KEPT_SECONDS, max_entries=32, show_spinner=False)
def _estimators(_client: Client, asked_as: str) -> tuple[EstimatorInfo, ...]:  # noqa: ARG001 - a key of the cache
    return _client.estimators()


def generators(client: Client) -> tuple[GeneratorInfo, ...]:
    """Of the server, asked for once a minute."""
    return _generators(client, session.asked_as())


def estimators(client: Client) -> tuple[EstimatorInfo, ...]:
    """Of the server, asked for once a minute."""
    return _estimators(client, session.asked_as())


def question(client: Client) -> Question:
    """How to trace: bound to the page's address, so that a link asks the same."""
    known = {one.name: one for one in estimators(client)}
    default = [name for name, one in known.items() if one.default][:1]
    names = st.multiselect(
        "Estimators, at most two side by side",
        list(known),
        default=default,
        max_selections=MOST_ESTIMATORS,
        key="estimators",
        bind="query-params",
        help="\n\n".join(
            f"**{plain(name)}**{' (baseline)' if one.baseline else ''}: {plain(one.description)}"
            for name, one in known.items()
        ),
    )
    mode = st.radio("Mode", list(MODES), captions=list(MODES.values()), key="mode", bind="query-params")
    top_k = st.slider("Ancestors shown, of each sign", 3, MOST_SHOWN, 12, step=3, key="shown", bind="query-params")
    return Question(tuple(names or default), Mode(mode), top_k)


def prompt_or_label(conditioning: str, samples_hint: str = "") -> tuple[str, int | None]:
    """What the model is conditioned on: a prompt, a class, or nothing."""
    if conditioning == "text":
        prompt = st.text_input(
            "Prompt", key="prompt", bind="query-params", placeholder=samples_hint, max_chars=1_000, autocomplete="off"
        )
        return prompt.strip(), None
    if conditioning == "class":
        label = st.number_input("Class", min_value=0, value=0, step=1, key="label", bind="query-params")
        return "", int(label)
    st.caption("This model takes neither a prompt nor a class.")
    return "", None
