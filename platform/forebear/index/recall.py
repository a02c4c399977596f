"""How much of the true answer an approximate index finds, measured on its own vectors."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from forebear.index.description import IndexConfig, Recall
from forebear.index.matrix import QUERY_TILE, HalfMatrix
from forebear.index.ranking import Proposer, best_rows, rank
from forebear.randomness import keyed_permutation

EXACT = Recall(
    at_10=1.0,
    at_100=1.0,
    opponents_at_10=1.0,
    opponents_at_100=1.0,
    queries=0,
    note="exact search: recall is 1 by definition, nothing was measured",
)


def sample(count: int, config: IndexConfig) -> NDArray[np.int64]:
    """The rows int64[M] that are searched for, of `count`: keyed random ones, rising."""
    return np.sort(keyed_permutation(count, "recall")[: config.recall_queries])


def measure_recall(
    matrix: HalfMatrix,
    proposers: Sequence[Proposer],
    candidates: Callable[[int], int],
    searched: NDArray[np.int64],
) -> list[Recall]:
    """Search for rows `searched` int64[M] of the index, and away from them, and compare with exact answers.

    One Recall for each of the proposers; `candidates(k)` of their rows are scored exactly.
    """
    if matrix.count < 2:
        return [EXACT] * len(proposers)
    widths = np.minimum([10, 100], matrix.count - 1)
    hits = np.zeros((len(proposers), 2, 2), np.int64)  # [proposer, proponents or opponents, width]
    for first in range(0, len(searched), QUERY_TILE):
        rows = searched[first : first + QUERY_TILE]
        queries = matrix.rows(rows)
        scores = matrix.scores(queries)  # [QUERY_TILE, N]
        for way, sign in enumerate(np.array([1, -1], np.float32)):
            lasts = [_last(truth, int(own), widths) for own, truth in zip(rows, sign * scores, strict=True)]
            for number, proposer in enumerate(proposers):
                for column, width in enumerate(widths.tolist()):
                    ranked = rank(matrix, proposer, sign * queries, width + 1, candidates(width + 1))
                    for own, last, (found, found_scores) in zip(rows, lasts, ranked, strict=True):
                        others = found_scores[found != own][:width]
                        hits[number, way, column] += int((others >= last[column]).sum())
    return [_recall(counted / (widths * len(searched)), len(searched)) for counted in hits]


def _recall(shares: NDArray[np.float64], queries: int) -> Recall:
    (at_10, at_100), (opponents_at_10, opponents_at_100) = shares.tolist()
    return Recall(
        at_10=at_10,
        at_100=at_100,
        opponents_at_10=opponents_at_10,
        opponents_at_100=opponents_at_100,
        queries=queries,
        note="measured against exact search, each query a vector of the index that is left out of its own answer",
    )


def _last(truth: NDArray[np.float32], own: int, widths: NDArray[np.int64]) -> NDArray[np.float32]:
    """For each of `widths` the score of the last true answer, by true scores float32[N] of a query.

    The query's own row is left out: finding itself would be no achievement. A row that ties with the last belongs
    there.
    """
    others = np.delete(truth, own)
    return np.array([others[best_rows(others, width)[-1]] for width in widths.tolist()], np.float32)
