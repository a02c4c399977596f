"""Exact totals of influence by group."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.answer import GroupTotal
from forebear.data import Sample


@dataclass(frozen=True)
class GroupColumn:
    """One group column of N samples, coded once and used for every query."""

    values: tuple[str, ...]
    """The G values that occur, empty for samples without one."""
    codes: NDArray[np.int64]
    """int64[N]: each sample's place in `values`."""

    @classmethod
    def of(cls, samples: Sequence[Sample], name: str) -> "GroupColumn":
        values, codes = np.unique([sample.groups.get(name, "") for sample in samples], return_inverse=True)
        return cls(tuple(values.tolist()), codes.astype(np.int64))

    def sums(self, rows: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sums by group of each of rows float[B, N], in float64: float64[B, G]."""
        count = len(self.values)
        places = self.codes + count * np.arange(len(rows))[:, None]  # [B, N]
        added: NDArray[np.float64] = np.bincount(
            places.ravel(), rows.astype(np.float64).ravel(), len(rows) * count
        ).astype(np.float64)
        return added.reshape(len(rows), count)

    def totals(self, scores: NDArray[np.float32]) -> tuple[GroupTotal, ...]:
        """The totals of scores float32[N], added up in float64; the highest first, equal ones by value."""
        exact = scores.astype(np.float64)  # [N]
        samples = np.bincount(self.codes, minlength=len(self.values))  # [G]
        totals, positive = self.sums(np.stack([exact, np.maximum(exact, 0.0)]))  # [G] each
        shares = positive / (positive.sum() or 1.0)
        parts = samples / len(scores)
        order = np.argsort(-totals, kind="stable")
        # As lists: reading numbers one by one out of arrays would take most of the time.
        columns = (samples, totals, shares, parts, shares / parts, samples * exact.mean())
        rows = zip(order.tolist(), *(column[order].tolist() for column in columns), strict=True)
        return tuple(
            GroupTotal(
                value=self.values[group],
                samples=count,
                total=total,
                positive_share=share,
                data_share=part,
                rank=rank,
                ratio=ratio,
                expected_total=expected,
            )
            for rank, (group, count, total, share, part, ratio, expected) in enumerate(rows, start=1)
        )


def group_columns(samples: Sequence[Sample], names: Sequence[str]) -> Mapping[str, GroupColumn]:
    """The group columns of a training set, by name."""
    return {name: GroupColumn.of(samples, name) for name in names}
