"""A folder of images in the Hugging Face ImageFolder convention."""

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from forebear.data.columns import Columns
from forebear.data.sample import Entry, Quarantined, Sample, sample_id
from forebear.data.scanning import Scan, scanned
from forebear.data.storage import Storage, StoredFile
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
REFUSED = "cannot be read"
"""Starts the reason of what may be readable the next time: such a scan is not kept."""
PART_PICTURES = 1024
"""What a scan that was killed may have to read again."""


class FolderSource:
    """Every picture below the root; `metadata.jsonl` or `metadata.csv` beside the pictures gives captions and groups.

    A metadata line names its picture by `file_name`, relative to the metadata file. A picture in a subfolder gets the
    first folder's name as the group `class`, and that folder's place among the folders as its label unless a label
    column is chosen. Metadata lines are all in memory during the scan, pictures and their names are not.
    """

    parts_are_files = False

    def __init__(self, storage: Storage, columns: Columns, max_bytes: int) -> None:
        self._storage, self._columns, self._max_bytes = storage, columns, max_bytes

    def files(self) -> Iterator[StoredFile]:
        return (file for file in self._storage.walk() if is_picture(file.name) or _is_metadata(file.name))

    def scan(self) -> Iterator[Entry]:
        return scanned(self)

    def parts(self, scan: Scan) -> Iterator[Iterator[Entry]]:
        """A part is a number of pictures; the last one is what the metadata names in vain."""
        first, number = scan.done, 0
        metadata = self._metadata()
        classes = self._classes()
        folder_column = {"class"} if any(self._folders()) else set()
        self._columns.check(
            {name for line in metadata.values() for name in line} | folder_column, self._storage.place()
        )
        unseen, pictures = set(metadata), self._pictures()
        while files := list(islice(pictures, PART_PICTURES)):
            unseen.difference_update(file.name for file in files)
            if number >= first:
                yield self._scan_files(files, metadata, classes)
            number += 1
        if number >= first:
            yield (Quarantined(name, "named in the metadata but not in the folder") for name in sorted(unseen))

    def _scan_files(
        self, files: Sequence[StoredFile], metadata: Mapping[str, Mapping[str, Any]], classes: Mapping[str, int]
    ) -> Iterator[Entry]:
        for file in files:
            try:
                yield self._sample(file.name, self._usable_id(file), metadata.get(file.name, {}), classes)
            except UnreadableImage as reason:
                yield Quarantined(_printable(file.name), str(reason))

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - files have their own size
        try:
            return decode(self._content(sample.locator))
        except UnreadableImage as reason:
            raise DataError(
                f"{self._storage.place(sample.locator)} was readable and is not any more ({reason}); restore it or "
                "scan again"
            ) from None

    def _pictures(self) -> Iterator[StoredFile]:
        return (file for file in self._storage.walk() if is_picture(file.name))

    def _folders(self) -> Iterator[str]:
        """The first folder of every picture that has one."""
        return (folder for file in self._pictures() if (folder := _folder(file.name)))

    def _classes(self) -> Mapping[str, int]:
        """Labels of the folders. Only those with a usable picture count, so that a broken file never shifts a label."""
        usable: set[str] = set()
        for file in self._pictures():
            folder = _folder(file.name)
            if folder and folder not in usable:
                with suppress(UnreadableImage):
                    self._usable_id(file)
                    usable.add(folder)
        return {folder: number for number, folder in enumerate(sorted(usable))}

    def _usable_id(self, file: StoredFile) -> str:
        if file.name != _printable(file.name):
            raise UnreadableImage("its name is not valid UTF-8; rename it")
        if file.size > self._max_bytes:
            raise UnreadableImage(f"{file.size:,} bytes, more than {self._max_bytes:,}")
        content = self._content(file.name)
        decode(content)
        return sample_id(file.name, content)

    def _sample(self, name: str, identity: str, line: Mapping[str, Any], classes: Mapping[str, int]) -> Sample:
        folder = _folder(name)
        return Sample(
            id=identity,
            locator=name,
            caption=self._columns.caption(line),
            label=self._columns.label(line) if self._columns.label_column else classes.get(folder),
            groups=({"class": folder} if folder else {}) | self._columns.groups(line),
        )

    def _content(self, name: str) -> bytes:
        try:
            content = self._storage.read(name)
        except OSError as refused:
            raise UnreadableImage(f"{REFUSED}: {refused.strerror or refused}") from None
        if len(content) > self._max_bytes:
            raise UnreadableImage(f"{len(content):,} bytes, more than {self._max_bytes:,}")
        return content

    def _metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Metadata lines by picture name, relative to the root."""
        lines: dict[str, Mapping[str, Any]] = {}
        found = [file for file in self._storage.walk() if _is_metadata(file.name)]
        for file in sorted(found, key=lambda file: PurePosixPath(file.name)):
            path = self._storage.place(file.name)
            within = PurePosixPath(file.name).parent
            for line in self._lines(file.name):
                if not isinstance(line, Mapping) or not line.get("file_name"):
                    raise DataError(f"{path}: every line needs a `file_name`; add the column or remove the file")
                if None in line:
                    raise DataError(f"{path}: line {line['file_name']} has more fields than the header; add quotes")
                name = posixpath.normpath(within / str(line["file_name"]))
                lines[name] = {key: value for key, value in line.items() if key != "file_name"}
        return lines

    def _lines(self, name: str) -> Sequence[Any]:
        path = self._storage.place(name)
        try:
            text = self._storage.read(name).decode("utf-8-sig")
            if name.endswith(".jsonl"):
                # Not splitlines: a caption may hold U+2028 and the like, which JSON allows inside a string.
                return [json.loads(line) for line in text.split("\n") if line.strip()]
            return list(csv.DictReader(io.StringIO(text, newline="")))
        except UnicodeDecodeError:
            raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
        except (OSError, ValueError, csv.Error) as broken:
            raise DataError(f"{path} cannot be parsed: {broken}; mend the file or remove it") from None


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_metadata(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.startswith("metadata.") and path.suffix in {".csv", ".jsonl"}


def _folder(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash else ""


def _printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written out, so that it can stand in a report."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
