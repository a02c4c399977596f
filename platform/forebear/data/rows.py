"""Pictures in the rows of columnar files: what Parquet and Arrow files have in common once they are opened."""

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from functools import lru_cache

import pyarrow as pa
from PIL import Image

from forebear.data.cells import Cells, cell_content
from forebear.data.columns import Columns
from forebear.data.sample import Sample
from forebear.data.scanning import FileByFile
from forebear.data.storage import Storage, StoredFile
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

SCAN_ROWS = 256
"""Rows that a scan has in memory at a time."""


class RowSource(FileByFile):
    """Rows of one or more files, each read in parts. A locator is `file number:part:row of the part`."""

    def __init__(
        self, storage: Storage, files: Sequence[StoredFile], image_column: str, columns: Columns, max_bytes: int
    ) -> None:
        super().__init__(files)
        self._storage, self._image_column = storage, image_column
        self._cells = Cells(image_column, columns, max_bytes)
        self._column = lru_cache(maxsize=4)(self._read_column)

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - rows have their own size
        number, part, row = (int(place) for place in sample.locator.split(":"))
        name = self._files[number].name
        try:
            # A rewritten file is read again.
            column = self._column(name, self._storage.version(name), part)
            return decode(cell_content(column[row].as_py())[1])
        except (UnreadableImage, IndexError, OSError) as reason:
            raise DataError(
                f"{self._storage.place(name)}, {self._part(part)}, row {row} was readable and is not any more "
                f"({reason}); restore the file or scan again"
            ) from None

    @abstractmethod
    def _read_column(self, name: str, version: Hashable, part: int) -> pa.Array | pa.ChunkedArray:
        """The image column of one part."""

    @abstractmethod
    def _part(self, part: int) -> str:
        """A part in words."""
