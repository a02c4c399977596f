"""How well projected gradients tell pictures apart, against whole gradients."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

NEAREST = 5
"""Neighbours of a picture that have to be found."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gram:
    """What is known of N gradients at one timestep."""

    inner: Array
    """[N, N]."""
    norms: Array
    """[N]: as they were reported; those of the vectors themselves unless something else was."""

    @classmethod
    def of(cls, vectors: Tensor, norms: Tensor | None = None) -> "Gram":
        """Of vectors float[N, k] and, where they are known otherwise, norms float[N]."""
        inner = (vectors @ vectors.T).double().cpu().numpy()
        return cls(inner, inner.diagonal() ** 0.5 if norms is None else norms.double().cpu().numpy())

    @property
    def cosines(self) -> Array:
        """Of the vectors themselves, as embeddings are compared; 0 with a vector of zeros."""
        return _over(self.inner, self.inner.diagonal() ** 0.5)

    @property
    def scaled(self) -> Array:
        """Inner products over the reported norms: other estimates of the same cosines."""
        return _over(self.inner, self.norms)


def _over(inner: Array, lengths: Array) -> Array:
    scale = np.outer(lengths, lengths)
    return np.divide(inner, scale, out=np.zeros_like(inner), where=scale > 0)


@dataclass(frozen=True)
class Agreement:
    """Over pairs of pictures at one timestep; of several, the mean."""

    inner_spearman: float
    inner_pearson: float
    cosine_spearman: float
    cosine_pearson: float
    cosine_error: float
    """Root mean square: pictures whose cosines differ by less than about three of it are not told apart."""
    scaled_spearman: float
    """Of inner products over reported norms, with the true cosines."""
    top: float
    """Share of each picture's NEAREST by cosine, or of as many as there are, that are among the true ones."""
    norm_error: float
    """Standard deviation of reported / true norm over pictures."""


def compare(found: Gram, true: Gram) -> Agreement:
    """Of the same pictures in the same order."""
    pairs = np.triu_indices(len(true.norms), 1)
    inner, true_inner = found.inner[pairs], true.inner[pairs]
    cosines, true_cosines = found.cosines[pairs], true.cosines[pairs]
    return Agreement(
        inner_spearman=spearman(inner, true_inner),
        inner_pearson=pearson(inner, true_inner),
        cosine_spearman=spearman(cosines, true_cosines),
        cosine_pearson=pearson(cosines, true_cosines),
        cosine_error=float(np.sqrt(np.mean((cosines - true_cosines) ** 2))),
        scaled_spearman=spearman(found.scaled[pairs], true_cosines),
        top=_top_overlap(found.cosines, true.cosines),
        norm_error=float(norm_ratios(found, true).std()),
    )


def norm_ratios(found: Gram, true: Gram) -> Array:
    """Reported / true norm of the pictures whose gradient is not zero."""
    known = true.norms > 0
    ratios: Array = found.norms[known] / true.norms[known]
    return ratios


def mean_of(several: Sequence[Agreement]) -> Agreement:
    return Agreement(**{field.name: fmean(getattr(one, field.name) for one in several) for field in fields(Agreement)})


def pearson(one: Array, other: Array) -> float:
    """Correlation of two [n]; not a number where all values of one are equal."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.corrcoef(one, other)[0, 1])


def spearman(one: Array, other: Array) -> float:
    """Rank correlation of two [n], ties at their mean rank; not a number where all values of one are equal."""
    return pearson(_ranks(one), _ranks(other))


def _ranks(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks


def _top_overlap(found: Array, true: Array) -> float:
    wanted = min(NEAREST, len(true) - 1)

    def nearest(cosines: Array) -> NDArray[np.int64]:
        others = cosines - 3 * np.eye(len(cosines))  # a picture is not its own neighbour
        return np.argsort(-others, axis=1)[:, :wanted]

    both = zip(nearest(found), nearest(true), strict=True)
    return fmean(len(set(one.tolist()) & set(other.tolist())) / wanted for one, other in both)
