"""The one type behind which every image source stands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from forebear.data.catalogue import Records, Samples, in_memory
from forebear.data.sample import Entry, Quarantined, Sample
from forebear.data.scanning import Scan
from forebear.data.storage import StoredFile
from forebear.errors import DataError
from forebear.images import to_pixels


class Source(Protocol):
    """Where pictures come from. A new kind of source implements these two methods."""

    def scan(self) -> Iterator[Entry]:
        """Find every entry once, in order; one that cannot be used is quarantined with its reason."""

    def picture(self, sample: Sample, size: int) -> Image.Image:
        """The sample's RGB picture; sources that render choose about `size` pixels, others ignore it."""


@runtime_checkable
class FileSource(Source, Protocol):
    """A source whose scan depends on files, so that it can be kept until one of them changes, and goes on in parts."""

    parts_are_files: bool
    """Whether each part is one of the files, in their order, and depends on no later one."""

    def files(self) -> Iterator[StoredFile]:
        """Every file that decides what a scan finds."""

    def parts(self, scan: Scan) -> Iterator[Iterator[Entry]]:
        """What `scan` finds in each part that is not done; a part is used up before the next is asked for."""


class TrainingSet:
    """Samples in a fixed order, with their pictures read on demand.

    Rows are positions in this set; ids are stable across sets, machines and orders. `samples` is a sequence whose rows
    become objects when asked for: for work on all of a large set, `samples.column("caption")` and `samples.group(name)`
    give Arrow columns.
    """

    def __init__(self, source: Source, samples: Sequence[Sample], quarantined: Sequence[Quarantined] = ()) -> None:
        """Raises DataError when an id occurs twice."""
        self._source = source
        self.samples = samples if isinstance(samples, Samples) else in_memory(samples).samples
        self.quarantined = quarantined if isinstance(quarantined, Records) else tuple(quarantined)

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Sample id to row."""
        return _RowById(self.samples)

    def row(self, sample_id: str) -> int:
        """The row of a sample id; raises DataError when it is not in the set."""
        row = self.samples.row(sample_id)
        if row is None:
            raise DataError(f"no sample {sample_id} in this training set; list ids with `forebear data`")
        return row

    def picture(self, row: int, size: int = 72) -> Image.Image:
        """The RGB picture of a row, at its own size unless the source renders (then `size` pixels)."""
        return self._source.picture(self.samples[row], size)

    def pixels(self, rows: Sequence[int], size: int, channels: int = 3) -> NDArray[np.float32]:
        """Pixels in [-1, 1], float32[len(rows), channels, size, size]; centre-cropped and resized."""
        return np.stack([to_pixels(self.picture(row, size), size, channels) for row in rows])

    @property
    def group_names(self) -> tuple[str, ...]:
        """The group columns that any sample carries, in order of first appearance."""
        return self.samples.group_names

    def where(self, keep: Callable[[Sample], bool]) -> "TrainingSet":
        """The subset whose samples pass `keep`; ids do not change."""
        return self.of_rows(np.fromiter((row for row, sample in enumerate(self.samples) if keep(sample)), np.int64))

    def of_rows(self, rows: NDArray[np.int64]) -> "TrainingSet":
        """The subset of the rows int64[n], ascending; ids do not change."""
        return self.with_samples(self.samples.of_rows(rows))

    def with_samples(self, samples: Samples) -> "TrainingSet":
        """Other samples of the same source, in any order."""
        return TrainingSet(self._source, samples, self.quarantined)

    @property
    def fingerprint(self) -> str:
        """Identifies what the numbers depend on: ids (which hash the pictures), captions, labels and their order."""
        return self.samples.fingerprint


class _RowById(Mapping[str, int]):
    """Rows by id, each looked up when asked for."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __getitem__(self, sample_id: str) -> int:
        row = self._samples.row(sample_id) if isinstance(sample_id, str) else None
        if row is None:
            raise KeyError(sample_id)
        return row

    def __iter__(self) -> Iterator[str]:
        return (sample.id for sample in self._samples)

    def __len__(self) -> int:
        return len(self._samples)
