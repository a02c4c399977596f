"""A traced picture in the session: what was asked about, what came back, and how asking again changes it."""

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from PIL import Image

from forebear.images import to_png
from forebear_dashboard.shapes import Box, box_mask, outlined
from forebear_serve.client import Client
from forebear_serve.schemas import Mode, PictureInfo, SampleInfo, Traced

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
class Part:
    """A part of a picture: a box, or a mask."""

    label: str
    """In words."""
    box: Box | None = None
    mask: bytes | None = None
    """PNG of a grey picture of the picture's size, white where it is meant."""

    def region(self) -> dict[str, Any]:
        """The fields of `Region`."""
        return {"box": self.box} if self.mask is None else {"mask": base64.b64encode(self.mask)}

    def drawn(self, size: tuple[int, int]) -> Image.Image:
        """As a mask of a picture of this size."""
        if self.mask is not None:
            return Image.open(io.BytesIO(self.mask)).convert("L")
        return box_mask(size, self.box or (0, 0, *size))


@dataclass(frozen=True)
class Answer:
    """What a page shows."""

    subject: Subject
    question: Question
    traced: Traced
    waited: float
    """Seconds from asking to the answer, as this page saw it."""
    part: Part | None = None
    """Of the picture that it is about; None: the whole."""
    band: tuple[int, int] | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds of making the picture, where it was made."""

    def shown(self) -> bytes:
        """The picture enlarged, with the part outlined."""
        return enlarged(self.subject.png, self.part)


def enlarged(png: bytes, part: Part | None = None, side: int = SHOWN_SIDE) -> bytes:
    """PNG of at least about `side` pixels, with the edge of a part drawn into it."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    scale = max(1, side // max(picture.size))
    large = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    return to_png(large if part is None else outlined(large, part.drawn(picture.size)))


def ask(
    client: Client, subject: Subject, question: Question, part: Part | None = None, band: tuple[int, int] | None = None
) -> Answer:
    """Trace a picture; raises what the client raises."""
    started = time.perf_counter()
    region = {} if part is None else {"region": part.region()}
    times = {} if band is None else {"timesteps": band}
    traced = client.attribute(
        subject.source, prompt=subject.prompt, label=subject.label, **question.options(), **region, **times
    )
    return Answer(subject, question, traced, time.perf_counter() - started, part, band)


def kept(page: str, part: bool = False) -> Answer | None:
    """The page's answer about the whole picture, or about a part of it."""
    found: Answer | None = st.session_state.get(_key(page, part))
    return found


def keep(page: str, answer: Answer) -> None:
    """In the session: an answer about the whole takes the place of everything the page has shown."""
    part = answer.part is not None or answer.band is not None
    st.session_state[_key(page, part)] = answer
    if not part:
        st.session_state.pop(_key(page, part=True), None)


def whole_again(page: str) -> None:
    st.session_state.pop(_key(page, part=True), None)


def _key(page: str, part: bool) -> str:
    return f"{page}:{'part' if part else 'answer'}"
