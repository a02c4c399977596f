"""Making a picture around an image: which image, what of it is kept, and where it lies on the model's canvas."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st
from PIL import Image

from forebear.errors import ForebearError
from forebear.images import to_png
from forebear_dashboard import answers, cards, session
from forebear_dashboard.answers import enlarged
from forebear_dashboard.brush import box_brush
from forebear_dashboard.canvas import Laid, laid, step_of
from forebear_dashboard.samples import SampleFilter, sample_page
from forebear_dashboard.shapes import box_mask, ellipse_mask, opened, subject_mask, uploaded_mask
from forebear_dashboard.text import percent, plain
from forebear_dashboard.thumbnails import thumbnails
from forebear_dashboard.told import errors_told

STARTS = ("noise", "an image")
SOURCES = ("upload", "training image", "last picture")
MASKS = {
    "all": "the whole image",
    "subject": "the subject: what is not transparent, or not the even background",
    "box": "a box",
    "ellipse": "an ellipse",
    "mask picture": "a mask picture: white where the image is kept",
}
MODES: Mapping[str, tuple[str, bool, float]] = {
    "scene": ("a scene around a pasted subject", False, 0.8),
    "edit": ("another picture from the whole image", True, 0.8),
    "cross-domain": ("the image as something else", True, 1.0),
    "inpaint": ("everything outside of the mask anew, not a pixel changed inside", True, 0.0),
}
"""For what, whether the image fills the canvas, and the strength: see docs/cow.md."""
IMAGE = "around:image"
"""In the session: the image that was chosen."""
LONGEST = 512
"""Pixels that larger uploads are reduced to: models see fewer of a condition."""
FOUND = 6
KINDS = ("png", "jpg", "jpeg", "webp")
PREVIEW_SIDE = 256


@dataclass(frozen=True)
class Condition:
    """An image to make a picture around."""

    name: str
    picture: Image.Image
    """RGB."""
    alpha: Image.Image | None = None


def starts_from_image() -> bool:
    """Whether a picture is to be made around an image: bound to the page's address."""
    start = st.segmented_control(
        "Start from",
        STARTS,
        default="noise",
        required=True,
        key="start",
        bind="query-params",
        help="Around an image: Cyclic One-Way Diffusion keeps a part of it and draws the rest by the prompt.",
    )
    return start == "an image"


@st.fragment
def around_panel(page: str, canvas: int) -> None:
    """Choose image, mask, place and mode, with a preview; what is chosen is in the session for `cow_options`."""
    with errors_told(), st.container(border=True):
        choosing, seeing = st.columns([1.7, 1], gap="medium")
        with choosing:
            _source(page)
            condition: Condition | None = st.session_state.get(IMAGE)
            chosen = None if condition is None else _settled(condition, canvas)
        with seeing:
            _preview(condition, chosen, canvas)
        st.session_state["around:chosen"] = chosen


def cow_options() -> dict[str, Any] | None:
    """The fields of CowOptions that the panel chose; None when there is no image yet, or its mask cannot be used."""
    found: dict[str, Any] | None = st.session_state.get("around:chosen")
    return None if found is None else {name: found[name] for name in ("image", "mask", "mode", "settings")}


def _source(page: str) -> None:
    kept = answers.kept(page)
    sources = SOURCES if kept is not None else SOURCES[:2]
    source = st.segmented_control("Image", sources, default=sources[0], required=True, key="around:source")
    if source == "upload":
        file = st.file_uploader("Picture: PNG, JPEG or WebP", type=list(KINDS), key="around:file")
        if file is not None and st.session_state.get("around:read") != file.file_id:
            picture, alpha = opened(file.getvalue(), LONGEST)
            _take(Condition(file.name, picture, alpha))
            st.session_state["around:read"] = file.file_id
    elif source == "training image":
        _pick()
    elif kept is not None:
        st.button("Take the picture below", key="around:last", on_click=_take_last, args=(page,))


def _pick() -> None:
    text = st.text_input("Caption or id contains", key="around:text", max_chars=200, placeholder="heart")
    page = sample_page(session.client(), SampleFilter(text.strip()), FOUND, "around:page")
    if not page.samples:
        st.info("No training image is like this. Shorten the text.")
    pictures = thumbnails(one.id for one in page.samples)
    with st.grid(min_column_width=76, gap="xsmall"):
        for one in page.samples:
            with st.container(gap="xxsmall"):
                st.html(cards.picture(pictures[one.id], one.caption, one.id))
                st.button(
                    f"Take {plain(one.caption or one.id)}",
                    key=f"around:pick:{one.id}",
                    type="tertiary",
                    wrap=False,
                    on_click=_take_sample,
                    args=(one.id, one.caption),
                )


def _take_sample(sample_id: str, caption: str) -> None:
    image = session.client().sample_image(sample_id, LONGEST)
    _take(Condition(caption or sample_id, image.convert("RGB")))


def _take_last(page: str) -> None:
    kept = answers.kept(page)
    if kept is not None:
        picture = Image.open(io.BytesIO(kept.subject.png)).convert("RGB")
        _take(Condition(f"picture {kept.subject.title}", picture))


