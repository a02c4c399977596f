"""Asking about a part of a picture or of the noise levels: a brush, sliders for the keyboard, or a mask picture."""

import streamlit as st

from forebear.errors import ForebearError
from forebear.images import to_png
from forebear_dashboard.answers import Answer, Part, Subject, whole_again
from forebear_dashboard.brush import box_brush, edges, whole_box
from forebear_dashboard.shapes import ellipse_mask, uploaded_mask
from forebear_dashboard.text import plain

LAST_TIMESTEP = 999
SHAPES = ("box", "ellipse", "mask picture")
KINDS = ("png", "jpg", "jpeg", "webp")


def part_form(page: str, subject: Subject) -> tuple[Part | None, tuple[int, int] | None] | None:
    """Part and band when they are asked about; None until then."""
    place = f"{page}:{subject.source.id}"
    shape = st.segmented_control("Part as", SHAPES, default="box", required=True, key=f"{page}:shape")
    drawn = shape != "mask picture"
    part, sound = _drawn_part(subject, place, str(shape)) if drawn else _mask_part(subject, place)
    first, last = edges("Noise levels: timesteps, low ones are details", LAST_TIMESTEP, f"{place}:band")
    every = (first, last) == (0, LAST_TIMESTEP)
    with st.container(horizontal=True):
        asked = st.button(
            "Trace this part",
            key=f"{page}:part-asked",
            type="primary",
            disabled=not sound or (part is None and every),
            help="Choose a part of the picture or of the noise levels first." if part is None and every else None,
        )
        st.button("Whole picture", key=f"{page}:whole", on_click=_reset, args=(page, place, subject.size()))
    return (part, None if every else (first, last)) if asked else None


def _drawn_part(subject: Subject, place: str, shape: str) -> tuple[Part | None, bool]:
    """The part, None for the whole picture, and whether it can be asked about."""
    size = subject.size()
    box = box_brush(subject.png, size, place)
    left, top, right, bottom = box
    if left == right or top == bottom:
        return None, False
    if shape == "ellipse":
        mask = ellipse_mask(size, box)
        label = f"the ellipse in the box from ({left}, {top}) to ({right}, {bottom})"
        return Part(label, mask=to_png(mask)), mask.getbbox() is not None
    if box == (0, 0, *size):
        return None, True
    return Part(f"the box from ({left}, {top}) to ({right}, {bottom})", box=box), True


def _mask_part(subject: Subject, place: str) -> tuple[Part | None, bool]:
    file = st.file_uploader(
        "Mask: white where to ask, of the picture's shape", type=list(KINDS), key=f"{place}:mask", max_upload_size=8
    )
    if file is None:
        return None, True
    try:
        mask = uploaded_mask(file.getvalue(), subject.size())
    except ForebearError as refused:
        st.warning(plain(refused))
        return None, False
    return Part(f"the mask {plain(file.name)}", mask=to_png(mask)), True


def part_told(answer: Answer) -> str:
    """What an answer is about, in words."""
    words = [] if answer.part is None else [answer.part.label]
    if answer.band is not None:
        words.append(f"timesteps {answer.band[0]} to {answer.band[1]}")
    return " at ".join(words) or "the whole picture"


def _reset(page: str, place: str, size: tuple[int, int]) -> None:
    whole_box(place, size)
    st.session_state[f"{place}:band"] = (0, LAST_TIMESTEP)
    whole_again(page)
