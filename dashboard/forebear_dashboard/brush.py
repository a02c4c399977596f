"""A box on a picture: dragged with the mouse, or set by its edges with the keyboard."""

from typing import Any

import streamlit as st

from forebear.images import png_uri
from forebear_dashboard.answers import enlarged
from forebear_dashboard.shapes import Box

BRUSH_SIDE = 200
"""Pixels of the longer side of the picture that the brush is drawn on."""


def box_brush(png: bytes, size: tuple[int, int], place: str) -> Box:
    """The box that is chosen, in pixels of the picture of `size`; at first all of it. May be empty."""
    width, height = size
    st.caption("Drag a box on the picture, or set its edges below.")
    st.vega_lite_chart(
        spec=_brush(png, width, height),
        key=f"{place}:brush",
        on_select=lambda: _brushed(place, width, height),
        selection_mode="box",
        width="content",
        theme=None,
        alt="The picture; drag to choose a box",
    )
    left, right = edges("Left and right edge, pixels", width, f"{place}:across")
    top, bottom = edges("Upper and lower edge, pixels", height, f"{place}:down")
    return left, top, right, bottom


def edges(label: str, most: int, key: str) -> tuple[int, int]:
    """A slider with two ends, whose value a brush may set."""
    st.session_state.setdefault(key, (0, most))
    chosen: Any = st.slider(label, 0, most, key=key)
    low, high = chosen
    return int(low), int(high)


def whole_box(place: str, size: tuple[int, int]) -> None:
    """All of the picture again."""
    st.session_state[f"{place}:across"], st.session_state[f"{place}:down"] = (0, size[0]), (0, size[1])


def _brush(png: bytes, width: int, height: int) -> dict[str, Any]:
    """The picture with a selection over it, as Vega-Lite; y grows downwards as in pictures."""
    address = png_uri(enlarged(png))
    wide, tall = (round(BRUSH_SIDE * one / max(width, height)) for one in (width, height))

    def axis(name: str, domain: list[int]) -> dict[str, Any]:
        return {"field": name, "type": "quantitative", "axis": None, "scale": {"domain": domain, "nice": False}}

    return {
        "width": wide,
        "height": tall,
        "padding": dict.fromkeys(("left", "top", "right", "bottom"), 0),  # Streamlit takes a plain 0 for its own
        "usermeta": {"embedOptions": {"renderer": "canvas"}},  # as SVG, the box would be a picture without words
        "data": {"values": [{"x": width / 2, "y": height / 2, "picture": address}]},
        "params": [{"name": "box", "select": {"type": "interval", "encodings": ["x", "y"]}}],
        "mark": {"type": "image", "width": wide, "height": tall, "aspect": False},
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
