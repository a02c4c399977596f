"""Parquet files in the Hugging Face image layout: an image struct of bytes and path, and plain columns."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forebear.data.cells import class_names_of
from forebear.data.columns import Columns
from forebear.data.rows import SCAN_ROWS, RowSource
from forebear.data.sample import Entry, Quarantined
from forebear.data.scanning import Scan
from forebear.data.storage import OPEN_HANDLES, Storage, StoredFile, unreadable
from forebear.errors import DataError
from forebear.images import UnreadableImage


class ParquetSource(RowSource):
    """Rows of one or more Parquet files, read in row groups.

    The image column is a struct with `bytes` (and `path`), or plain binary. Class label columns become their names
    where the Hugging Face schema carries them.
    """

    def __init__(
        self, storage: Storage, files: Sequence[StoredFile], image_column: str, columns: Columns, max_bytes: int
    ) -> None:
        super().__init__(storage, files, image_column, columns, max_bytes)
        self._opened = lru_cache(maxsize=OPEN_HANDLES)(self._open)

    def _part(self, part: int) -> str:
        return f"row group {part}"

    def _scan_file(self, number: int, file: StoredFile, scan: Scan) -> Iterator[Entry]:
        path, handle = self._storage.place(file.name), self._open(file.name, None)
        names, class_names = self._cells.names(handle.schema_arrow, path), class_names_of(handle.schema_arrow)
        for group in range(handle.num_row_groups):
            for row, line in enumerate(self._lines(handle, path, group, names)):
                try:
                    yield self._cells.sample(line, f"{number}:{group}:{row}", class_names, scan.seen)
                except UnreadableImage as reason:
                    yield Quarantined(f"{PurePosixPath(file.name).name}, {self._part(group)}, row {row}", str(reason))

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

    def _read_column(self, name: str, version: Hashable, part: int) -> pa.ChunkedArray:
        try:
            table = self._opened(name, version).read_row_group(part, columns=[self._image_column])
            return table.column(self._image_column)
        except (pa.ArrowException, OSError) as broken:
            raise _damaged(self._storage.place(name), part, broken) from None


def _damaged(path: str, group: int, broken: Exception) -> DataError:
    return unreadable(f"{path}, row group {group}", "is damaged", broken, "replace or remove the file")
