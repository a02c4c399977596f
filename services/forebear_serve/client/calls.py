"""Every call of the API once: what is sent, and what the answer is read as. Both clients go through these."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image
from pydantic import TypeAdapter

from forebear.errors import ConfigError
from forebear.images import to_png
from forebear_serve.schemas import (
    AttributeOptions,
    AttributeRequest,
    EstimatorInfo,
    Generated,
    GenerateRequest,
    GeneratorInfo,
    GroupInfo,
    Health,
    IndexInfo,
    PictureInfo,
    SampleInfo,
    SamplePage,
    TokenInfo,
    Traced,
)

T = TypeVar("T")
Upload = Image.Image | Path | str | bytes
"""A picture, the path of one, or a file's bytes."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request."""

    method: str
    path: str
    read: Callable[[bytes], T]
    params: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    """JSON-like, or bytes as they are."""
    repeatable: bool = True
    """Whether it may be sent again after a lost connection: it writes nothing, or the same thing."""
    accepted: tuple[int, ...] = ()
    """Statuses beside 2xx that come with an answer too."""

    @property
    def arguments(self) -> dict[str, Any]:
        """What httpx sends it with."""
        kind = "content" if isinstance(self.body, bytes) else "json"
        return {"method": self.method, "url": self.path, "params": self.params, kind: self.body}


def read_as(kind: type[T]) -> Callable[[bytes], T]:
    """What reads an answer's JSON as this type."""
    return TypeAdapter(kind).validate_json


def health() -> Call[Health]:
    return Call("GET", "/health", read_as(Health), accepted=(503,))


def metrics() -> Call[str]:
    return Call("GET", "/metrics", bytes.decode)


def token() -> Call[TokenInfo]:
    return Call("GET", "/token", read_as(TokenInfo))


def generators() -> Call[tuple[GeneratorInfo, ...]]:
    return Call("GET", "/generators", read_as(tuple[GeneratorInfo, ...]))


def estimators() -> Call[tuple[EstimatorInfo, ...]]:
    return Call("GET", "/estimators", read_as(tuple[EstimatorInfo, ...]))


def index() -> Call[IndexInfo]:
    return Call("GET", "/index", read_as(IndexInfo))


def groups(limit: int) -> Call[tuple[GroupInfo, ...]]:
    return Call("GET", "/groups", read_as(tuple[GroupInfo, ...]), {"limit": limit})


def samples(text: str, group: str | None, value: str | None, after: int, limit: int) -> Call[SamplePage]:
    given = {"text": text, "group": group, "value": value, "after": after, "limit": limit}
    return Call("GET", "/samples", read_as(SamplePage), {name: one for name, one in given.items() if one is not None})


def sample(sample_id: str) -> Call[SampleInfo]:
    return Call("GET", f"/samples/{quoted(sample_id)}", read_as(SampleInfo))


def sample_image(sample_id: str, size: int) -> Call[Image.Image]:
    return Call("GET", f"/samples/{quoted(sample_id)}/image", _picture, {"size": size})


def picture(picture_id: str) -> Call[PictureInfo]:
    return Call("GET", f"/pictures/{quoted(picture_id)}", read_as(PictureInfo))


def picture_image(picture_id: str) -> Call[Image.Image]:
    return Call("GET", f"/pictures/{quoted(picture_id)}/image", _picture)


def upload(image: Upload) -> Call[PictureInfo]:
    return Call("POST", "/pictures", read_as(PictureInfo), body=_bytes(image))


def generate(asked: GenerateRequest) -> Call[Generated]:
    return Call("POST", "/generate", read_as(Generated), body=asked.model_dump(mode="json"))


def attribute(asked: AttributeRequest) -> Call[Traced]:
    return Call("POST", "/attribute", read_as(Traced), body=asked.model_dump(mode="json"))


def generate_request(prompt: str, attribute: AttributeOptions | bool | None, given: dict[str, Any]) -> GenerateRequest:
    """From a client method's arguments; `attribute` True asks with the server's defaults."""
    options = AttributeOptions() if attribute is True else attribute or None
    return GenerateRequest(prompt=prompt, attribute=options, **given)


def attribute_request(
    image: Upload | PictureInfo | SampleInfo, prompt: str | None, label: int | None, options: dict[str, Any]
) -> AttributeRequest:
    """From a client method's arguments: a picture of the server's by its id, any other by its bytes."""
    told: dict[str, Any] = {"prompt": prompt, "label": label, "options": AttributeOptions(**options)}
    if isinstance(image, PictureInfo):
        return AttributeRequest(picture=image.id, **told)
    if isinstance(image, SampleInfo):
        return AttributeRequest(sample=image.id, **told)
    return AttributeRequest(image=base64.b64encode(_bytes(image)), **told)


def quoted(value: str) -> str:
    """One part of a path."""
    from urllib.parse import quote

    return quote(value, safe="")


def _picture(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _bytes(image: Upload) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return to_png(image)
    try:
        return Path(image).expanduser().read_bytes()
    except OSError as refused:
        raise ConfigError(f"{image} cannot be read ({refused.strerror}); give the path of a picture") from None
