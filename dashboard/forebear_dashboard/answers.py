"""A traced picture in the session: what was asked about, what came back, and how asking again changes it."""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from PIL import Image, ImageDraw

from forebear.images import to_png
from forebear_serve.client import Client
from forebear_serve.schemas import Mode, PictureInfo, SampleInfo, Traced

Box = tuple[int, int, int, int]
SHOWN_SIDE = 512
"""Pixels that small pictures are enlarged to, without smoothing: every pixel of the model's can be seen."""


@dataclass(frozen=True)
class Subject:
    """The picture that is asked about."""

    source: PictureInfo | SampleInfo
    png: bytes
    prompt: str = ""
    label: int | None = None

    @property
    def title(self) -> str:
        return self.prompt or ("" if self.label is None else f"class {self.label}") or self.source.id[:12]

    @property
    def picture_id(self) -> str:
        """Of a picture that was made or uploaded; empty for a training image."""
        return self.source.id if isinstance(self.source, PictureInfo) else ""

    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return Image.open(io.BytesIO(self.png)).size


@dataclass(frozen=True)
class Question:
    """How a picture is traced."""

    estimators: tuple[str, ...] = ()
    mode: Mode = Mode.FAST
    top_k: int = 12

    def options(self) -> dict[str, Any]:
        """Of `Client.attribute`, or the fields of AttributeOptions."""
        return {"estimators": self.estimators, "mode": self.mode, "top_k": self.top_k}


@dataclass(frozen=True)
class Answer:
    """What a page shows."""

    subject: Subject
    question: Question
    traced: Traced
    waited: float
    """Seconds from asking to the answer, as this page saw it."""
    box: Box | None = None
    """The part of the picture that it is about."""
    band: tuple[int, int] | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of making the picture, where it was made."""

    def shown(self) -> bytes:
        """The picture enlarged, with the part outlined."""
        return enlarged(self.subject.png, self.box)


def enlarged(png: bytes, box: Box | None = None, side: int = SHOWN_SIDE) -> bytes:
    """PNG of at least about `side` pixels; `box` is outlined in black and white, to be seen on any ground."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    scale = max(1, side // max(picture.size))
    large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    if box is not None:
        left, top, right, bottom = (one * scale for one in box)
        draw = ImageDraw.Draw(large)
        draw.rectangle((left, top, right - 1, bottom - 1), outline="black", width=5)
        draw.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline="white", width=2)
    return to_png(large)


def ask(
    client: Client, subject: Subject, question: Question, box: Box | None = None, band: tuple[int, int] | None = None
) -> Answer:
    """Trace a picture; raises what the client raises."""
    started = time.perf_counter()
    region = {} if box is None else {"region": {"box": box}}
    times = {} if band is None else {"timesteps": band}
    traced = client.attribute(
        subject.source, prompt=subject.prompt, label=subject.label, **question.options(), **region, **times
    )
    return Answer(subject, question, traced, time.perf_counter() - started, box, band)


def kept(page: str, part: bool = False) -> Answer | None:
    """The page's answer about the whole picture, or about a part of it."""
    found: Answer | None = st.session_state.get(_key(page, part))
    return found


def keep(page: str, answer: Answer) -> None:
    """In the session: an answer about the whole takes the place of everything the page has shown."""
    part = answer.box is not None or answer.band is not None
    st.session_state[_key(page, part)] = answer
    if not part:
        st.session_state.pop(_key(page, part=True), None)


def whole_again(page: str) -> None:
    st.session_state.pop(_key(page, part=True), None)


def _key(page: str, part: bool) -> str:
    return f"{page}:{'part' if part else 'answer'}"
