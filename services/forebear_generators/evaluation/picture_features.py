"""What the Fréchet distance sees of a picture: random convolutions, the same on every machine and for every model.

The usual feature network has to be downloaded and knows photographs. The run's own denoiser is offline too, but it is
what was quantised, and distances under two models could not be compared. Random convolutions need nothing, and see what
quantisation does: shifts of colour, noise, lost edges. They know no objects.
"""

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from forebear.randomness import keyed_normal

WIDTHS = (32, 64, 128)
"""Channels after each 3 x 3 convolution, which ReLU and a mean over 2 x 2 pixels follow."""


def picture_features(pixels: Tensor, count: int) -> NDArray[np.float64]:
    """Features of B pictures, float32[B, C, H, W] to float64[B, count].

    Mean and standard deviation over the picture of its own channels and of those after every convolution, weighted
    together by fixed normal numbers.
    """
    x = pixels.double()
    found = [_moments(x)]
    for place, width in enumerate(WIDTHS):
        shape = width, x.shape[1], 3, 3
        weight = torch.from_numpy(keyed_normal(shape, "picture features", place)).double()
        x = F.relu(F.conv2d(x, weight * sqrt(2.0 / (9 * x.shape[1])), padding=1))
        if min(x.shape[2:]) > 1:
            x = F.avg_pool2d(x, 2)
        found.append(_moments(x))
    moments = torch.cat(found, 1).numpy()  # [B, 2 (C + sum of WIDTHS)]
    weights = keyed_normal((moments.shape[1], count), "picture features", "weights", count)
    return np.asarray(moments @ weights.astype(np.float64) / sqrt(moments.shape[1]))


def _moments(x: Tensor) -> Tensor:
    """float64[B, C, H, W] to [B, 2 C]."""
    flat = x.flatten(2)
    return torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)
