"""The one type behind which every image source stands."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.data.sample import Quarantined, Sample
from forebear.errors import DataError
from forebear.files import fingerprint
from forebear.images import to_pixels


class Source(Protocol):
    """Where pictures come from. A new kind of source implements these two methods."""

    def scan(self) -> tuple[list[Sample], list[Quarantined]]:
        """List every entry once; an entry that cannot be used is quarantined with its reason."""

    def picture(self, sample: Sample, size: int) -> Image.Image:
        """The sample's RGB picture; sources that render choose about `size` pixels, others ignore it."""


class TrainingSet:
    """Samples in a fixed order, with their pictures read on demand.

    Rows are positions in this set; ids are stable across sets, machines and orders.
    """

    def __init__(self, source: Source, samples: Sequence[Sample], quarantined: Sequence[Quarantined] = ()) -> None:
        self._source = source
        self.samples = tuple(samples)
        self.quarantined = tuple(quarantined)
        repeated = [sample_id for sample_id, count in Counter(s.id for s in samples).items() if count > 1]
        if repeated:
            raise DataError(
                f"{len(repeated)} sample ids occur twice (first: {repeated[0]}); the source must name each once"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Sample id to row."""
        return {sample.id: row for row, sample in enumerate(self.samples)}

    def row(self, sample_id: str) -> int:
        """The row of a sample id; raises DataError when it is not in the set."""
        try:
            return self.rows[sample_id]
        except KeyError:
            raise DataError(f"no sample {sample_id} in this training set; list ids with `forebear data`") from None

    def picture(self, row: int, size: int = 72) -> Image.Image:
        """The RGB picture of a row, at its own size unless the source renders (then `size` pixels)."""
        return self._source.picture(self.samples[row], size)

    def pixels(self, rows: Sequence[int], size: int, channels: int = 3) -> NDArray[np.float32]:
        """Pixels in [-1, 1], float32[len(rows), channels, size, size]; centre-cropped and resized."""
        return np.stack([to_pixels(self.picture(row, size), size, channels) for row in rows])

    @property
    def group_names(self) -> tuple[str, ...]:
        """The group columns that any sample carries, in order of first appearance."""
        return tuple(dict.fromkeys(name for sample in self.samples for name in sample.groups))

    def where(self, keep: Callable[[Sample], bool]) -> "TrainingSet":
        """The subset whose samples pass `keep`; ids do not change."""
        return TrainingSet(self._source, [s for s in self.samples if keep(s)], self.quarantined)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies what the numbers depend on: ids (which hash the pictures), captions, labels and their order."""
        return fingerprint([[s.id, s.caption, s.label] for s in self.samples])
