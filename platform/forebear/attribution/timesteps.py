"""What each timestep of a query contributes to its scores.

A query is measured at each of its T timesteps apart, at the cost of measuring them together, and put together here.
With

    full     the scores of the query
    loo_t    its scores without timestep t

the contribution of t is the jackknife's pseudo-value, S_t = full + (T - 1) (mean of loo - loo_t). The mean of S_t over
t is `full`. For estimators that are linear in the query (all but `cosine`) S_t is the score of timestep t by itself;
for `cosine`, whose vectors are scaled to norm 1 after the mean, it is that score to first order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.query import EmbeddedQuery
from forebear.gradients.columns import VectorColumn
from forebear.gradients.embedding import Embeddings


def joined(steps: Embeddings) -> Embeddings:
    """One picture measured at T timesteps, from T rows with one timestep each, as Embedder.embed would give it."""
    count = len(steps.losses)
    vectors = {name: _mean(rows.sum(0, dtype=np.float64), count, name, count) for name, rows in steps.vectors.items()}
    return Embeddings(vectors, steps.norms.T.copy(), steps.losses.T.copy())


def without_each(query: EmbeddedQuery) -> list[EmbeddedQuery]:
    """The query without timestep t, for each of its T >= 2 timesteps, on the scale of the whole query."""
    sums = [
        {name: rows.sum(0, dtype=np.float64) for name, rows in checkpoint.vectors.items()} for checkpoint in query.steps
    ]
    count = len(query.record.timesteps)
    return [
        replace(
            query,
            embeddings=tuple(
                _without(steps, total, place, count) for steps, total in zip(query.steps, sums, strict=True)
            ),
        )
        for place in range(count)
    ]


def contributions(
    query: EmbeddedQuery,
    full: NDArray[np.float32],
    score: Callable[[Sequence[EmbeddedQuery]], NDArray[np.float32]],
) -> NDArray[np.float64] | None:
    """S_t of scores float32[N], float64[T, N]; `score` gives the scores [Q, N] of Q queries.

    None when there are fewer than two timesteps, or they were not measured apart.
    """
    count = len(query.record.timesteps)
    if count < 2 or not query.steps:
        return None
    without = score(without_each(query)).astype(np.float64)  # [T, N]
    found: NDArray[np.float64] = full.astype(np.float64) + (count - 1) * (without.mean(0) - without)
    return found


def _without(steps: Embeddings, total: dict[VectorColumn, NDArray[np.float64]], place: int, count: int) -> Embeddings:
    vectors = {
        name: _mean(total[name] - rows[place].astype(np.float64), count - 1, name, count)
        for name, rows in steps.vectors.items()
    }
    kept = np.arange(count) != place
    return Embeddings(vectors, steps.norms.T[:, kept], steps.losses.T[:, kept])


def _mean(total: NDArray[np.float64], terms: int, name: VectorColumn, count: int) -> NDArray[np.float32]:
    """A sum over `terms` timesteps as the column of a query with `count`: float32[1, k]."""
    scale = (
        count**0.5 if name == "unit_matched" else 1.0
    )  # its inner products are means when both sides have 1 / sqrt(T)
    return (total * (scale / terms)).astype(np.float32)[None]
