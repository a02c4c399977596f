"""What an attributor knows of a run while nothing is added to the list of removed samples."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from forebear.attribution.auditing import AuditConfig
from forebear.attribution.groups import GroupColumn, group_columns
from forebear.attribution.opening import live_training_set
from forebear.data import TrainingSet
from forebear.run import Run
from forebear.store import Store, read_removed
from forebear.store.removed import stamp

if TYPE_CHECKING:  # whoever only lists the samples needs no torch
    from forebear.attribution.calibration import Calibration
    from forebear.attribution.indexes import LiveIndex
    from forebear.attribution.memorisation import CopyDetector
    from forebear.attribution.sides import Sides


@dataclass
class LiveRun:
    """Row i, wherever it occurs, is the i-th sample that was not removed; `store_rows` leads back to the store's."""

    run: Run
    store: Store
    whole: TrainingSet
    """Row by row the store's samples, removed ones too."""
    stamp: tuple[int, int] | None
    """Of the list of removed samples that this goes by."""
    indexes: "dict[str, LiveIndex]" = field(default_factory=dict)
    calibrations: "dict[tuple[str, int, int], Calibration]" = field(default_factory=dict)
    detectors: "dict[AuditConfig, CopyDetector]" = field(default_factory=dict)

    @classmethod
    def of(cls, run: Run, store: Store, whole: TrainingSet) -> "LiveRun":
        return cls(run, store, whole, stamp(store.folder))

    def current(self) -> "LiveRun":
        """This, or what is known after the list of removed samples has changed."""
        now = stamp(self.store.folder)
        if now == self.stamp:
            return self
        store = self.store.without(frozenset(read_removed(self.store.folder)))
        return LiveRun(self.run, store, self.whole, now)

    @cached_property
    def training_set(self) -> TrainingSet:
        return live_training_set(self.store, self.whole)

    @cached_property
    def sides(self) -> "Sides":
        from forebear.attribution.sides import Sides

        return Sides(self.run, self.store, self.training_set)

    @cached_property
    def groups(self) -> Mapping[str, GroupColumn]:
        return group_columns(self.training_set.samples, self.training_set.group_names)

    def store_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64[n], from those of this object to the store's."""
        return rows if self.store.kept is None else self.store.kept[rows]
