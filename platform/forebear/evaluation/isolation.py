"""How an estimator sees each training sample among the others: its score on itself, what the others give it, how near
the nearest are.

With score(j, i) that of sample j for sample i as a query, both from the store:

    self       score(i, i)                                       high for a sample that is learnt from itself alone
    support    mean over j != i of score(j, i)                   low for one that the others do not help to learn
    isolation  1 - the n-th highest cosine of i with j != i      high for one that has fewer than n of its kind

The cosine is that of the estimator's own inner product, score(j, i) / sqrt(score(i, i) score(j, j)), which gradients of
different lengths leave alike. n has to exceed the number of outliers that resemble each other, or they vouch for one
another (the reason for distances to an n-th neighbour: Ramaswamy et al., SIGMOD 2000). Support needs no n: by linearity
it is one inner product with the sum of all training vectors, whatever their number.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forebear.estimators import Estimator, estimator
from forebear.evaluation.evaluated_run import EvaluatedRun
from forebear.randomness import keyed_permutation

REFERENCES = 4096
"""Samples among which neighbours are sought: all, or so many chosen by key."""
TINY = 1e-30
"""A vector whose score on itself is below is taken for zero, and its cosines with it."""
PIECE_BYTES = 2**28
"""Of the query sides that are held at once while all pairs are compared."""

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def received(evaluated: EvaluatedRun, name: str, ridge: float | None = None) -> tuple[Floats, Floats]:
    """Each sample's score on itself, and the mean of all others' scores for it: float64[N] each.

    The query's side is formed from the stored row as it is from an embedded query (for `das` without the residual), at
    the store's own timesteps and noise. Raises what Sides.check raises.
    """
    method = estimator(name)
    totals = _totals(evaluated, method)
    own, every = np.zeros(len(evaluated.store)), np.zeros(len(evaluated.store))
    for block in sample_blocks(evaluated, method, ridge):
        own[block.rows] = block.own()
        every[block.rows] = block.psi @ totals
    support = (every - own) / max(1, len(own) - 1)
    if method.unit_rows and method.ridge is None and not method.residual:
        weight = sum(evaluated.sides.weights(method))
        own = np.where(own > 0, weight, 0.0)  # a cosine with itself: differences would be rounding alone
    return own, support


def isolation(evaluated: EvaluatedRun, name: str, share: float, ridge: float | None = None) -> Floats:
    """1 - the cosine of each sample with its n-th nearest, float64[N]; n is `share` of the references, rounded up.

    The residual of `das` is left out: it would make the inner product another one in each direction. Raises what
    Sides.check raises.
    """
    method = replace(estimator(name), residual=False)
    count, ids = len(evaluated.store), evaluated.store.ids()
    by_id = np.array(sorted(range(count), key=lambda row: ids[row]))
    chosen = np.sort(by_id[keyed_permutation(count, "isolation")[:REFERENCES]])  # [M], rising
    kept = [block.of(chosen) for block in sample_blocks(evaluated, method, ridge)]
    references = np.concatenate([phi for phi, _ in kept])  # [M, D]
    lengths = np.sqrt(np.maximum(np.concatenate([own for _, own in kept]), TINY))  # [M]
    found = np.zeros(count)
    for block in sample_blocks(evaluated, method, ridge):
        mine = np.sqrt(np.maximum(block.own(), TINY))
        cosines = block.psi.astype(np.float32) @ references.T / (mine[:, None] * lengths)  # [B, M]
        found[block.rows] = 1.0 - nth_highest(cosines, block.rows, chosen, share)
    return found


def nearest_by_cosine(evaluated: EvaluatedRun, name: str, ridge: float | None = None) -> tuple[Places, Floats]:
    """Each sample's nearest other one: its place int64[N], -1 where there is none, and the cosine float64[N].

    All pairs are compared, as many rows at once as PIECE_BYTES hold; `das` is taken as by `isolation`. Raises what
    Sides.check raises.
    """
    method = replace(estimator(name), residual=False)
    count = len(evaluated.store)
    lengths = np.zeros(count)
    for block in sample_blocks(evaluated, method, ridge):
        lengths[block.rows] = np.sqrt(np.maximum(block.own(), TINY))
    places, cosines = np.full(count, -1, np.int64), np.full(count, -np.inf)
    for rows, psi in _pieces(evaluated, method, ridge):
        best, found = np.full(len(rows), -1, np.int64), np.full(len(rows), -np.inf)
        for others, _, phi in training_blocks(evaluated, method):
            near = psi @ phi.T / (lengths[rows][:, None] * lengths[others])  # [P, B]
            near[rows[:, None] == others] = -np.inf
            top = near.argmax(1)
            value = near[np.arange(len(rows)), top]
            closer = value > found
            best[closer], found[closer] = others[top[closer]], value[closer]
        places[rows], cosines[rows] = best, found
    return places, np.where(places < 0, 0.0, cosines)


def nth_highest(cosines: Floats, rows: Places, references: Places, share: float) -> Floats:
    """The n-th highest of cosines float64[B, M] in each row, a sample's with itself left out: float64[B].

    `rows` int64[B] and `references` int64[M] are the samples' places in the store.
    """
    others = np.where(rows[:, None] == references, -np.inf, cosines)
    n = min(max(1, math.ceil(share * len(references))), max(1, len(references) - 1))
    found = np.partition(others, len(references) - n, axis=1)[:, len(references) - n]
    return np.where(np.isfinite(found), found, 0.0)  # a sample that is the only one has no neighbour


def _pieces(
    evaluated: EvaluatedRun, method: Estimator, ridge: float | None
) -> Iterator[tuple[Places, NDArray[np.float32]]]:
    """(places, psi float32[P, D]) of consecutive samples, as many as PIECE_BYTES hold and at least a block."""
    rows: list[Places] = []
    psi: list[NDArray[np.float32]] = []
    for block in sample_blocks(evaluated, method, ridge):
        if psi and sum(one.nbytes for one in psi) + psi[-1].nbytes > PIECE_BYTES:
            yield np.concatenate(rows), np.concatenate(psi)
            rows, psi = [], []
        rows.append(block.rows)
        psi.append(block.psi.astype(np.float32))
    if psi:
        yield np.concatenate(rows), np.concatenate(psi)


@dataclass(frozen=True)
class SampleBlock:
    """Both sides of B consecutive samples, checkpoints concatenated."""

    rows: Places
    """int64[B]: their places in the store."""
    phi: NDArray[np.float32]
    """float32[B, D], without the checkpoints' weights."""
    psi: Floats
    """float64[B, D], with them."""

    def own(self) -> Floats:
        """Scores on themselves, float64[B]."""
        found: Floats = np.einsum("bd,bd->b", self.psi, self.phi, dtype=np.float64)
        return found

    def of(self, chosen: Places) -> tuple[NDArray[np.float32], Floats]:
        """phi and the scores on themselves of the chosen samples."""
        here = np.isin(self.rows, chosen)
        return self.phi[here], self.own()[here]


