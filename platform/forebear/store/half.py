"""Vectors in half precision: float16 numbers in [-1, 1] and one float32 scale per row.

float16 alone overflows at 65504 and loses what is below 6e-8, and gradients span more than that. With the row's largest
magnitude as its scale every stored number is in [-1, 1] and every row keeps the full precision of float16, whatever
its norm. The casts are torch's: the same bits as NumPy's, several times faster.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

HALF = np.dtype("<f2")
"""Little-endian on every machine."""


def to_half(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Split finite float32[N, k] into float16[N, k] in [-1, 1] and scales float32[N].

    The scale is the row's largest magnitude (1 for a row of zeros). Each number v of a row with scale s comes back with
    an error of at most |v| / 2**11 + s / 2**25, plus float32 rounding.
    """
    import torch  # here and below, so that those who read no vectors need none

    largest = np.maximum(vectors.max(axis=1), -vectors.min(axis=1))  # [N], without a temporary of [N, k]
    scales = np.where(largest > 0, largest, np.float32(1)).astype(np.float32)
    halves = _tensor(vectors).div(torch.from_numpy(scales)[:, None]).half()  # [N, k]
    return halves.numpy().astype(HALF, copy=False), scales


def from_half(halves: NDArray[np.float16], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """float16[N, k] times scales float32[N], as float32[N, k]."""
    vectors: NDArray[np.float32] = widen(halves).mul_(_tensor(scales)[:, None]).numpy()
    return vectors


def widen(halves: NDArray[np.float16]) -> "Tensor":
    """float16[N, k] as a new float32 tensor [N, k], not yet scaled."""
    return _tensor(halves).float()


def _tensor(array: NDArray[np.float16] | NDArray[np.float32]) -> "Tensor":
    """The array as a tensor, copied only where torch cannot share its memory: read-only maps, strides, byte order."""
    import torch

    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())
