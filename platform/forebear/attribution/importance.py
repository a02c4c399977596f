"""Few timesteps for a query, placed where training gradients are long: cheap queries of the TracIn kind.

A mean over all timesteps is dominated by those with long gradients. n timesteps drawn with density p and weighted by
1 / (n p) have the same mean, and the least variance when p is proportional to the gradients' norms. The store knows the
training side's norms, which stand for the query's. The draw is a quadrature rather than chance: the midpoints of n
strata of equal mass.
"""

import numpy as np
from numpy.typing import NDArray

from forebear.store import Store

UNIFORM_SHARE = 0.1
"""Part of the density that is uniform, so that no weight exceeds 1 / UNIFORM_SHARE times the mean."""
STRATA = 16
"""Of the timesteps of a store whose samples have their own."""


def norm_density(store: Store, total: int) -> NDArray[np.float64]:
    """p float64[total], sum 1: mean gradient norms by timestep over samples and checkpoints, the latter times w_c."""
    names = store.plan.checkpoint_names
    timesteps = np.concatenate([store.timesteps(name) for name in names]).astype(np.int64)  # [C * N, T]
    norms = np.concatenate([store.manifest.weights[name] * store.norms(name).astype(np.float64) for name in names])
    shared = bool((timesteps == timesteps[0]).all())
    keys, places = np.unique(timesteps if shared else timesteps * STRATA // total, return_inverse=True)
    means = np.bincount(places.ravel(), norms.ravel()) / np.bincount(places.ravel())  # [S]
    centres = keys if shared else (keys + 0.5) * total / STRATA
    density = np.interp(np.arange(total), centres, means)  # [total]
    density = density / density.sum() if density.sum() > 0 else np.full(total, 1.0 / total)
    return (1.0 - UNIFORM_SHARE) * density + UNIFORM_SHARE / total


def importance_timesteps(density: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most `count` timesteps by p float64[total], and their weights 1 / (count total p): int64 and float64[n].

    Timesteps rise. One on which several midpoints fall has the sum of their weights.
    """
    chosen = np.searchsorted(np.cumsum(density), (np.arange(count) + 0.5) / count)  # [count]
    timesteps, times = np.unique(np.minimum(chosen, len(density) - 1), return_counts=True)
    return timesteps.astype(np.int64), times / (count * len(density) * density[timesteps])
