"""What is computed from scores: ranks, specificity, detection, and 95 % intervals. Pure functions of arrays.

Scores are float[Q, N]: a positive one means that training on the sample lowered the query's loss.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forebear.errors import ConfigError
from forebear.index import best_rows
from forebear.randomness import Key, keyed_uniform

CONFIDENCE = 0.95
RESAMPLES = 2000
RESAMPLES_AT_ONCE = 100
"""Bounds the memory of a bootstrap over many samples."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval; NaN where there is nothing to resample."""

    value: float
    low: float
    high: float


def signed_square(scores: NDArray[np.floating]) -> Floats:
    """Each score's square with the score's sign: the same ranking, more weight to the ends.

    Sums of squares can predict retraining better than sums of scores, whatever the estimator; METHODS.md 4.4.
    """
    exact = np.asarray(scores, np.float64)
    return exact * np.abs(exact)


def first_ranks(scores: NDArray[np.floating], relevant: Bools) -> Floats:
    """The expected rank, from 1, of the first relevant sample for each query; infinite where none is relevant.

    Both are [Q, N]. Equal scores are taken to lie in random order, so that a constant score earns nothing.
    """
    ranks = np.full(len(scores), np.inf)
    for query, (line, wanted) in enumerate(zip(scores, relevant, strict=True)):
        if wanted.any():
            best = line[wanted].max()
            tied = line == best
            ahead = int((line > best).sum())
            ranks[query] = ahead + 1 + (tied & ~wanted).sum() / ((tied & wanted).sum() + 1)
    return ranks


def recall_at_k(ranks: Floats, k: int) -> Floats:
    """1 for each query whose first relevant sample is among the k first, else 0: float64[Q]; their mean is recall@k."""
    return (ranks <= k).astype(np.float64)


def reciprocal_ranks(ranks: Floats) -> Floats:
    """float64[Q]; their mean is the mean reciprocal rank (MRR)."""
    return 1.0 / ranks


def top_rows(scores: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """The n highest of each query, best first: int64[Q, n]; equal scores go by rising row. Raises ConfigError."""
    if not 1 <= n <= scores.shape[1]:
        raise ConfigError(f"the top {n} of {scores.shape[1]} samples is asked for; choose from 1 to that many")
    return np.stack([best_rows(line, n) for line in scores])


def occurrences(top: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """In how many of the lists int64[Q, n] each of `count` samples is: int64[count]."""
    return np.bincount(top.reshape(-1), minlength=count)


def unique_ratio(top: NDArray[np.int64]) -> float:
    """U / (Q n): distinct samples among all lists; 1 when no two lists share any, 1 / Q when all are the same."""
    return len(np.unique(top)) / top.size


def generally_influential(top: NDArray[np.int64], at_least: int) -> int:
    """How many samples are in at least `at_least` of the Q lists int64[Q, n]."""
    return int((np.unique(top, return_counts=True)[1] >= at_least).sum())


def positive_shares(scores: NDArray[np.floating]) -> Floats:
    """Each sample's share of each query's positive influence: float64[Q, N], rows add up to 1 or 0."""
    positive = np.maximum(np.asarray(scores, np.float64), 0.0)
    totals = positive.sum(1, keepdims=True)
    return np.asarray(positive / np.where(totals > 0, totals, 1.0))


def lorenz(shares: NDArray[np.floating]) -> Floats:
    """Cumulative share of the total by the samples with the least, from 0 to 1: float64[N + 1]."""
    rising = np.concatenate([[0.0], np.cumsum(np.sort(np.asarray(shares, np.float64)))])
    return np.asarray(rising / (rising[-1] or 1.0))


def gini(shares: NDArray[np.floating]) -> float:
    """Concentration of non-negative shares: 0 when all are equal, towards 1 when one sample holds everything."""
    curve = lorenz(shares)
    return float(1.0 - (curve[1:] + curve[:-1]).sum() / (len(curve) - 1))


def auc(scores: NDArray[np.floating], positive: Bools) -> float:
    """The chance that a positive scores above a negative, ties counting half (Mann-Whitney); both are [N].

    Raises ConfigError unless there are positives and negatives.
    """
    return float(_weighted_auc(scores, positive, np.ones((1, len(scores))))[0])


def _weighted_auc(scores: NDArray[np.floating], positive: Bools, weights: Floats) -> Floats:
    """The AUC of each resampling, whose weights float64[R, N] say how often it holds a sample: float64[R]."""
    if not 0 < int(positive.sum()) < len(positive):
        raise ConfigError(
            f"{int(positive.sum())} of {len(positive)} samples are marked; an AUC needs marked and others"
        )
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)  # of each run of equal scores
    marked = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)  # [R, G]
    others = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)  # [R, G]
    below = np.cumsum(others, axis=1) - others / 2.0
    return np.asarray((marked * below).sum(1) / (marked.sum(1) * others.sum(1)))


