"""Conditions for tiny models: a picture with a mask, drawn from a key."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from forebear.images import to_picture
from forebear.randomness import keyed_uniform
from forebear_generators.cow.condition import CowCondition

Condition = Callable[..., CowCondition]


def picture(key: int, side: int) -> Image.Image:
    return to_picture((keyed_uniform((3, side, side), "cow picture", key) * 2 - 1).astype(np.float32))


def mask(side: int) -> Image.Image:
    """White but for the lower right quarter."""
    levels = np.full((side, side), 255, np.uint8)
    levels[side // 2 :, side // 2 :] = 0
    return Image.fromarray(levels)


@pytest.fixture(scope="session")
def condition() -> Condition:
    """Makes a condition: key of the picture, its side, and fields of CowCondition."""

    def make(key: int = 0, side: int = 8, **fields: object) -> CowCondition:
        values: dict[str, object] = {"mask": mask(side), "prompt": "a red heart", "seed": key}
        return CowCondition(picture(key, side), **(values | fields))  # type: ignore[arg-type]

    return make
