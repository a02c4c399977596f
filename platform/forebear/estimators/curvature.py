"""Ridge curvature: the second moment of the training vectors, regularised and inverted on the query's side.

    psi' = (Phi' Phi / N + lambda trace / k I)^-1 psi,      trace that of Phi' Phi / N

lambda is relative to the mean eigenvalue, so that it means the same for every measurement, model and checkpoint. TRAK
(Park et al., arXiv 2303.14186) and its kin put the inverse between the two sides; applied to the query, the training
vectors and their index stay what they are.

What of psi' lies outside the span of the training vectors meets none of them, but it is the largest part of psi' when
they are fewer than their numbers, and it meets their rounding errors in an index of half precision. For an index it is
taken out: psi' is multiplied by M (M + delta trace / k I)^-1 with M = Phi' Phi / N, the span's projector as delta -> 0.

With fewer samples than numbers the same is computed from the Gram matrix K = Phi Phi' / N, N x N, and Phi itself:

    (M + l I)^-1 psi                  = (psi - Phi' (K + l I)^-1 Phi psi / N) / l
    M (M + d I)^-1 (M + l I)^-1 psi   = Phi' (K + d I)^-1 (K + l I)^-1 Phi psi / N
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forebear.errors import ConfigError
from forebear.estimators.vectors import Blocks

if TYPE_CHECKING:
    from torch import Tensor


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


def gram(blocks: Callable[[], Blocks], count: int) -> NDArray[np.float64]:
    """Phi Phi' / N of `count` rows float32[N, k], two blocks at a time in float64: float64[N, N]."""
    found = np.empty((count, count))
    for first, rows in blocks():
        exact = rows.astype(np.float64)
        for other, columns in blocks():
            found[first : first + len(rows), other : other + len(columns)] = exact @ columns.astype(np.float64).T
    return found / count


SPAN = 1e-8
"""delta."""


class Curvature(ABC):
    """That of one checkpoint's training vectors. The factors of the last lambda and of delta are kept."""

    def __init__(self, matrix: NDArray[np.float64], dim: int) -> None:
        self.matrix = matrix
        self._dim = dim
        self._factors: dict[float, Tensor] = {}

    @abstractmethod
    def solve(self, psi: NDArray[np.floating], ridge: float, *, in_span: bool = False) -> NDArray[np.float64]:
        """The rows psi[B, k] times the inverse, and where `in_span` times the projector: float64[B, k].

        Raises ConfigError when `ridge` (lambda) is not positive and finite, or when the training vectors are all zero.
        """

    @property
    def mean_eigenvalue(self) -> float:
        """Of the second moment, whose trace is the Gram matrix's too."""
        return float(np.trace(self.matrix)) / self._dim

    def _divided(self, right: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
        """(matrix + ridge x mean eigenvalue x I)^-1 times the columns of `right`."""
        import torch  # here, so that those who read estimators' names need none

        if ridge not in self._factors:
            made = self._factorise(ridge)
            self._factors = {known: factor for known, factor in self._factors.items() if SPAN in (known, ridge)}
            self._factors[ridge] = made
        factor = self._factors[ridge]
        # As torch.cholesky_solve, which copies the factor at every call: ten times the time for one query.
        half = torch.linalg.solve_triangular(factor, torch.from_numpy(np.ascontiguousarray(right)), upper=False)
        found: NDArray[np.float64] = torch.linalg.solve_triangular(factor.mT, half, upper=True).numpy()
        return found

    def _factorise(self, ridge: float) -> "Tensor":
        import torch

        if not (math.isfinite(ridge) and ridge > 0):
            raise ConfigError(f"ridge is {ridge}; give a positive number, relative to the mean eigenvalue (1e-2)")
        mean = self.mean_eigenvalue
        if not mean > 0:
            raise ConfigError("the training vectors are all zero at a checkpoint; choose an estimator without a ridge")
        matrix = torch.from_numpy(np.array(self.matrix))  # a copy
        matrix.diagonal().add_(ridge * mean)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if int(failed):
            raise ConfigError(f"the curvature cannot be inverted with ridge {ridge}; give a larger one")
        return factor


class MomentCurvature(Curvature):
    """By the second moment float64[k, k]."""

    def __init__(self, moment: NDArray[np.float64]) -> None:
        super().__init__(moment, len(moment))

    def solve(self, psi: NDArray[np.floating], ridge: float, *, in_span: bool = False) -> NDArray[np.float64]:
        found = self._divided(np.asarray(psi, np.float64).T, ridge)  # [k, B]
        return (self.matrix @ self._divided(found, SPAN) if in_span else found).T


class GramCurvature(Curvature):
    """By the Gram matrix float64[N, N] and the rows float32[N, k] that `blocks` reads.

    They are read by the first query and kept, in float64: to widen them takes half of a query's time. With N < k they
    take no more memory than a second moment would.
    """

    def __init__(self, matrix: NDArray[np.float64], dim: int, blocks: Callable[[], Blocks]) -> None:
        super().__init__(matrix, dim)
        self._blocks = blocks

    @cached_property
    def _rows(self) -> list[tuple[int, NDArray[np.float64]]]:
        return [(first, rows.astype(np.float64)) for first, rows in self._blocks()]

    def solve(self, psi: NDArray[np.floating], ridge: float, *, in_span: bool = False) -> NDArray[np.float64]:
        exact = np.asarray(psi, np.float64)
        met = np.concatenate([rows @ exact.T for _, rows in self._rows]) / len(self.matrix)
        coefficients = self._divided(met, ridge)  # [N, B]
        if in_span:
            return self._combined(self._divided(coefficients, SPAN))
        rest: NDArray[np.float64] = (exact - self._combined(coefficients)) / (ridge * self.mean_eigenvalue)
        return rest

    def _combined(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of the rows times coefficients[N, B]: float64[B, k]."""
        total = np.zeros((coefficients.shape[1], self._dim))
        for first, rows in self._rows:
            total += coefficients[first : first + len(rows)].T @ rows
        return total
