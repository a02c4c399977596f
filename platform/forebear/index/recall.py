"""How much of the true answer an approximate index finds, measured on its own vectors."""

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


def measure_recall(matrix: HalfMatrix, codes: Proposer, config: IndexConfig) -> Recall:
    """Search for a keyed random sample of the index's vectors, and away from them, and compare with exact answers."""
    if matrix.count < 2:
        return EXACT
    sample = np.sort(keyed_permutation(matrix.count, "recall")[: config.recall_queries])
    widths = np.minimum([10, 100], matrix.count - 1)
    hits = np.zeros((2, 2), np.int64)  # [proponents or opponents, width]
    for first in range(0, len(sample), QUERY_TILE):
        rows = sample[first : first + QUERY_TILE]
        queries = matrix.rows(rows)
        scores = matrix.scores(queries)  # [QUERY_TILE, N]
        for way, sign in enumerate(np.array([1, -1], np.float32)):
            for column, width in enumerate(widths.tolist()):
                ranked = rank(matrix, codes, sign * queries, width + 1, config.candidates(width + 1))
                for own, truth, (found, _) in zip(rows, sign * scores, ranked, strict=True):
                    hits[way, column] += _hits(truth, found, int(own), width)
    (at_10, at_100), (opponents_at_10, opponents_at_100) = (hits / (widths * len(sample))).tolist()
    return Recall(
        at_10=at_10,
        at_100=at_100,
        opponents_at_10=opponents_at_10,
        opponents_at_100=opponents_at_100,
        queries=len(sample),
        note="measured against exact search, each query a vector of the index that is left out of its own answer",
    )


def _hits(truth: NDArray[np.float32], found: NDArray[np.int64], own: int, width: int) -> int:
    """How many of the `width` first found rows belong there by their true scores float32[N].

    The query's own row is left out on both sides: finding itself would be no achievement. A row that ties with the last
    true one belongs there.
    """
    others = np.delete(truth, own)
    last = others[best_rows(others, width)[-1]]
    return int((truth[found[found != own][:width]] >= last).sum())
