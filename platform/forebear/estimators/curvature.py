"""Ridge curvature: the second moment of the training vectors, regularised and inverted on the query's side.

    psi' = (Phi' Phi / N + lambda trace / k I)^-1 psi,      trace that of Phi' Phi / N

lambda is relative to the mean eigenvalue, so that it means the same for every measurement, model and checkpoint. TRAK
(Park et al., arXiv 2303.14186) and its kin put the inverse between the two sides; applied to the query, the training
vectors and their index stay what they are.

What of psi' lies outside the span of the training vectors meets none of them, but it is the largest part of psi' when
they are fewer than their numbers, and it meets their rounding errors in an index of half precision. For an index it is
taken out: psi' is multiplied by M (M + delta trace / k I)^-1 with M = Phi' Phi / N, the span's projector as delta -> 0.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.errors import ConfigError
from forebear.estimators.vectors import Blocks


def second_moment(blocks: Blocks, dim: int) -> NDArray[np.float64]:
    """Phi' Phi / N of rows float32[N, k], block by block in float64: float64[k, k]."""
    total, count = np.zeros((dim, dim)), 0
    for _, rows in blocks:
        exact = rows.astype(np.float64)
        total += exact.T @ exact
        count += len(rows)
    if count == 0:
        raise ConfigError("a curvature needs at least one training vector; embed the training images first")
    return total / count


SPAN = 1e-8
"""delta."""


class Curvature:
    """The second moment of one checkpoint's training vectors. The factors of the last lambda and of delta are kept."""

    def __init__(self, moment: NDArray[np.float64]) -> None:
        self.moment = moment
        self._factors: dict[float, Tensor] = {}

    def solve(self, psi: NDArray[np.floating], ridge: float, *, in_span: bool = False) -> NDArray[np.float64]:
        """The rows psi[B, k] times the inverse, and where `in_span` times the projector: float64[B, k].

        Raises ConfigError when `ridge` (lambda) is not positive and finite, or when the training vectors are all zero.
        """
        exact = torch.from_numpy(np.asarray(psi, np.float64).T.copy())  # [k, B]
        found: NDArray[np.float64] = torch.cholesky_solve(exact, self._factored(ridge)).numpy()
        if in_span:
            found = self.moment @ torch.cholesky_solve(torch.from_numpy(found), self._factored(SPAN)).numpy()
        return found.T

    def _factored(self, ridge: float) -> Tensor:
        if ridge not in self._factors:
            made = self._factorise(ridge)
            self._factors = {known: factor for known, factor in self._factors.items() if SPAN in (known, ridge)}
            self._factors[ridge] = made
        return self._factors[ridge]

    def _factorise(self, ridge: float) -> Tensor:
        if not (math.isfinite(ridge) and ridge > 0):
            raise ConfigError(f"ridge is {ridge}; give a positive number, relative to the mean eigenvalue (1e-2)")
        matrix = torch.from_numpy(np.array(self.moment))  # a copy: [k, k]
        mean = float(matrix.diagonal().mean())
        if not mean > 0:
            raise ConfigError("the training vectors are all zero at a checkpoint; choose an estimator without a ridge")
        matrix.diagonal().add_(ridge * mean)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            raise ConfigError(f"the curvature cannot be inverted with ridge {ridge}; give a larger one")
        return factor