def sample_blocks(evaluated: EvaluatedRun, method: Estimator, ridge: float | None) -> Iterator[SampleBlock]:
    sides = evaluated.sides
    sides.check(method)
    curvatures, weights = sides.curvatures(method, build=True), sides.weights(method)
    for rows, pieces, phi in training_blocks(evaluated, method):
        psi = method.query_rows(pieces, weights, curvatures, ridge)
        yield SampleBlock(rows, phi, np.concatenate(psi, axis=1))


def _totals(evaluated: EvaluatedRun, method: Estimator) -> Floats:
    """The sum of all training vectors: float64[D]."""
    evaluated.sides.check(method)
    total: Floats = np.zeros(evaluated.sides.dim(method))
    for _, _, phi in training_blocks(evaluated, method):
        total += phi.sum(0, dtype=np.float64)
    return total


def training_blocks(
    evaluated: EvaluatedRun, method: Estimator
) -> Iterator[tuple[Places, list[NDArray[np.float32]], NDArray[np.float32]]]:
    """(places, what is stored at each checkpoint [B, k], phi [B, D]) of consecutive samples."""
    residuals = evaluated.sides.residuals(method)
    for pieces in zip(*evaluated.sides.blocks(method), strict=True):
        first, count = pieces[0][0], len(pieces[0][1])
        part = slice(first, first + count)
        phi = [
            method.training_rows(rows, None if residuals is None else residuals[place][part])
            for place, (_, rows) in enumerate(pieces)
        ]
        yield np.arange(first, first + count), [rows for _, rows in pieces], np.concatenate(phi, axis=1)
