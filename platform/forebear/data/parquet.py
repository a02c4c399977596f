"""Parquet files in the Hugging Face image layout: an image struct of bytes and path, and plain columns."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from forebear.data.cells import Cells, cell_content, class_names_of
from forebear.data.columns import Columns
from forebear.data.occurrences import Occurrences
from forebear.data.sample import Entry, Quarantined, Sample
from forebear.data.storage import OPEN_HANDLES, Storage, StoredFile, unreadable
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

SCAN_ROWS = 256
"""Rows that a scan has in memory at a time."""


class ParquetSource:
    """Rows of one or more Parquet files, read in row groups.

    The image column is a struct with `bytes` (and `path`), or plain binary. Class label columns become their names
    where the Hugging Face schema carries them.
    """

    def __init__(
        self, storage: Storage, files: Sequence[StoredFile], image_column: str, columns: Columns, max_bytes: int
    ) -> None:
        self._storage, self._files, self._image_column = storage, files, image_column
        self._cells = Cells(image_column, columns, max_bytes)
        self._column = lru_cache(maxsize=4)(self._read_column)
        self._opened = lru_cache(maxsize=OPEN_HANDLES)(self._open)

    def files(self) -> Iterator[StoredFile]:
        return iter(self._files)

    def scan(self) -> Iterator[Entry]:
        with closing(Occurrences()) as seen:
            for number, file in enumerate(self._files):
                path = self._storage.place(file.name)
                handle = self._open(file.name, None)
                names = self._cells.names(handle.schema_arrow, path)
                class_names = class_names_of(handle.schema_arrow)
                for group in range(handle.num_row_groups):
                    for row, line in enumerate(self._lines(handle, path, group, names)):
                        try:
                            yield self._cells.sample(line, f"{number}:{group}:{row}", class_names, seen)
                        except UnreadableImage as reason:
                            base = PurePosixPath(file.name).name
                            yield Quarantined(f"{base}, row group {group}, row {row}", str(reason))

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - rows have their own size
        number, group, row = (int(part) for part in sample.locator.split(":"))
        name = self._files[number].name
        try:
            # A rewritten file is read again.
            column = self._column(name, self._storage.version(name), group)
            return decode(cell_content(column[row].as_py())[1])
        except (UnreadableImage, IndexError, OSError) as reason:
            raise DataError(
                f"{self._storage.place(name)}, row group {group}, row {row} was readable and is not any more "
                f"({reason}); restore the file or scan again"
            ) from None

    def _open(self, name: str, version: Hashable) -> pq.ParquetFile:  # noqa: ARG002 - of the cache
        try:
            return pq.ParquetFile(self._storage.open(name))
        except (pa.ArrowException, OSError) as broken:
            place = self._storage.place(name)
            raise unreadable(place, "is not a readable Parquet file", broken, "replace or remove it") from None

    def _lines(
        self, handle: pq.ParquetFile, path: str, group: int, names: Sequence[str]
    ) -> Iterator[Mapping[str, Any]]:
        """The lines of a row group, SCAN_ROWS pictures in memory at a time."""
        try:
            for batch in handle.iter_batches(SCAN_ROWS, row_groups=[group], columns=list(names)):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as broken:
            raise _damaged(path, group, broken) from None

    def _read_column(self, name: str, version: Hashable, group: int) -> pa.ChunkedArray:
        try:
            table = self._opened(name, version).read_row_group(group, columns=[self._image_column])
            return table.column(self._image_column)
        except (pa.ArrowException, OSError) as broken:
            raise _damaged(self._storage.place(name), group, broken) from None


def _damaged(path: str, group: int, broken: Exception) -> DataError:
    return unreadable(f"{path}, row group {group}", "is damaged", broken, "replace or remove the file")
