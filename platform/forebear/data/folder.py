"""A folder of images in the Hugging Face ImageFolder convention."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from forebear.data.columns import Columns
from forebear.data.sample import Quarantined, Sample, sample_id
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class FolderSource:
    """Every picture below `root`; `metadata.jsonl` or `metadata.csv` beside the pictures gives captions and groups.

    A metadata line names its picture by `file_name`, relative to the metadata file. A picture in a subfolder gets the
    first folder's name as the group `class`, and that folder's place among the folders as its label unless a label
    column is chosen.
    """

    def __init__(self, root: Path, columns: Columns, max_bytes: int) -> None:
        self._root, self._columns, self._max_bytes = root, columns, max_bytes

    def scan(self) -> tuple[list[Sample], list[Quarantined]]:
        paths = (p for p in self._root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        names = sorted(path.relative_to(self._root).as_posix() for path in paths)
        metadata = self._metadata()
        folder_column = {"class"} if any(map(_folder, names)) else set()
        self._columns.check({name for line in metadata.values() for name in line} | folder_column, str(self._root))
        ids, quarantined = {}, []
        for name in names:
            try:
                ids[name] = self._usable_id(name)
            except UnreadableImage as reason:
                quarantined.append(Quarantined(_printable(name), str(reason)))
        # Only folders with a usable picture count, so that a broken file never shifts a label.
        classes = {folder: number for number, folder in enumerate(sorted({_folder(name) for name in ids} - {""}))}
        samples = [self._sample(name, ids[name], metadata.get(name, {}), classes) for name in ids]
        missing = sorted(set(metadata) - set(names))
        quarantined += [Quarantined(name, "named in the metadata but not in the folder") for name in missing]
        return samples, quarantined

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - files have their own size
        try:
            return decode(self._read(self._root / sample.locator))
        except UnreadableImage as reason:
            raise DataError(
                f"{self._root / sample.locator} was readable and is not any more ({reason}); restore it or scan again"
            ) from None

    def _usable_id(self, name: str) -> str:
        if name != _printable(name):
            raise UnreadableImage("its name is not valid UTF-8; rename it")
        content = self._read(self._root / name)
        decode(content)
        return sample_id(name, content)

    def _sample(self, name: str, identity: str, line: Mapping[str, Any], classes: Mapping[str, int]) -> Sample:
        folder = _folder(name)
        return Sample(
            id=identity,
            locator=name,
            caption=self._columns.caption(line),
            label=self._columns.label(line) if self._columns.label_column else classes.get(folder),
            groups=({"class": folder} if folder else {}) | self._columns.groups(line),
        )

    def _read(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > self._max_bytes:
                raise UnreadableImage(f"{size:,} bytes, more than {self._max_bytes:,}")
            return path.read_bytes()
        except OSError as refused:
            raise UnreadableImage(f"cannot be read: {refused.strerror}") from None

    def _metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Metadata lines by picture name, relative to the root."""
        lines: dict[str, Mapping[str, Any]] = {}
        for path in sorted(self._root.rglob("metadata.*")):
            within = path.parent.relative_to(self._root)
            for line in _read_lines(path):
                if not isinstance(line, Mapping) or not line.get("file_name"):
                    raise DataError(f"{path}: every line needs a `file_name`; add the column or remove the file")
                if None in line:
                    raise DataError(f"{path}: line {line['file_name']} has more fields than the header; add quotes")
                name = Path(os.path.normpath(within / str(line["file_name"]))).as_posix()
                lines[name] = {key: value for key, value in line.items() if key != "file_name"}
        return lines


def _folder(name: str) -> str:
    first, slash, _ = name.partition("/")
    return first if slash else ""


def _printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written out, so that it can stand in a report."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_lines(path: Path) -> Sequence[Any]:
    try:
        if path.suffix == ".jsonl":
            # Not splitlines: a caption may hold U+2028 and the like, which JSON allows inside a string.
            return [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        if path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as handle:
                return list(csv.DictReader(handle))
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (OSError, ValueError, csv.Error) as broken:
        raise DataError(f"{path} cannot be parsed: {broken}; mend the file or remove it") from None
    return []
