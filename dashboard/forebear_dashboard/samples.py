"""Finding training images: text and group filters, and pages of them."""

from dataclasses import dataclass

import streamlit as st

from forebear_dashboard import session
from forebear_dashboard.text import counted
from forebear_serve.client import Client
from forebear_serve.schemas import GroupInfo, SamplePage

EVERY = "any"
GROUPS_KEPT = 60.0
MOST_VALUES = 500


@dataclass(frozen=True)
class SampleFilter:
    """What training images are to be like."""

    text: str = ""
    group: str | None = None
    value: str | None = None


@st.cache_data(ttl=GROUPS_KEPT, max_entries=32, show_spinner=False)
def _groups(_client: Client, asked_as: str) -> tuple[GroupInfo, ...]:  # noqa: ARG001 - a key of the cache
    return _client.groups(MOST_VALUES)


def groups(client: Client) -> tuple[GroupInfo, ...]:
    """Columns and values, asked for once a minute."""
    return _groups(client, session.asked_as())


def sample_filter(client: Client) -> SampleFilter:
    """Widgets, bound to the page's address."""
    columns = {one.name: one for one in groups(client)}
    with st.grid(3, min_column_width=200, vertical_alignment="bottom"):
        text = st.text_input(
            "Caption or id contains", key="text", bind="query-params", max_chars=200, placeholder="heart"
        )
        name = st.selectbox("Group", [EVERY, *columns], key="group", bind="query-params")
        counts = {} if name == EVERY else {one.value: one.samples for one in columns[name].values}
        if not counts:
            return SampleFilter(text.strip())
        value = st.selectbox(
            "Value",
            list(counts),
            index=_linked(list(counts)),
            key=f"value:{name}",
            format_func=lambda one: f"{one or 'none'} ({counts[one]:,})",
        )
    return SampleFilter(text.strip(), name, value)


def _linked(values: list[str]) -> int:
    """The value that a link to this page names, else the first."""
    named = st.query_params.get("value")
    return values.index(named) if named in values else 0


def sample_page(client: Client, chosen: SampleFilter, size: int, key: str) -> SamplePage:
    """The page that is turned to, with the widget to turn it; another filter begins at the first one."""
    first = client.samples(chosen.text, group=chosen.group, value=chosen.value, limit=size)
    pages = max(1, -(-first.total // size))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(counted(first.total, "image", "images"))
        number = st.pagination(pages, key=f"{key}:{chosen}") if pages > 1 else 1
    if number == 1:
        return first
    return client.samples(
        chosen.text, group=chosen.group, value=chosen.value, after=_after(client, chosen, size, number), limit=size
    )


def _after(client: Client, chosen: SampleFilter, size: int, number: int) -> int:
    """The row after which a page begins: ends of pages that were walked over are remembered."""
    ends: dict[int, int] = st.session_state.setdefault(f"samples:ends:{chosen}:{size}", {1: -1})
    known = max(one for one in ends if one <= number)
    while known < number:
        page = client.samples(chosen.text, group=chosen.group, value=chosen.value, after=ends[known], limit=size)
        if page.next is None:
            break
        known += 1
        ends[known] = page.next
    return ends[known]
