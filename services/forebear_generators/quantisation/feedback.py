"""Rounding by error feedback: each column's error is made up for by the columns not yet rounded (arXiv 2210.17323)."""

import torch
from torch import Tensor

from forebear_generators.quantisation.grids import Levels, decode, encode

DAMPINGS = (1e-1, 3e-2, 1e-2, 3e-3)
"""Added to the diagonal of X'X, times its mean; less keeps outputs better until codes run out of range (GPTQ: 0.01)."""
COLUMNS = 64
"""Whose errors are taken from the columns after them together, by one product."""
FIT = 1e-6
"""The same, where weights are first fitted to the outputs behind rounded inputs."""


def fitted(weight: Tensor, inputs: Tensor, wanted: Tensor) -> Tensor:
    """The weights nearest to `weight`, float[out, D], that map inputs [R, D] to wanted outputs [R, out].

    Inputs that were rounded themselves no longer give the wanted outputs; with fewer rows than columns, as a sampler's
    few timesteps are, other weights nearly do: W + E' (X X' + lambda I)^-1 X with E = Y - X W' (ridge regression).
    """
    x = inputs.double()
    gram = x @ x.T
    gram.diagonal().add_(FIT * float(gram.diagonal().mean()) + 1e-12)
    missing = wanted.double() - x @ weight.double().T  # [R, out]
    change = torch.linalg.solve(gram, missing).T @ x  # [out, D]
    nearest: Tensor = weight.double() + change
    return nearest.float()


def best_feedback_codes(weight: Tensor, inputs: Tensor, scale: Tensor, zero: Tensor, codes: Levels) -> Tensor:
    """`feedback_codes` with, for each row of weights, the one of DAMPINGS that keeps its outputs best."""
    aim = inputs @ weight.T
    best = torch.full((len(weight),), torch.inf)
    chosen = torch.empty(0)
    for damping in DAMPINGS:
        found = feedback_codes(weight, inputs, scale, zero, codes, damping)
        error = (inputs @ decode(found, scale[:, None], zero[:, None]).T - aim).square().sum(0)
        chosen = torch.where((error < best)[:, None], found, chosen if len(chosen) else found)
        best = torch.minimum(best, error)
    return chosen


def feedback_codes(
    weight: Tensor, inputs: Tensor, scale: Tensor, zero: Tensor, codes: Levels, damping: float = 1e-2
) -> Tensor:
    """Codes int16[out, D] of weights float[out, D] that keep their outputs on inputs float[R, D], as below."""
    x = inputs.double()
    return codes_by_gram(weight.double(), x.T @ x, scale, zero, codes, damping)


def codes_by_gram(
    weight: Tensor, gram: Tensor, scale: Tensor, zero: Tensor, codes: Levels, damping: float = 1e-2
) -> Tensor:
    """Codes int16[out, D] of weights float64[out, D] that keep their outputs on inputs of gram X'X, float64[D, D].

    Columns are rounded in the order of their inputs' energy, each to the nearest code; its error, weighted by the
    inverse of X'X + lambda I, is taken from the columns left (GPTQ, arXiv 2210.17323, equations 2 and 3): of its own
    COLUMNS at once, of all others when these are done.
    """
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    gram = gram[order][:, order]
    gram.diagonal().add_(damping * float(gram.diagonal().mean()) + 1e-12)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    upper = torch.linalg.cholesky(inverse, upper=True)
    left, wide = weight[:, order], scale.double()
    found = torch.empty_like(left)
    for first in range(0, left.shape[1], COLUMNS):
        end = min(first + COLUMNS, left.shape[1])
        errors = torch.zeros(len(left), end - first, dtype=left.dtype)
        for column in range(first, end):
            found[:, column] = encode(left[:, column], wide, zero, codes)
            error = (left[:, column] - decode(found[:, column], wide, zero)) / upper[column, column]
            left[:, column + 1 : end] -= error[:, None] * upper[column, column + 1 : end]
            errors[:, column - first] = error
        left[:, end:] -= errors @ upper[first:end, end:]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return found[:, back].to(torch.int16)
