"""Which timesteps and which noise: functions of keys, never of batch, order or worker."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.randomness import keyed_normal

SHARED = "shared"
"""The sample name under which train and query sides draw the same noise (common random numbers)."""


def stratified_timesteps(count: int, total: int, low: int = 0, high: int | None = None) -> NDArray[np.int64]:
    """Midpoints of `count` equal strata of the timesteps low .. high - 1: int64[count], ascending."""
    high = total if high is None else high
    edges = low + (np.arange(count) + 0.5) * (high - low) / count
    return np.minimum(edges.astype(np.int64), high - 1)


def paper_timesteps(count: int, total: int) -> NDArray[np.int64]:
    """The query timesteps of Diffusion-TracIn: int(linspace(1, total - 1, count)) (METHODS.md section 1.1)."""
    return np.linspace(1, total - 1, count).astype(np.int64)


def trailing_timesteps(steps: int, total: int) -> NDArray[np.int64]:
    """`steps` timesteps from total - 1 down, evenly spaced ("trailing"): int64[steps], strictly descending."""
    return np.rint(total * np.arange(steps, 0, -1) / steps).astype(np.int64) - 1


def draw_noise(
    shape: tuple[int, ...], seed: int, owners: Sequence[str], timesteps: Sequence[int], draws: Sequence[int]
) -> Tensor:
    """Standard normal noise float32[R, *shape]; row r is keyed by (seed, owners[r], timesteps[r], draws[r]).

    An owner is a sample id, or SHARED for noise that is the same for every picture at that timestep and draw.
    """
    rows = [
        keyed_normal(shape, "noise", seed, owner, int(timestep), int(draw))
        for owner, timestep, draw in zip(owners, timesteps, draws, strict=True)
    ]
    return torch.from_numpy(np.stack(rows))
