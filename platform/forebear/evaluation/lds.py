"""The linear datamodeling score: how well sums of scores rank the losses of models trained on parts of the data.

A query's LDS is Spearman's correlation, over subsets m, of its loss under the model of subset m and of minus the sum of
the scores of the subset's samples, as a positive score lowers the loss (Park et al., arXiv 2303.14186; for diffusion
models Zheng et al., arXiv 2311.00500). It is averaged over queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.query import EmbeddedQuery
from forebear.errors import ConfigError
from forebear.evaluation.lds_config import RIDGES
from forebear.evaluation.metrics import Interval
from forebear.randomness import keyed_integers

Floats = NDArray[np.float64]


class RankedRows:
    """Rows whose ranks are asked for again and again, each time with other multiplicities of their columns."""

    def __init__(self, values: NDArray[np.floating]) -> None:
        rows, width = values.shape
        self._order = np.argsort(values, axis=1, kind="stable")
        ascending = np.take_along_axis(values, self._order, 1)
        new = np.ones((rows, width), np.bool_)
        new[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
        place = np.argsort(self._order, axis=1, kind="stable")
        columns = np.arange(width)
        first = np.maximum.accumulate(np.where(new, columns, 0), 1)
        last_of = np.concatenate([new[:, 1:], np.ones((rows, 1), np.bool_)], 1)
        end = np.minimum.accumulate(np.where(last_of, columns + 1, width)[:, ::-1], 1)[:, ::-1]
        # Where the run of values that equal a column's own begins and ends, in ascending order.
        self._first, self._end = (np.take_along_axis(edges, place, 1) for edges in (first, end))

    def centred(self, counts: NDArray[np.int64]) -> Floats:
        """Ranks float64[rows, width] minus their mean, when column j occurs counts[j] times; ties get their mean."""
        before = np.zeros((len(self._order), counts.size + 1))
        np.cumsum(counts[self._order], axis=1, out=before[:, 1:])
        ranks: Floats = np.take_along_axis(before, self._first, 1) + np.take_along_axis(before, self._end, 1)
        return np.asarray((ranks - counts.sum()) / 2.0)


def _correlation(one: RankedRows, other: RankedRows, counts: NDArray[np.int64]) -> Floats:
    x, y = one.centred(counts), other.centred(counts)
    weighted = x * counts
    shared = (weighted * y).sum(1)
    spread = np.sqrt((weighted * x).sum(1) * (y * y * counts).sum(1))
    return np.asarray(np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 0))


def spearman_rows(one: NDArray[np.floating], other: NDArray[np.floating]) -> Floats:
    """Spearman's correlation of each row of two [Q, M]: float64[Q]; ties get their mean rank.

    A row that is all one value predicts nothing, and its correlation is 0.
    """
    return _correlation(RankedRows(one), RankedRows(other), np.ones(one.shape[1], np.int64))


def predicted_losses(scores: NDArray[np.floating], members: NDArray[np.bool_]) -> Floats:
    """What scores [Q, N] say of the subsets bool[M, N]: minus the sum over a subset's samples, float64[Q, M]."""
    found: Floats = -(scores.astype(np.float64) @ members.T.astype(np.float64))
    return found


def lds(scores: NDArray[np.floating], members: NDArray[np.bool_], losses: NDArray[np.floating]) -> Floats:
    """Each query's LDS, float64[Q], from scores [Q, N], subsets bool[M, N] and the models' losses [M, Q]."""
    return spearman_rows(predicted_losses(scores, members), losses.T)


def bootstrap_lds(
    predicted: NDArray[np.floating], measured: NDArray[np.floating], replicates: int = 1000, seed: int = 0
) -> Floats:
    """Mean LDS of resampled subsets and resampled queries: float64[replicates]; both arguments are [Q, M].

    The resamples depend on the shape and the seed alone: replicates of two estimators on the same subsets and queries
    are paired, and their differences have an interval of their own.
    """
    queries, subsets = predicted.shape
    one, other = RankedRows(predicted), RankedRows(measured)
    chosen_subsets = keyed_integers(subsets, (replicates, subsets), "bootstrap-subsets", seed)
    chosen_queries = keyed_integers(queries, (replicates, queries), "bootstrap-queries", seed)
    found = np.empty(replicates)
    for replicate in range(replicates):
        counts = np.bincount(chosen_subsets[replicate], minlength=subsets)
        found[replicate] = _correlation(one, other, counts)[chosen_queries[replicate]].mean()
    return found


def mean_lds(
    predicted: NDArray[np.floating], measured: NDArray[np.floating], replicates: int = 1000, seed: int = 0
) -> Interval:
    """The mean over queries with the 95 % percentile interval of `bootstrap_lds`; both arguments are [Q, M].

    A resample holds some subsets twice, which says nothing new about the ranking: the interval lies somewhat low.
    """
    low, high = np.quantile(bootstrap_lds(predicted, measured, replicates, seed), [0.025, 0.975])
    return Interval(float(spearman_rows(predicted, measured).mean()), float(low), float(high))


def noise_ceiling(
    first: NDArray[np.floating], second: NDArray[np.floating], replicates: int = 1000, seed: int = 0
) -> Interval:
    """The LDS of one training seed's losses as the prediction of another's; both [M, Q], of the same subsets.

    A prediction that knew every subset's expected loss would reach about the root of it: it has no noise of its own.
    """
    return mean_lds(first.T, second.T, replicates, seed)


class Scorer(Protocol):
    """What `attribution.scoring.StoreScorer` offers."""

    def scores(self, estimator: str, queries: Sequence[EmbeddedQuery], /, ridge: float | None = None) -> Floats:
        """float64[Q, N]."""


@dataclass(frozen=True)
class RidgeChoice:
    """The lambda with the highest LDS on the queries for tuning."""

    ridge: float
    trials: dict[float, float]
    """Mean LDS by lambda."""


def choose_ridge(
    scorer: Scorer,
    estimator: str,
    tune_queries: Sequence[EmbeddedQuery],
    members: NDArray[np.bool_],
    losses: NDArray[np.floating],
    ridges: Sequence[float] = RIDGES,
) -> RidgeChoice:
    """Choose an estimator's lambda on queries that are not reported.

    `members` bool[M, N] is in the scorer's order of samples, `losses` [M, Q] in the order of `tune_queries`. Of equal
    ones the first of `ridges` wins. Raises ConfigError when there is nothing to choose on.
    """
    if not tune_queries or not ridges:
        raise ConfigError(
            "a ridge is chosen on validation queries for tuning; give validation.count and tuning a share"
        )
    trials = {
        ridge: float(lds(scorer.scores(estimator, tune_queries, ridge=ridge), members, losses).mean())
        for ridge in ridges
    }
    return RidgeChoice(max(trials, key=lambda ridge: trials[ridge]), trials)
