"""A part of the query picture: from what the user marks to a mask on the square that the model sees."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from forebear.attribution.answer import RegionRecord
from forebear.attribution.query import Picture, picture_of
from forebear.errors import ConfigError
from forebear.images import data_uri, on_white
from forebear.masks import checked_weights, framed_weights

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the picture as it is given; right and bottom are the first outside."""
Mask = NDArray[np.floating] | NDArray[np.bool_] | Path | str | Box
"""Weights float[h, w] in [0, 1], the path of a picture that is white in the region, or a box."""

GREY = 0.55
"""Level of what is laid over the rest of the picture, 0 to 1."""
VEIL = 0.72
"""How much of it is laid over."""
OUTLINE = (230, 73, 0)


@dataclass(frozen=True)
class Region:
    """A region of one query picture."""

    mask: NDArray[np.float32]
    """float32[S, S] in [0, 1], over the square that the model sees."""
    record: RegionRecord


def region_of(mask: Mask, image: Picture, size: int) -> Region:
    """The region of a query picture for a model of `size` pixels along a side; cropped and resized as the picture is.

    Arrays and mask pictures have the size of the query picture, or of the model. Raises ConfigError when they have
    another, when weights are not in [0, 1], when a box is not inside the picture, and when nothing of the region is in
    the square that the model sees; DataError when the path is not of a picture.
    """
    width, height = picture_of(image).size
    box = _box(mask, width, height)
    if box is not None:
        weights = np.zeros((height, width), np.float32)
        weights[box[1] : box[3], box[0] : box[2]] = 1.0
        label = f"box {','.join(map(str, box))}"
    elif isinstance(mask, str | Path):
        weights = np.asarray(picture_of(mask).convert("L"), np.float32) / 255.0
        label = Path(mask).name
    else:
        weights, label = checked_weights(np.asarray(mask)), "mask"
    if weights.shape not in {(height, width), (size, size)}:
        raise ConfigError(
            f"the mask is {weights.shape[1]} x {weights.shape[0]} pixels; make it {width} x {height}, like the "
            f"picture, or {size} x {size}, like the model's"
        )
    framed = framed_weights(weights, size)
    if not framed.any():
        raise ConfigError(
            f"the region ({label}) is empty in the centred square that the model sees; mark a part of that"
        )
    return Region(framed, RegionRecord(label, float(framed.mean()), box, _address(framed)))


def marked(picture: Image.Image, record: RegionRecord, side: int) -> Image.Image:
    """The picture as the model frames it, `side` pixels along a side, with everything but the region veiled."""
    square = ImageOps.fit(on_white(picture), (side, side), Image.Resampling.BICUBIC)
    encoded = base64.b64decode(record.mask.partition(",")[2])
    small = Image.open(io.BytesIO(encoded)).convert("L")
    weights = np.asarray(small.resize((side, side), Image.Resampling.NEAREST), np.float64)[:, :, None] / 255.0
    levels = np.asarray(square, np.float64)
    veil = VEIL * (1.0 - weights)
    shown = levels * (1.0 - veil) + 255.0 * GREY * veil
    shown[_border(weights[:, :, 0] >= 0.5)] = OUTLINE
    return Image.fromarray(np.rint(shown).astype(np.uint8))


def parse_box(text: str) -> Box:
    """A box from `L,T,R,B`; raises ConfigError when it is not four whole numbers."""
    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{text!r} is no region; give left,top,right,bottom in pixels of the picture, such as 0,0,16,16"
        ) from None
    return left, top, right, bottom


def _box(mask: Mask, width: int, height: int) -> Box | None:
    """The mask when it is a box; raises ConfigError when it is not one inside the picture."""
    if not isinstance(mask, Sequence) or isinstance(mask, str):
        return None
    if len(mask) != 4 or not all(isinstance(side, int | np.integer) for side in mask):
        raise ConfigError(f"{mask!r} is no region; a box is four whole numbers: left, top, right, bottom in pixels")
    left, top, right, bottom = (int(side) for side in mask)
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ConfigError(
            f"the region {left},{top},{right},{bottom} is not inside the picture of {width} x {height} pixels, or is "
            "empty; give left,top,right,bottom with left < right and top < bottom"
        )
    return left, top, right, bottom


def _address(weights: NDArray[np.float32]) -> str:
    return data_uri(Image.fromarray(np.rint(weights * 255.0).astype(np.uint8)))


def _border(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The two outermost pixels of the region, bool[h, w]; none where it ends with the picture."""
    kept = inside.copy()
    for _ in range(2):
        around = np.pad(kept, 1, mode="edge")
        kept &= around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return inside & ~kept
