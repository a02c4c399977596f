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

    def totals(self, scores: NDArray[np.float32]) -> tuple[GroupTotal, ...]:
        """The totals of scores float32[N], added up in float64; the highest first."""
        exact = scores.astype(np.float64)  # [N]
        count = len(self.values)
        samples = np.bincount(self.codes, minlength=count)  # [G]
        totals = np.bincount(self.codes, exact, count)  # [G]
        positive = np.bincount(self.codes, np.maximum(exact, 0.0), count)  # [G]
        shares = positive / (positive.sum() or 1.0)
        return tuple(
            GroupTotal(
                value=self.values[group],
                samples=int(samples[group]),
                total=float(totals[group]),
                positive_share=float(shares[group]),
                data_share=float(samples[group] / len(scores)),
            )
            for group in np.argsort(-totals, kind="stable").tolist()
        )


def group_columns(samples: Sequence[Sample], names: Sequence[str]) -> Mapping[str, GroupColumn]:
    """The group columns of a training set, by name."""
    return {name: GroupColumn.of(samples, name) for name in names}
