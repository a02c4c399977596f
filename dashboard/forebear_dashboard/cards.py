"""A training image as a card: picture, facts, and what can be done with it."""

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from forebear.images import png_uri
from forebear_dashboard import scopes, session
from forebear_dashboard.text import escaped, plain
from forebear_dashboard.thumbnails import thumbnails
from forebear_serve.database import Scope
from forebear_serve.schemas import SampleInfo

GROUPS_SHOWN = 3
LICENCE = ("licence", "license")
"""Columns that are always shown."""
CARD_WIDTH = 138
"""Pixels of the narrowest card: two of them lie side by side on a telephone, four beside a picture, six on a page."""
NARROW_WIDTH = 124
"""The same in half of the place beside a picture."""
INSPECTED_SIDE = 512


def alt_text(caption: str, sample_id: str) -> str:
    return f"Training image: {caption or sample_id}"


def card(key: str) -> DeltaGenerator:
    """The frame of one image."""
    return st.container(border=True, gap="xxsmall", key=f"card-{key}")


def picture(png: bytes | None, caption: str, sample_id: str) -> str:
    """HTML: as wide as the card; words in its place when it was removed.

    One element with the facts below it, the picture inside: a grid of `st.image` takes a browser twice as long.
    """
    if png is None:
        return '<p class="fb-facts fb-dim">No picture: the image was removed, or its source does not give it.</p>'
    return png_html(png, alt_text(caption, sample_id), "fb-picture")


def png_html(png: bytes, alt: str, kind: str = "") -> str:
    """A picture that nobody has to be asked for."""
    return f'<img class="{kind}" src="{png_uri(png)}" alt="{escaped(alt)}">'


def group_lines(groups: Mapping[str, str], columns: Sequence[str], caption: str = "") -> str:
    """The first groups of a sample as HTML, a line each; those that only say the caption again are left out."""
    told = [(name, groups[name]) for name in columns if groups.get(name) and groups[name] != caption]
    shown = told[:GROUPS_SHOWN]
    return "".join(
        f'<div class="fb-line fb-dim" title="{escaped(name)}: {escaped(value)}">{escaped(name)}: {escaped(value)}</div>'
        for name, value in shown
    )


def told_columns(groups: Sequence[Mapping[str, str]]) -> list[str]:
    """Columns by how much they say of these samples: the licence, then those whose values differ."""
    names = dict.fromkeys(name for one in groups for name in one)

    def order(name: str) -> tuple[bool, bool]:
        return name not in LICENCE, len({one.get(name, "") for one in groups}) < 2

    return sorted(names, key=order)


def sample_facts(sample: SampleInfo, columns: Sequence[str]) -> str:
    """HTML: caption and groups, below a picture."""
    caption = escaped(sample.caption or sample.id)
    return (
        f'<div class="fb-facts"><div class="fb-line" title="{caption}"><b>{caption}</b></div>'
        f"{group_lines(sample.groups, columns, sample.caption)}</div>"
    )


@st.dialog("Training image", width="large")
def inspect(sample_id: str, told: Mapping[str, str] | None = None) -> None:
    """The image large, with everything that is known of it; `told` adds what an answer said."""
    from forebear_dashboard.told import errors_told

    with errors_told():
        sample = session.client().sample(sample_id)
        shown, facts = st.columns([1, 1])
        with shown:
            st.html(picture(thumbnails([sample_id], INSPECTED_SIDE)[sample_id], sample.caption, sample_id))
        with facts:
            st.markdown(f"**{plain(sample.caption or 'no caption')}**")
            rows = {**(told or {}), "id": sample.id, **sample.groups}
            if sample.label is not None:
                rows["label"] = str(sample.label)
            lines = "".join(
                f'<tr><th scope="row">{escaped(name)}</th><td>{escaped(value)}</td></tr>'
                for name, value in rows.items()
                if value
            )
            st.html(f'<table class="fb-groups fb-told"><tbody>{lines}</tbody></table>')
        why = scopes.reason(Scope.GENERATE)
        if st.button("Trace this image", key="inspect:trace", disabled=why is not None, help=why):
            st.switch_page("views/trace.py", query_params={"sample": sample_id})
