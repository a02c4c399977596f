"""How alike two pictures and two sets of pictures are. Pure functions of arrays."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Floats = NDArray[np.float64]

PIXEL_RANGE = 2.0
"""Pixels are in [-1, 1]."""
PSNR_CEILING = 100.0
"""dB, in place of infinity where two pictures are the same, so that medians and intervals stay numbers."""
WINDOW, WINDOW_SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03
"""Of SSIM."""


def psnr(wanted: Tensor, found: Tensor) -> Floats:
    """Peak signal-to-noise ratio of each of B pictures, dB, at most PSNR_CEILING: float64[B]; both [B, C, H, W]."""
    error = (found.double() - wanted.double()).square().flatten(1).mean(1)
    ratio = 10.0 * torch.log10(PIXEL_RANGE**2 / error)
    return np.asarray(ratio.clamp(max=PSNR_CEILING).numpy())


def ssim(wanted: Tensor, found: Tensor) -> Floats:
    """Structural similarity of each of B pictures: float64[B]; both [B, C, H, W] in [-1, 1].

    Wang et al. 2004, equation 13, in Gaussian windows of 11 x 11 pixels with sigma 1.5 (of smaller pictures: the
    largest odd side that fits), the mean over windows that lie inside the picture, and over channels.
    """
    return np.asarray(similarity_map(wanted, found).flatten(1).mean(1).numpy())


def window_side(height: int, width: int) -> int:
    """Of the windows of `ssim` for pictures of a size."""
    side = min(WINDOW, height, width)
    return side - 1 + side % 2


def similarity_map(wanted: Tensor, found: Tensor) -> Tensor:
    """The structural similarity of every window of `ssim`, float64[B, C, H - side + 1, W - side + 1]."""
    side = window_side(*wanted.shape[2:])
    places = torch.arange(side, dtype=torch.float64) - side // 2
    line = torch.exp(-places.square() / (2.0 * WINDOW_SIGMA**2))
    line = line / line.sum()

    def weighted(x: Tensor) -> Tensor:
        channels = x.flatten(0, 1)[:, None]  # [B C, 1, H, W]
        return F.conv2d(F.conv2d(channels, line.view(1, 1, -1, 1)), line.view(1, 1, 1, -1))

    x, y = wanted.double(), found.double()
    mean_x, mean_y = weighted(x), weighted(y)
    variance_x = weighted(x * x) - mean_x.square()
    variance_y = weighted(y * y) - mean_y.square()
    covariance = weighted(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PIXEL_RANGE) ** 2, (K2 * PIXEL_RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x.square() + mean_y.square() + c1) * (variance_x + variance_y + c2)
    return similarity.view(*wanted.shape[:2], *similarity.shape[2:])


def frechet_distance(first: Floats, second: Floats) -> float:
    """Squared Fréchet distance of the Gaussians of two sets of vectors, float64[n, d] and [m, d].

    ||mu_1 - mu_2||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Heusel et al. 2017, equation 6), covariances over n - 1. The
    last trace is that of the root of the symmetric S_1^(1/2) S_2 S_1^(1/2), which has the same eigenvalues.
    """
    covariances = [np.atleast_2d(np.cov(each, rowvar=False)) for each in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0.0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(0.0)).sum()
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    return float(max(0.0, apart + sum(np.trace(each) for each in covariances) - 2.0 * shared))
