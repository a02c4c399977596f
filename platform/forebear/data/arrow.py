"""Hugging Face `datasets` directories, as `save_to_disk` writes them: Arrow streams beside state.json."""

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from forebear.data.cells import class_names_of
from forebear.data.rows import SCAN_ROWS, RowSource
from forebear.data.sample import Entry, Quarantined
from forebear.data.scanning import Scan
from forebear.data.storage import Storage, StoredFile, unreadable
from forebear.errors import DataError
from forebear.images import UnreadableImage

FILE_MAGIC = b"ARROW1\0\0"
"""Starts Arrow's file format, which holds the same messages as a stream from here on."""
END = (b"", b"\0\0\0\0", b"\xff\xff\xff\xff\0\0\0\0")
"""What stands where a stream ends: nothing, or the marker of an old or a new writer."""


class ArrowSource(RowSource):
    """Rows of one or more Arrow files or streams, read in record batches.

    Locators keep where a row's record batch starts, so that its picture is read without those before it.
    """

    def _part(self, part: int) -> str:
        return f"byte {part:,}"

    def _scan_file(self, number: int, file: StoredFile, scan: Scan) -> Iterator[Entry]:
        place, row_in_file = self._storage.place(file.name), 0
        with _reading(place):
            handle = self._storage.open(file.name)
            schema, first_batch = _schema(handle, place)
        names, class_names = self._cells.names(schema, place), class_names_of(schema)
        for start, batch in self._batches(handle, schema, first_batch, place):
            part = batch.select(names)
            for first in range(0, part.num_rows, SCAN_ROWS):
                for row, line in enumerate(part.slice(first, SCAN_ROWS).to_pylist(), first):
                    try:
                        yield self._cells.sample(line, f"{number}:{start}:{row}", class_names, scan.seen)
                    except UnreadableImage as reason:
                        yield Quarantined(f"{PurePosixPath(file.name).name}, row {row_in_file + row}", str(reason))
            row_in_file += part.num_rows

    def _batches(
        self, handle: pa.NativeFile, schema: pa.Schema, start: int, place: str
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The record batches from a byte on, and the byte at which each one's message starts."""
        while True:
            with _reading(place):
                if _at_end(handle, start):
                    return
                batch, end = _batch(handle, schema, start, place)
            yield start, batch
            start = end

    def _read_column(self, name: str, version: Hashable, part: int) -> pa.Array:  # noqa: ARG002
        place = self._storage.place(name)
        with _reading(place):
            handle = self._storage.open(name)
            schema, _ = _schema(handle, place)
            return _batch(handle, schema, part, place)[0].column(self._image_column)


class _reading:  # noqa: N801 - used as a statement
    """Turns what Arrow says about bad bytes into a DataError that names the file."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, pa.ArrowException | OSError | EOFError):
            remedy = "replace or remove it"
            raise unreadable(self._place, "is truncated or no Arrow file", error, remedy) from None


def _schema(handle: pa.NativeFile, place: str) -> tuple[pa.Schema, int]:
    """The schema at the start of a file, and the byte behind it."""
    magic = handle.read_at(len(FILE_MAGIC), 0)
    handle.seek(len(FILE_MAGIC) if magic == FILE_MAGIC else 0)
    schema = pa.ipc.read_schema(pa.ipc.read_message(handle))
    if any(pa.types.is_dictionary(kind) for kind in schema.types):
        raise DataError(f"{place} has dictionary-encoded columns; decode them before it is saved")
    return schema, handle.tell()


def _batch(handle: pa.NativeFile, schema: pa.Schema, start: int, place: str) -> tuple[pa.RecordBatch, int]:
    """The record batch whose message starts at a byte, and the byte behind it."""
    handle.seek(start)
    message = pa.ipc.read_message(handle)
    if message.type != "record batch":
        raise DataError(f"{place} holds a {message.type} where a record batch should be; save it again")
    batch = pa.ipc.read_record_batch(message, schema)
    batch.validate(full=True)
    return batch, handle.tell()


def _at_end(handle: pa.NativeFile, start: int) -> bool:
    mark = handle.read_at(max(0, min(8, handle.size() - start)), start)
    return mark in END or mark[:4] == bytes(4)


def saved_files(storage: Storage, found: Sequence[StoredFile]) -> list[StoredFile] | None:
    """The Arrow files of a `save_to_disk` directory in their order; None when it is no such directory.

    Raises DataError for a directory of several splits, for one whose rows are chosen by an index beside them, and when
    a file is missing.
    """
    by_name = {file.name: file for file in found}
    if "dataset_dict.json" in by_name:
        splits = _json(storage, "dataset_dict.json").get("splits") or ["train"]
        raise DataError(
            f"{storage.place()} holds several splits; choose one: "
            + ", ".join(storage.place(str(split)) for split in splits)
        )
    if "state.json" not in by_name:
        return None
    state = _json(storage, "state.json")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise DataError(f"{storage.place()} picks its rows by an index; save it again after `flatten_indices()`")
    names = [str(entry["filename"]) for entry in state.get("_data_files", ())]
    missing = [name for name in names if name not in by_name]
    if missing or not names:
        what = f"lacks {missing[0]}" if missing else "names no file in state.json"
        raise DataError(f"{storage.place()} {what}; copy the whole directory again")
    return [by_name[name] for name in names]


def _json(storage: Storage, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(storage.read(name))
    except (OSError, ValueError) as broken:
        raise DataError(f"{storage.place(name)} cannot be parsed: {broken}; copy the directory again") from None
    if not isinstance(found, dict):
        raise DataError(f"{storage.place(name)} holds no JSON object; copy the directory again")
    return found