def _take(condition: Condition) -> None:
    """Another image: what was drawn on the one before is forgotten."""
    st.session_state[IMAGE] = condition
    for name in ("across", "down"):
        st.session_state.pop(f"around:box:{name}", None)


def _settled(condition: Condition, canvas: int) -> dict[str, Any] | None:
    """What is kept, and where: the fields of CowOptions, and what the preview shows."""
    st.caption(f"Around {plain(condition.name)}, {condition.picture.width} x {condition.picture.height} pixels.")
    mode = st.selectbox(
        "Mode",
        list(MODES),
        key="around:mode",
        format_func=lambda one: f"{one}: {MODES[one][0]}",
        on_change=_preset,
        args=(canvas,),
    )
    mask, sound = _mask(condition)
    with st.grid(2, min_column_width=200):
        size, left, top = _place(canvas)
        strength = st.slider(
            "Strength: 0 keeps, 1 follows the prompt",
            0.0,
            1.0,
            step=0.1,
            key="around:strength",
            help="0.8 is the paper's, 0 keeps every pixel. It says how long the kept part is held on the last way.",
        )
    with st.expander("Finer settings"):
        cycles = st.slider("Cycles, at most", 0, 20, 10, key="around:cycles")
        inversion = st.radio(
            "Inversion",
            ["canvas", "alone"],
            captions=["of the image where it lies: faster, and every place is possible", "of the image by itself"],
            key="around:inversion",
        )
    if not sound:
        return None
    settings = {
        "placement": {"size": size, "x": left, "y": top},
        "strength": round(strength, 2),
        "cycles": cycles,
        "inversion": inversion,
    }
    return {
        "image": base64.b64encode(to_png(condition.picture)).decode(),
        "mask": None if mask is None else base64.b64encode(to_png(mask)).decode(),
        "mode": mode,
        "settings": settings,
        "laid": laid(condition.picture, mask, (size, left, top), canvas),
    }


def _mask(condition: Condition) -> tuple[Image.Image | None, bool]:
    """The mask, None for the whole image, and whether it can be used."""
    kind = st.selectbox("Keep of it", list(MASKS), key="around:mask", format_func=MASKS.__getitem__)
    size = condition.picture.size
    if kind == "all":
        return None, True
    if kind == "subject":
        mask = subject_mask(condition.picture, condition.alpha)
    elif kind == "mask picture":
        file = st.file_uploader("Mask, of the image's shape", type=list(KINDS), key="around:mask-file")
        if file is None:
            return None, False
        try:
            mask = uploaded_mask(file.getvalue(), size)
        except ForebearError as refused:
            st.warning(plain(refused))
            return None, False
    else:
        box = box_brush(to_png(condition.picture), size, "around:box")
        mask = box_mask(size, box) if kind == "box" else ellipse_mask(size, box)
    if st.checkbox("Keep everything else instead", key="around:else"):
        mask = mask.point(lambda level: 255 - level)
    if not mask.getbbox():
        st.warning("Nothing of the image would be kept: make the part larger.")
        return None, False
    return mask, True


def _preset(canvas: int) -> None:
    """The place and strength of a mode that was chosen; everything can be changed after."""
    _, fills, strength = MODES[st.session_state["around:mode"]]
    size = canvas if fills else canvas // 2
    step = step_of(canvas)
    st.session_state["around:size"], st.session_state["around:strength"] = size, strength
    st.session_state["around:left"], st.session_state["around:top"] = (canvas - size) // 2 // step * step, 0


def _place(canvas: int) -> tuple[int, int, int]:
    """Side of the image's square, and how far it is from left and top, in pixels of the canvas."""
    st.session_state.setdefault("around:mode", next(iter(MODES)))
    if "around:size" not in st.session_state:
        _preset(canvas)
    step = step_of(canvas)
    size = st.slider(f"Size on the canvas of {canvas} pixels", step, canvas, step=step, key="around:size")
    free = canvas - size
    for name in ("left", "top"):
        st.session_state[f"around:{name}"] = min(st.session_state.get(f"around:{name}", 0), free)
    if not free:
        return size, 0, 0
    left = st.slider("From the left", 0, free, step=step, key="around:left")
    top = st.slider("From the top", 0, free, step=step, key="around:top")
    return size, left, top


def _preview(condition: Condition | None, chosen: dict[str, Any] | None, canvas: int) -> None:
    if condition is None:
        st.info(f"Choose an image: it appears here on the model's canvas of {canvas} x {canvas} pixels.")
        return
    if chosen is None:
        st.info("Choose what of the image is kept.")
        return
    shown: Laid = chosen["laid"]
    st.image(
        enlarged(to_png(shown.canvas), side=PREVIEW_SIDE),
        width="stretch",
        output_format="PNG",
        alt=f"The canvas: {condition.name} where it is kept, grey elsewhere",
    )
    st.caption(
        f"{percent(shown.part)} of the canvas is kept. The grey is drawn by the prompt; what is kept may change a "
        "little with it."
    )
    if not shown.kept.getbbox():
        st.warning("Nothing is left of it at this size: make it larger.")
