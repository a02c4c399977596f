"""The best rows for a query, from all scores or from candidates, in an order that is the same every time."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from forebear.index.codes import Codes
from forebear.index.matrix import QUERY_TILE, HalfMatrix

SCORES_AT_ONCE = 2**26
"""Most scores that exact ranking holds in memory at a time (256 MiB)."""

Ranked = Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]
"""For each query its rows int64[k], best first, and their scores float32[k]."""


def best_rows(scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The rows of the `count` highest of scores float32[N], best first; equal scores go by rising row.

    Returns int64[min(count, N)]. Takes time linear in N.
    """
    if count < len(scores):
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        above = np.flatnonzero(scores > threshold)
        tied = np.flatnonzero(scores == threshold)[: count - len(above)]
        rows = np.concatenate([above, tied])
    else:
        rows = np.arange(len(scores))
    return rows[np.lexsort((rows, -scores[rows]))].astype(np.int64)


def rank(matrix: HalfMatrix, codes: Codes | None, queries: NDArray[np.float32], k: int, candidates: int) -> Ranked:
    """The k best rows of each of queries float32[Q, D], k <= N.

    With codes, only the exact scores of about `candidates` rows are computed, unless that is all of them.
    """
    if codes is None or candidates >= matrix.count:
        return _rank_all(matrix, queries, k)
    return _rank_candidates(matrix, codes, queries, k, candidates)


def _rank_all(matrix: HalfMatrix, queries: NDArray[np.float32], k: int) -> Ranked:
    step = max(QUERY_TILE, SCORES_AT_ONCE // matrix.count)
    for first in range(0, len(queries), step):
        for scores in matrix.scores(queries[first : first + step]):
            best = best_rows(scores, k)
            yield best, scores[best]


def _rank_candidates(matrix: HalfMatrix, codes: Codes, queries: NDArray[np.float32], k: int, candidates: int) -> Ranked:
    for query, found in zip(queries, codes.candidates(queries, candidates), strict=True):
        rows = np.unique(found[found >= 0])  # rising, so that equal scores go by row
        if len(rows) < k:  # FAISS gave up early; the answer must not be short
            rows = np.arange(matrix.count)
        scores = matrix.scores_of(query, rows)
        best = best_rows(scores, k)
        yield rows[best], scores[best]
