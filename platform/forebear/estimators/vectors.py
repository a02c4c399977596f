"""Rows of vectors: what an estimator reads, block by block, and how they are scaled."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from forebear.diffusion.measurement import Measurement
from forebear.gradients.columns import COLUMNS, VectorColumn

Baseline = Literal["pixels", "keyed", "features"]
"""Vectors that need no model: pictures as they are, keyed random numbers, features that the user brings."""
Column = VectorColumn | Baseline
Blocks = Iterable[tuple[int, NDArray[np.float32]]]
"""(first row, float32[B, k]) in order."""

BASELINES: tuple[Baseline, ...] = get_args(Baseline)
MEASUREMENTS: Mapping[Column, Measurement] = MappingProxyType(
    {column: measurement for measurement, columns in COLUMNS.items() for column in columns}
)
"""By column of the store, the measurement that fills it; baselines have none."""


Real = TypeVar("Real", np.float32, np.float64)


def unit(rows: NDArray[Real]) -> NDArray[Real]:
    """Rows [B, k] scaled to norm 1, in their own precision; a row of zeros stays.

    Norms are taken in float64, because the squares of small gradients are below the smallest float32.
    """
    norms = np.sqrt(np.einsum("bk,bk->b", rows, rows, dtype=np.float64))[:, None]  # [B, 1]
    scaled: NDArray[Real] = (rows / np.where(norms > 0, norms, 1.0)).astype(rows.dtype)
    return scaled


def residuals(losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """DAS's residual of N samples from their losses float32[N, T]: root of the mean loss, over its mean. float64[N]."""
    roots = np.sqrt(losses.mean(axis=1, dtype=np.float64))  # [N]
    shares: NDArray[np.float64] = roots / (roots.mean() or 1.0)
    return shares
