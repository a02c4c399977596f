"""How much each training sample gives to the others: which are influential whatever is asked.

Some training images are among the ancestors of everything (Xie et al., arXiv 2401.09031, call them generally
influential). Without any query of its own, a run tells of them by its training images: R references, chosen by key,
are taken as queries straight from the store, and each sample's scores for them are averaged. What a sample gives to
itself is left out, since it says how hard the sample is to learn and not what it does to others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forebear.estimators import Estimator, estimator
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.evaluation.isolation import training_blocks

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Given:
    """What N samples give to the references."""

    size: Floats
    """float64[N]: the mean of |score| over the references other than the sample itself."""
    share: Floats
    """float64[N]: the mean over references of the sample's share of their positive influence; adds up to 1, or less
    where a reference has no proponent."""


def given(evaluated: EvaluatedRun, name: str, references: Places, ridge: float | None = None) -> Given:
    """By one estimator, to the samples at the places int64[R], rising; block by block.

    Raises what Sides.check raises.
    """
    method = estimator(name)
    queries = _queries(evaluated, method, references, ridge)  # [R, D]
    count = len(evaluated.store)
    size, share, totals = np.zeros(count), np.zeros(count), np.zeros(len(references))
    for rows, _, phi in training_blocks(evaluated, method):
        scores = _scores(rows, phi, queries, references)
        others = len(references) - np.isin(rows, references)
        size[rows] = np.abs(scores).sum(1) / np.maximum(others, 1)
        totals += np.maximum(scores, 0.0).sum(0)
    totals[totals <= 0] = 1.0  # of a reference without proponents nobody has a share
    for rows, _, phi in training_blocks(evaluated, method):
        share[rows] = (np.maximum(_scores(rows, phi, queries, references), 0.0) / totals).mean(1)
    return Given(size, share)


def _queries(evaluated: EvaluatedRun, method: Estimator, references: Places, ridge: float | None) -> Floats:
    """psi of the references: float64[R, D]."""
    sides = evaluated.sides
    sides.check(method)
    curvatures, weights = sides.curvatures(method, build=True), sides.weights(method)
    found = []
    for rows, pieces, _ in training_blocks(evaluated, method):
        here = np.isin(rows, references)
        if here.any():
            psi = method.query_rows([piece[here] for piece in pieces], weights, curvatures, ridge)
            found.append(np.concatenate(psi, axis=1).astype(np.float64))
    return np.concatenate(found)


def _scores(rows: Places, phi: NDArray[np.float32], queries: Floats, references: Places) -> Floats:
    """float64[B, R], what a sample gives to itself being 0."""
    scores: Floats = phi @ queries.T
    scores[rows[:, None] == references] = 0.0
    return scores
