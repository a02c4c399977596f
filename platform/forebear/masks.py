"""Weights over a picture: checked, and framed as the picture itself is."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from forebear.errors import ConfigError


def checked_weights(weights: NDArray[np.generic]) -> NDArray[np.float32]:
    """An array as weights float32[height, width] in [0, 1]; raises ConfigError when it is not."""
    if weights.ndim != 2 or not weights.size or weights.dtype.kind not in "fb":
        raise ConfigError(
            "a mask array must be float[height, width] with weights in [0, 1], got "
            f"{weights.dtype}{list(weights.shape)}"
        )
    values = weights.astype(np.float32)
    if not (values.min() >= 0 and values.max() <= 1):  # written so that NaN fails too
        raise ConfigError("a mask array must hold weights in [0, 1]; divide 8-bit levels by 255")
    return values


def framed_weights(weights: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Cropped to the centred square and averaged to its pixels: float32[size, size]."""
    if weights.shape == (size, size):
        return weights
    fitted = ImageOps.fit(Image.fromarray(weights), (size, size), Image.Resampling.BOX)
    return np.clip(np.asarray(fitted, np.float32), 0.0, 1.0)
