"""A folder of images in the Hugging Face ImageFolder convention."""

import csv
import json
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
    first folder's name as the group `class`.
    """

    def __init__(self, root: Path, columns: Columns, max_bytes: int) -> None:
        self._root, self._columns, self._max_bytes = root, columns, max_bytes

    def scan(self) -> tuple[list[Sample], list[Quarantined]]:
        paths = sorted(p for p in self._root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        metadata = self._metadata()
        self._columns.check({name for line in metadata.values() for name in line}, str(self._root))
        classes = sorted({folder for path in paths if (folder := self._folder(path))})
        samples, quarantined = [], []
        for path in paths:
            name = path.relative_to(self._root).as_posix()
            try:
                content = self._read(path)
                decode(content)
            except UnreadableImage as reason:
                quarantined.append(Quarantined(name, str(reason)))
                continue
            line = metadata.get(name, {})
            folder = self._folder(path)
            label = self._columns.label(line)
            samples.append(
                Sample(
                    id=sample_id(name, content),
                    locator=name,
                    caption=self._columns.caption(line),
                    label=classes.index(folder) if label is None and folder else label,
                    groups=({"class": folder} if folder else {}) | self._columns.groups(line),
                )
            )
        missing = sorted(set(metadata) - {path.relative_to(self._root).as_posix() for path in paths})
        quarantined += [Quarantined(name, "named in the metadata but not in the folder") for name in missing]
        return samples, quarantined

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - files have their own size
        try:
            return decode(self._read(self._root / sample.locator))
        except UnreadableImage as reason:
            raise DataError(
                f"{self._root / sample.locator} was readable and is not any more ({reason}); restore it or scan again"
            ) from None

    def _read(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > self._max_bytes:
                raise UnreadableImage(f"{size:,} bytes, more than {self._max_bytes:,}")
            return path.read_bytes()
        except OSError as refused:
            raise UnreadableImage(f"cannot be read: {refused.strerror}") from None

    def _folder(self, path: Path) -> str:
        parts = path.relative_to(self._root).parts
        return parts[0] if len(parts) > 1 else ""

    def _metadata(self) -> Mapping[str, Mapping[str, Any]]:
        """Metadata lines by picture name, relative to the root."""
        lines: dict[str, Mapping[str, Any]] = {}
        for path in sorted(self._root.rglob("metadata.*")):
            for line in _read_lines(path):
                if not line.get("file_name"):
                    raise DataError(f"{path}: every line needs a `file_name`; add the column or remove the file")
                name = (path.parent / str(line["file_name"])).relative_to(self._root).as_posix()
                lines[name] = {key: value for key, value in line.items() if key != "file_name"}
        return lines


def _read_lines(path: Path) -> Sequence[Mapping[str, Any]]:
    try:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as handle:
                return list(csv.DictReader(handle))
    except (ValueError, csv.Error) as broken:
        raise DataError(f"{path} cannot be parsed: {broken}; mend the file or remove it") from None
    return []
