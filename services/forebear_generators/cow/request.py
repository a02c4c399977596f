"""A request for pictures as plain data: strict, with limits, images as base64 text; what a service takes."""

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    Base64Encoder,
    BaseModel,
    ConfigDict,
    EncodedBytes,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from forebear.errors import ConfigError
from forebear.images import to_png
from forebear_generators.cow.condition import CowCondition, Picture, read_image
from forebear_generators.cow.settings import CowConfig, with_mode

MAX_CONDITIONS = 16
MAX_IMAGE_BYTES = 8_000_000
MAX_IMAGE_PIXELS = 16_000_000
MAX_PROMPT = 1000
Mode = Literal["scene", "edit", "cross-domain", "inpaint"]


class _Base64(Base64Encoder):
    """Base64 that refuses other characters, which pydantic's own passes over."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            found = base64.b64decode(data, validate=True)
        except ValueError as broken:
            raise PydanticCustomError("base64", "is not base64: {reason}", {"reason": str(broken)}) from None
        if not found or len(found) > MAX_IMAGE_BYTES:
            sizes = {"size": len(found), "most": MAX_IMAGE_BYTES}
            raise PydanticCustomError("size", "has {size} bytes; send 1 to {most}", sizes)
        return found


Encoded = Annotated[bytes, EncodedBytes(encoder=_Base64)]


def taking_mode(values: Any) -> Any:
    """Plain values with the settings of their `mode` beneath the `settings` that are given, before they are checked."""
    if not isinstance(values, Mapping):
        return values
    mode, given = values.get("mode", "scene"), values.get("settings", {})
    try:
        return {**values, "settings": with_mode(mode, given)} if isinstance(given, Mapping) else values
    except (ConfigError, TypeError):
        return values  # an unknown mode is refused as such


class CowItem(BaseModel):
    """One picture's condition."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Encoded
    """The bytes of a PNG, JPEG or WebP file; in JSON as base64."""
    mask: Encoded | None = None
    """The same of a picture of the image's size, white where the image is kept; none keeps all."""
    prompt: str = Field(default="", max_length=MAX_PROMPT)
    label: StrictInt | None = None
    seed: StrictInt = 0


class CowRequest(BaseModel):
    """Pictures of one model at one setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conditions: tuple[CowItem, ...] = Field(min_length=1, max_length=MAX_CONDITIONS)
    mode: Mode = "scene"
    settings: CowConfig = Field(default_factory=CowConfig)
    """What is not given is the mode's."""

    @model_validator(mode="before")
    @classmethod
    def _take_mode(cls, values: Any) -> Any:
        return taking_mode(values)

    def conditions_read(self) -> tuple[CowCondition, ...]:
        """The conditions, their pictures decoded; raises DataError for what is no picture or too large."""
        return tuple(
            CowCondition(
                read_image(item.image, "image", MAX_IMAGE_PIXELS),
                None if item.mask is None else read_image(item.mask, "mask", MAX_IMAGE_PIXELS),
                item.prompt,
                item.label,
                item.seed,
            )
            for item in self.conditions
        )


def item_of(condition: CowCondition) -> dict[str, Any]:
    """A condition as plain values of a CowItem; masks that are arrays are refused by ConfigError."""

    def encoded(picture: Picture, what: str) -> str:
        return base64.b64encode(to_png(read_image(picture, what))).decode()

    mask = condition.mask
    if isinstance(mask, np.ndarray):
        raise ConfigError("a request holds masks as pictures; make the array a picture, white where it is 1")
    return {
        "image": encoded(condition.image, "image"),
        "mask": None if mask is None else encoded(mask, "mask"),
        "prompt": condition.prompt,
        "label": condition.label,
        "seed": condition.seed,
    }


def parse_request(text: str | bytes) -> CowRequest:
    """A request from JSON; raises ConfigError that names each field and what is wrong with it."""
    try:
        return CowRequest.model_validate_json(text)
    except ValidationError as invalid:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'request'}: {problem['msg']}"
            for problem in invalid.errors(include_url=False, include_context=False, include_input=False)
        )
        raise ConfigError(f"the request cannot be used: {problems}") from None