def precision_at(scores: NDArray[np.floating], positive: Bools, k: int) -> float:
    """The share of positives among the k highest of scores [N], expected over random orders of equal scores.

    Raises ConfigError when k is not from 1 to N.
    """
    if not 1 <= k <= len(scores):
        raise ConfigError(f"precision at {k} of {len(scores)} samples is asked for; choose from 1 to that many")
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, tied = scores > threshold, scores == threshold
    sure = int((above & positive).sum())
    return float((sure + (k - above.sum()) * (tied & positive).sum() / tied.sum()) / k)


def bootstrap_mean(values: NDArray[np.floating], *key: Key, resamples: int = RESAMPLES) -> Interval:
    """The mean of values [n] and its percentile interval over resamplings, keyed by `key`; NaN values are left out."""
    exact = np.asarray(values, np.float64)
    exact = exact[~np.isnan(exact)]
    if not len(exact):
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap(lambda rows: exact[rows].mean(1), len(exact), float(exact.mean()), *key, resamples=resamples)


def bootstrap_median(values: NDArray[np.floating], *key: Key, resamples: int = RESAMPLES) -> Interval:
    """As `bootstrap_mean`, of the median."""
    exact = np.asarray(values, np.float64)
    exact = exact[~np.isnan(exact)]
    if not len(exact):
        return Interval(np.nan, np.nan, np.nan)
    return bootstrap(
        lambda rows: np.median(exact[rows], 1), len(exact), float(np.median(exact)), *key, resamples=resamples
    )


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], Floats], count: int, value: float, *key: Key, resamples: int = RESAMPLES
) -> Interval:
    """`value` with the percentile interval of a statistic over resamplings of `count` units.

    `statistic` takes int64[R, count], the units of R resamplings, and returns float64[R].
    """
    found = [
        statistic(
            np.minimum((keyed_uniform((size, count), "bootstrap", *key, start) * count).astype(np.int64), count - 1)
        )
        for start, size in _portions(resamples)
    ]
    return _percentiles(value, np.concatenate(found))


def bootstrap_auc(scores: NDArray[np.floating], positive: Bools, *key: Key, resamples: int = RESAMPLES) -> Interval:
    """The AUC with its percentile interval, positives and negatives resampled apart; both are [N]."""
    value = auc(scores, positive)
    found = []
    for start, size in _portions(resamples):
        weights = np.empty((size, len(scores)))
        for name, rows in (("positive", np.flatnonzero(positive)), ("negative", np.flatnonzero(~positive))):
            chosen = (keyed_uniform((size, len(rows)), "bootstrap", name, *key, start) * len(rows)).astype(np.int64)
            flat = chosen + len(rows) * np.arange(size)[:, None]
            weights[:, rows] = np.bincount(flat.reshape(-1), minlength=size * len(rows)).reshape(size, -1)
        found.append(_weighted_auc(scores, positive, weights))
    return _percentiles(value, np.concatenate(found))


def jackknife(statistic: Callable[[NDArray[np.int64]], float], count: int) -> Interval:
    """A non-negative statistic of `count` units and its normal interval from leaving out one unit at a time.

    For overlap and concentration, which a bootstrap would bias: its resamplings hold units twice. `statistic` takes the
    units kept, int64[count or count - 1].
    """
    units = np.arange(count)
    value = float(statistic(units))
    if count < 2:
        return Interval(value, np.nan, np.nan)
    without = np.array([statistic(np.delete(units, unit)) for unit in units], np.float64)
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    half = 1.959963984540054 * error
    return Interval(value, max(0.0, value - half), value + half)


def _percentiles(value: float, found: Floats) -> Interval:
    tail = 100.0 * (1.0 - CONFIDENCE) / 2.0
    low, high = np.percentile(found, [tail, 100.0 - tail])
    return Interval(value, float(low), float(high))


def _portions(total: int) -> list[tuple[int, int]]:
    """(first, size) of portions of resamplings."""
    return [(start, min(RESAMPLES_AT_ONCE, total - start)) for start in range(0, total, RESAMPLES_AT_ONCE)]
