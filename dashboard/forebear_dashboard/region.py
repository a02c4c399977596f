"""Asking about a part of a picture or of the noise levels: a brush on the picture, and sliders for the keyboard."""

import base64
from typing import Any

import streamlit as st

from forebear_dashboard.answers import Answer, Box, Subject, enlarged, whole_again

BRUSH_SIDE = 200
"""Pixels of the picture that the brush is drawn on."""
LAST_TIMESTEP = 999


def part_form(page: str, subject: Subject) -> tuple[Box | None, tuple[int, int] | None] | None:
    """Box and band when they are asked about; None until then. The box is in pixels of the picture."""
    width, height = subject.size()
    place = f"{page}:{subject.source.id}"
    st.caption("Drag a box on the picture, or set its edges below.")
    st.vega_lite_chart(
        spec=_brush(subject.png, width, height),
        key=f"{place}:brush",
        on_select=lambda: _brushed(place, width, height),
        selection_mode="box",
        width="content",
        theme=None,
    )
    left, right = _edges("Left and right edge, pixels", width, f"{place}:across")
    top, bottom = _edges("Upper and lower edge, pixels", height, f"{place}:down")
    first, last = _edges("Noise levels: timesteps, low ones are details", LAST_TIMESTEP, f"{place}:band")
    whole, every = (left, top, right, bottom) == (0, 0, width, height), (first, last) == (0, LAST_TIMESTEP)
    empty = left == right or top == bottom
    with st.container(horizontal=True):
        asked = st.button(
            "Trace this part",
            key=f"{page}:part-asked",
            type="primary",
            disabled=empty or (whole and every),
            help="Choose a part of the picture or of the noise levels first." if whole and every else None,
        )
        st.button("Whole picture", key=f"{page}:whole", on_click=_reset, args=(page, place, width, height))
    if not asked:
        return None
    return None if whole else (left, top, right, bottom), None if every else (first, last)


def _edges(label: str, most: int, key: str) -> tuple[int, int]:
    """A slider with two ends, whose value the brush may set."""
    st.session_state.setdefault(key, (0, most))
    chosen: Any = st.slider(label, 0, most, key=key)
    low, high = chosen
    return int(low), int(high)


def part_told(answer: Answer) -> str:
    """What an answer is about, in words."""
    words = []
    if answer.box is not None:
        left, top, right, bottom = answer.box
        words.append(f"the box from ({left}, {top}) to ({right}, {bottom})")
    if answer.band is not None:
        words.append(f"timesteps {answer.band[0]} to {answer.band[1]}")
    return " at ".join(words) or "the whole picture"


def _brush(png: bytes, width: int, height: int) -> dict[str, Any]:
    """The picture with a selection over it, as Vega-Lite; y grows downwards as in pictures."""
    address = "data:image/png;base64," + base64.b64encode(enlarged(png)).decode()
    tall = round(BRUSH_SIDE * height / width)

    def axis(name: str, domain: list[int]) -> dict[str, Any]:
        return {"field": name, "type": "quantitative", "axis": None, "scale": {"domain": domain, "nice": False}}

    return {
        "description": "The picture that is traced; drag to choose a box.",
        "width": BRUSH_SIDE,
        "height": tall,
        "padding": 0,
        "data": {"values": [{"x": width / 2, "y": height / 2, "picture": address}]},
        "params": [{"name": "box", "select": {"type": "interval", "encodings": ["x", "y"]}}],
        "mark": {"type": "image", "width": BRUSH_SIDE, "height": tall, "aspect": False},
        "encoding": {"x": axis("x", [0, width]), "y": axis("y", [height, 0]), "url": {"field": "picture"}},
    }


def _brushed(place: str, width: int, height: int) -> None:
    """Take the brush's box over into the sliders, which are what is asked."""
    event: Any = st.session_state.get(f"{place}:brush")
    chosen = (event or {}).get("selection", {}).get("box", {})
    if "x" not in chosen or "y" not in chosen:
        return
    for name, found, most in (("across", chosen["x"], width), ("down", chosen["y"], height)):
        low, high = sorted(min(max(float(one), 0.0), float(most)) for one in found)
        low, high = int(low), max(int(low) + 1, round(high))
        st.session_state[f"{place}:{name}"] = (min(low, most - 1), min(high, most))


def _reset(page: str, place: str, width: int, height: int) -> None:
    st.session_state[f"{place}:across"], st.session_state[f"{place}:down"] = (0, width), (0, height)
    st.session_state[f"{place}:band"] = (0, LAST_TIMESTEP)
    whole_again(page)
