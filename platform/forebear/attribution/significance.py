"""Is a group's influence more than chance? Intervals over the query's timesteps, and a null of shuffled group labels.

Intervals. A query is measured at T timesteps, a sample of all the noise levels at which the model works. They are drawn
anew with replacement, the scores of each draw are the mean of its timesteps' contributions (`timesteps`), and the
interval is that between the quantiles of a group's total and share over the draws. Timesteps that were chosen evenly
(stratified) vary less than independent ones: the intervals are then too wide rather than too narrow.

p-values. The scores stay as they are and group labels are shuffled over the samples: what would a random group of the
same size have for a share of the positive influence? On average its share of the samples, exactly. The p-value is
(1 + shuffles with at least the observed share) / (1 + shuffles), the test one-sided. The groups of a column are tested
together: adjusted p-values are those of Benjamini and Hochberg (1995).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.answer import GroupStatistics, GroupTotal
from forebear.attribution.auditing import AuditConfig
from forebear.attribution.groups import GroupColumn
from forebear.randomness import keyed_integers, keyed_words

NUMBERS_AT_ONCE = 2**22
"""Scores of resamples and shuffles that are held in memory together."""
ROUNDING = 1e-9
"""Relative difference below which two shares are taken for equal: sums in another order differ in their last digits."""


def examined(
    totals: Mapping[str, tuple[GroupTotal, ...]],
    columns: Mapping[str, GroupColumn],
    scores: NDArray[np.float32],
    contributions: NDArray[np.float64] | None,
    audit: AuditConfig,
) -> tuple[Mapping[str, tuple[GroupTotal, ...]], GroupStatistics]:
    """The totals with intervals and p-values, and how those were made.

    `contributions` float64[T, N] are those of the query's timesteps to scores float32[N]; None: no intervals.
    """
    positive = np.maximum(scores.astype(np.float64), 0.0)
    tested = audit.permutations if positive.any() else 0
    ends = {} if contributions is None or not audit.resamples else intervals(contributions, columns, audit)
    chances = shuffled(positive, columns, tested, audit.seed) if tested else {}
    steps = 0 if contributions is None else len(contributions)
    found = {
        name: _examined(column, columns[name], ends.get(name), chances.get(name)) for name, column in totals.items()
    }
    made = GroupStatistics(audit.level, audit.resamples if ends else 0, steps, tested, audit.seed)
    return found, made


def intervals(
    contributions: NDArray[np.float64], columns: Mapping[str, GroupColumn], audit: AuditConfig
) -> Mapping[str, NDArray[np.float64]]:
    """By column, the lower and upper ends of each group's total and share of the positive influence: [2, 2, G].

    The first axis is (total, share), the second (lower, upper). `contributions` float64[T, N].
    """
    steps, count = contributions.shape
    drawn = keyed_integers(steps, (audit.resamples, steps), "bootstrap", audit.seed)  # [R, T]
    weights = (drawn[:, :, None] == np.arange(steps)).mean(axis=1)  # [R, T]
    totals = {name: weights @ column.sums(contributions) for name, column in columns.items()}  # [R, G]
    shares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in columns}
    block = max(1, NUMBERS_AT_ONCE // count)
    for first in range(0, audit.resamples, block):
        positive = np.maximum(weights[first : first + block] @ contributions, 0.0)  # [B, N]
        whole = positive.sum(axis=1, keepdims=True)
        whole[whole == 0] = 1.0
        for name, column in columns.items():
            shares[name].append(column.sums(positive) / whole)
    ends = [(1 - audit.level) / 2, (1 + audit.level) / 2]
    return {
        name: np.stack([np.quantile(totals[name], ends, axis=0), np.quantile(np.concatenate(parts), ends, axis=0)])
        for name, parts in shares.items()
    }


def shuffled(
    positive: NDArray[np.float64], columns: Mapping[str, GroupColumn], permutations: int, seed: int
) -> Mapping[str, NDArray[np.float64]]:
    """By column, the p-value of each group's sum of positive scores float64[N]: float64[G]."""
    observed = {name: column.sums(positive[None])[0] * (1 - ROUNDING) for name, column in columns.items()}
    reached = {name: np.zeros(len(column.values), np.int64) for name, column in columns.items()}
    # In random order, the first n samples are a random group of n, the next of the next group, and so on.
    starts = {name: np.cumsum([0, *np.bincount(column.codes)[:-1]]) for name, column in columns.items()}
    block = max(1, NUMBERS_AT_ONCE // len(positive))
    for first in range(0, permutations, block):
        values = positive[_orders(len(positive), seed, first, min(first + block, permutations))]  # [B, N]
        for name in columns:
            reached[name] += (np.add.reduceat(values, starts[name], axis=1) >= observed[name]).sum(axis=0)
    return {name: (1 + times) / (1 + permutations) for name, times in reached.items()}


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values float64[G] of p_values float64[G] (Benjamini and Hochberg 1995)."""
    count = len(p_values)
    falling = np.argsort(-p_values, kind="stable")
    scaled = p_values[falling] * count / np.arange(count, 0, -1)
    adjusted = np.empty(count)
    adjusted[falling] = np.minimum.accumulate(np.minimum(scaled, 1.0))
    return adjusted


def _examined(
    totals: Sequence[GroupTotal],
    column: GroupColumn,
    ends: NDArray[np.float64] | None,
    chances: NDArray[np.float64] | None,
) -> tuple[GroupTotal, ...]:
    adjusted = None if chances is None else benjamini_hochberg(chances)
    places = {value: place for place, value in enumerate(column.values)}
    found = []
    for total in totals:
        group = places[total.value]
        one = total
        if ends is not None:
            (low, high), (share_low, share_high) = ends[:, :, group].tolist()
            one = replace(one, total_interval=(low, high), share_interval=(share_low, share_high))
        if chances is not None and adjusted is not None:
            one = replace(one, p_value=float(chances[group]), adjusted_p_value=float(adjusted[group]))
        found.append(one)
    return tuple(found)


@lru_cache(maxsize=4)
def _orders(count: int, seed: int, first: int, last: int) -> NDArray[np.int32]:
    """The orders of numbers `first` to `last`, int32[last - first, count].

    The next question shuffles alike: 64 MiB of orders are kept, those of 2,000 shuffles of 8,000 samples.
    """
    return np.stack([_order(count, seed, number).astype(np.int32) for number in range(first, last)])


def _order(count: int, seed: int, number: int) -> NDArray[np.int64]:
    """A uniform random order of 0 .. count - 1, int64[count].

    Positions are sorted by 32 random bits, 16 after 16, for which NumPy has a radix sort: three times as quick as
    sorting them at once. Equal bits keep their order, which happens to about count / 2**33 of the positions.
    """
    digits = keyed_words(-(-count // 2), "permutations", seed, number).astype("<u8").view("<u2")  # 4 to a word
    low, high = digits[:count], digits[-count:]
    first = np.argsort(low, kind="stable")
    return first[np.argsort(high[first], kind="stable")]
