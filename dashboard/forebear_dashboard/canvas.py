"""How an image lies on the model's canvas before a picture is made around it: what the services do, beforehand."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from forebear.masks import framed_weights

GREY = (128, 128, 128)
"""Where nothing is kept: the model draws there as it likes."""
POSITIONS = 8
"""Places are offered in eighths of the canvas: whole positions of every model that has at least as many."""


@dataclass(frozen=True)
class Laid:
    """An image on its canvas."""

    canvas: Image.Image
    """RGB, grey where nothing is kept."""
    kept: Image.Image
    """Grey picture of the same size, white where the image is kept."""

    @property
    def part(self) -> float:
        """Of the canvas that is kept, 0 to 1."""
        return float(np.asarray(self.kept, np.float32).mean() / 255.0)


def step_of(canvas: int) -> int:
    """Pixels from one place to the next."""
    return max(1, canvas // POSITIONS)


def laid(image: Image.Image, mask: Image.Image | None, place: tuple[int, int, int], canvas: int) -> Laid:
    """An image cropped to its centred square, `place` being its side in pixels, and how far it is from left and top."""
    size, left, top = place
    fitted = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    levels = np.asarray((mask or Image.new("L", image.size, 255)).convert("L"), np.float32) / 255.0
    held = Image.fromarray(np.where(framed_weights(levels, size) >= 0.5, 255, 0).astype(np.uint8))
    ground, kept = Image.new("RGB", (canvas, canvas), GREY), Image.new("L", (canvas, canvas))
    ground.paste(fitted, (left, top), held)
    kept.paste(held, (left, top))
    return Laid(ground, kept)


def laid_by_request(request: Mapping[str, Any] | None, canvas: int) -> Laid | None:
    """What a picture was made around, from the request that made it; None when it was made from noise."""
    asked = (request or {}).get("cow")
    if not asked:
        return None
    settings = asked.get("settings", {})
    place = settings.get("placement", {})
    named = {"half": canvas // 2, "canvas": canvas}
    size = int(named.get(place.get("size", "half"), place.get("size", 0)))
    left = place.get("x")
    if left is None:
        left = (canvas - size) // 2 // step_of(canvas) * step_of(canvas)
    mask = None if asked.get("mask") is None else _decoded(asked["mask"]).convert("L")
    if mask is not None and settings.get("keep") == "black":
        mask = ImageOps.invert(mask)
    return laid(_decoded(asked["image"]), mask, (size, int(left), int(place.get("y", 0))), canvas)


def _decoded(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))
