"""The best rows for a query, from all scores or from candidates, in an order that is the same every time."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forebear.index.matrix import QUERY_TILE, HalfMatrix

SCORES_AT_ONCE = 2**26
"""Most scores that exact ranking holds in memory at a time (256 MiB)."""
GATHERED_SHARE = 1 / 4
"""Of an exact index: below this share of allowed rows they are fetched one by one, above it all rows are read."""
SCANNED_SHARE = 1 / 32
"""Of an approximate index: a scan of N codes takes as long as exact scores of about N * this many rows."""
WIDEST = 1 / 4
"""Share of N beyond which no more candidates are asked for: the allowed rows are then scored one and all."""

SORTED_WHOLE = 2**12
"""Most scores that are sorted one and all: finding the best ones first takes longer."""

Ranked = tuple[NDArray[np.int64], NDArray[np.float32]]
"""A query's rows int64[k], best first, and their scores float32[k]."""


class Proposer(Protocol):
    """Whatever finds rows that are worth an exact score: codes, or exact search on a GPU."""

    def candidates(self, queries: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """int64[Q, count]: rows that seem best for queries float32[Q, D], in any order; -1 where there are fewer."""


def best_rows(scores: NDArray[np.float32] | NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The rows of the `count` highest of scores [N], best first; equal scores go by rising row.

    Returns int64[min(count, N)]. Takes time linear in N.
    """
    if count >= len(scores) or len(scores) <= SORTED_WHOLE:
        return np.argsort(-scores, kind="stable")[:count]
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > threshold)
    tied = np.flatnonzero(scores == threshold)[: count - len(above)]
    rows = np.concatenate([above, tied])
    return rows[np.argsort(-scores[rows], kind="stable")]  # equal ones are in the order of rows already


def rank(
    matrix: HalfMatrix,
    proposer: Proposer | None,
    queries: NDArray[np.float32],
    k: int,
    candidates: int,
    allowed: NDArray[np.int64] | None = None,
) -> Iterator[Ranked]:
    """The k best rows of each of queries float32[Q, D], of `allowed` (rising) or of all; k is at most their number.

    With a proposer, only the exact scores of about `candidates` rows are computed, unless all cost no more.
    """
    count = matrix.count if allowed is None else len(allowed)
    if proposer is None:
        if allowed is not None and count < GATHERED_SHARE * matrix.count:
            return _rank_rows(matrix, queries, k, allowed)
        return _rank_all(matrix, queries, k, allowed)
    if allowed is None:
        if candidates >= matrix.count:
            return _rank_all(matrix, queries, k, None)
        return _rank_candidates(matrix, proposer, queries, k, candidates)
    if count <= candidates + SCANNED_SHARE * matrix.count:
        return _rank_rows(matrix, queries, k, allowed)
    return _rank_allowed_candidates(matrix, proposer, queries, k, candidates, allowed)


def _rank_all(
    matrix: HalfMatrix, queries: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None
) -> Iterator[Ranked]:
    step = max(QUERY_TILE, SCORES_AT_ONCE // matrix.count)
    for first in range(0, len(queries), step):
        for scores in matrix.scores(queries[first : first + step]):
            best = best_rows(scores, k) if allowed is None else allowed[best_rows(scores[allowed], k)]
            yield best, scores[best]


def _rank_rows(matrix: HalfMatrix, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Iterator[Ranked]:
    for first in range(0, len(queries), QUERY_TILE):
        for scores in matrix.scores_of(queries[first : first + QUERY_TILE], rows):
            best = best_rows(scores, k)
            yield rows[best], scores[best]


def _rank_candidates(
    matrix: HalfMatrix, proposer: Proposer, queries: NDArray[np.float32], k: int, candidates: int
) -> Iterator[Ranked]:
    for query, found in zip(queries, proposer.candidates(queries, candidates), strict=True):
        rows = np.sort(found[found >= 0])  # rising, so that equal scores go by row
        if len(rows) < k:  # the proposer gave up early; the answer must not be short
            rows = np.arange(matrix.count)
        yield _rank_few(matrix, query, k, rows)


def _rank_allowed_candidates(
    matrix: HalfMatrix,
    proposer: Proposer,
    queries: NDArray[np.float32],
    k: int,
    candidates: int,
    allowed: NDArray[np.int64],
) -> Iterator[Ranked]:
    """FAISS's fast scan takes no filter, so more are asked for, as many as hold enough allowed ones by their share."""
    mask = np.zeros(matrix.count, np.bool_)
    mask[allowed] = True
    for first in range(0, len(queries), QUERY_TILE):
        block = queries[first : first + QUERY_TILE]
        rows: dict[int, NDArray[np.int64]] = {}
        waiting = np.arange(len(block))
        width = int(1.2 * candidates * matrix.count / len(allowed))
        while len(waiting) and width < WIDEST * matrix.count:
            for place, found in zip(waiting, proposer.candidates(block[waiting], width), strict=True):
                kept = found[found >= 0]
                kept = kept[mask[kept]][:candidates]  # best first, by estimate
                if len(kept) == candidates:
                    rows[int(place)] = np.sort(kept)
            waiting = np.array([place for place in waiting if place not in rows], np.int64)
            width *= 4  # a list can be of those that lie nearest: then its share says little
        for number, query in enumerate(block):
            yield _rank_few(matrix, query, k, rows.get(number, allowed))


def _rank_few(matrix: HalfMatrix, query: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Ranked:
    """The k best of `rows`, each once and rising, for one query float32[D]."""
    (scores,) = matrix.scores_of(query[None], rows)
    best = best_rows(scores, k)
    return rows[best], scores[best]
