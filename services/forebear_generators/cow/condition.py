"""What the user gives for a picture: an image, the part of it to keep, and words."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.errors import ConfigError
from forebear.images import MAX_PIXELS, on_white, read_picture
from forebear.masks import checked_weights

if TYPE_CHECKING:  # requests are read where there is no torch
    from forebear.diffusion.model import DiffusionModel

Picture = Image.Image | Path | str | bytes
"""A picture, the path of one, or the bytes of its file."""
Mask = Picture | NDArray[np.floating] | NDArray[np.bool_]
"""A picture, or weights [h, w] in [0, 1] where 1 is kept."""


@dataclass(frozen=True)
class CowCondition:
    """One picture's visual condition, prompt, label and seed."""

    image: Picture
    mask: Mask | None = None
    """Of the image's size; None keeps the whole image."""
    prompt: str = ""
    label: int | None = None
    seed: int = 0


def check_words(model: "DiffusionModel", condition: CowCondition) -> None:
    """Raise ConfigError for words or a label that the model cannot be told, or that it needs."""
    kind = model.conditioner.kind
    if condition.prompt and kind != "text":
        instead = "give a label instead" if kind == "class" else "leave the prompt out"
        raise ConfigError(f"this model has no text encoder and cannot read {condition.prompt!r}; {instead}")
    if kind == "class" and condition.label is None:
        raise ConfigError("this model is conditioned on a class; give each condition a label")
    if kind != "class" and condition.label is not None:
        instead = "give a prompt instead" if kind == "text" else "leave the label out"
        raise ConfigError(f"this model knows no classes, and label {condition.label} was given; {instead}")


def read_image(image: Picture, what: str = "image", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture in RGB; raises DataError when it is none, or larger than `max_pixels`."""
    if isinstance(image, Image.Image):
        return on_white(image)
    return read_picture(image, what, max_pixels)


def read_mask(
    mask: Mask | None, size: tuple[int, int], keep: Literal["white", "black"] = "white"
) -> NDArray[np.float32]:
    """Weights float32[h, w] in [0, 1] of the kept area of an image of `size` (width, height).

    Raises ConfigError when the mask has another size or keeps nothing, DataError when it is no picture.
    """
    width, height = size
    if mask is None:
        return np.ones((height, width), np.float32)
    if isinstance(mask, np.ndarray):
        weights = checked_weights(mask)
    else:
        levels = np.asarray(read_image(mask, "mask").convert("L"), np.float32) / 255.0
        weights = levels if keep == "white" else 1.0 - levels
    if weights.shape != (height, width):
        raise ConfigError(
            f"the mask is {weights.shape[1]} x {weights.shape[0]} pixels and the image {width} x {height}; "
            "give a mask of the image's size"
        )
    if not weights.any():
        raise ConfigError("the mask is empty: nothing would be kept; " + _remedy(mask, keep))
    return weights


def _remedy(mask: Mask, keep: str) -> str:
    if isinstance(mask, np.ndarray):
        return "set weights to 1 where the image is to be kept"
    other = "black" if keep == "white" else "white"
    return f"make it {keep} where the image is to be kept, or set keep to {other}"
