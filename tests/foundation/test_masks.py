"""Weights over pictures."""

import numpy as np
import pytest
from PIL import Image

from forebear.errors import ConfigError
from forebear.images import to_pixels
from forebear.masks import checked_weights, framed_weights


def test_weights_are_framed_as_the_picture_is() -> None:
    """A white square on black and the mask of it, 12 x 8, meet again after both are framed to 4 x 4."""
    mask = np.zeros((8, 12), np.float32)
    mask[2:6, 4:8] = 1.0
    framed = framed_weights(mask, 4)
    picture = to_pixels(Image.fromarray((mask * 255).astype(np.uint8)), 4, 1)[0]
    assert framed.shape == (4, 4)
    assert np.array_equal(framed, [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    assert np.corrcoef(framed.ravel(), picture.ravel())[0, 1] > 0.95
    assert framed_weights(framed, 4) is framed


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2, 1), np.float32), np.zeros((0, 3), np.float32), np.zeros((2, 2), np.uint8)]
)
def test_other_shapes_and_kinds_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="must be float"):
        checked_weights(wrong)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan, 255.0])
def test_other_numbers_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="divide 8-bit levels by 255"):
        checked_weights(np.full((2, 2), value, np.float32))
