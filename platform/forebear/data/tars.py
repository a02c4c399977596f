"""WebDataset tars: the members of a sample stand side by side and share their name up to its first dot."""

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
from PIL import Image

from forebear.data.cells import distinct_id
from forebear.data.columns import Columns
from forebear.data.folder import is_picture
from forebear.data.occurrences import Occurrences
from forebear.data.sample import Entry, Quarantined, Sample
from forebear.data.scanning import FileByFile, Scan
from forebear.data.storage import Storage, StoredFile, unreadable
from forebear.errors import DataError
from forebear.images import UnreadableImage, decode

CAPTION_SUFFIXES = ("txt", "text", "caption")
TEXT_SUFFIXES = frozenset({*CAPTION_SUFFIXES, "cls", "json"})
"""Members whose content gives captions, labels and groups."""
ENOUGH_SAMPLES = 1000
"""A chosen column that none of so many samples has is taken for a mistake before the other tars are read."""
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    start: int
    """Byte in the tar."""
    size: int
    content: bytes | None
    """None when it is of no use, or larger than is read."""


@dataclass(frozen=True)
class _Members:
    """The members of one sample, by their suffix."""

    key: str
    by_suffix: dict[str, _Member] = field(default_factory=dict)

    def picture(self, preferred: str) -> _Member | None:
        """The member of the preferred suffix, or else the first that is a picture."""
        pictures = (member for suffix, member in self.by_suffix.items() if is_picture(f"x.{suffix}"))
        return self.by_suffix.get(preferred) or next(pictures, None)


class TarSource(FileByFile):
    """Samples of one or more uncompressed tars, their pictures found by byte offsets.

    A member's name up to the first dot of its last part is its sample's key, the rest its suffix. A sample has a
    picture (the member with the suffix `image_column`, or else the first that is a picture), `.txt` with the caption,
    `.cls` with the class label, `.json` with an object whose entries are columns. Suffixes can be chosen as columns.
    """

    def __init__(
        self, storage: Storage, files: Sequence[StoredFile], image_column: str, columns: Columns, max_bytes: int
    ) -> None:
        super().__init__(files)
        self._storage, self._image_suffix = storage, image_column.lower()
        self._columns, self._max_bytes = columns, max_bytes
        chosen = {columns.caption_column, columns.label_column, *columns.group_columns}
        self._read_suffixes = TEXT_SUFFIXES | {name for name in chosen if name} | {self._image_suffix}

    def _scan_file(self, number: int, file: StoredFile, scan: Scan) -> Iterator[Entry]:
        available: set[str] = set(scan.facts.get("available", ()))
        suffixes: set[str] = set()
        pictures = 0
        for members in self._samples(file):
            suffixes |= members.by_suffix.keys()
            pictures += members.picture(self._image_suffix) is not None
            yield self._entry(members, number, available, scan.seen)
        if suffixes and not pictures:
            endings = ", ".join(f".{suffix}" for suffix in sorted(suffixes))
            raise DataError(
                f"{self._storage.place(file.name)} holds no picture, only members that end in {endings}; "
                "leave this tar out, or name the pictures' suffix as the image column"
            )
        found = scan.facts.get("found", 0) + pictures
        scan.facts.update(available=sorted(available), found=found)
        if found >= ENOUGH_SAMPLES or (found and number + 1 == len(self._files)):
            self._columns.check(available, self._storage.place())

    def picture(self, sample: Sample, size: int) -> Image.Image:  # noqa: ARG002 - members have their own size
        number, start, length = (int(part) for part in sample.locator.split(":"))
        name = self._files[number].name
        try:
            return decode(self._storage.open(name).read_at(length, start))
        except (UnreadableImage, OSError, pa.ArrowException) as reason:
            place, state = f"{self._storage.place(name)}, byte {start:,}", "was readable and is not any more"
            raise unreadable(place, state, reason, "restore the file or scan again") from None

    def _entry(self, members: _Members, number: int, available: set[str], seen: Occurrences) -> Entry:
        try:
            member, content = self._picture(members)
            decode(content)
            line = _line(members)
        except UnreadableImage as reason:
            return Quarantined(f"{PurePosixPath(self._files[number].name).name}, {members.key}", str(reason))
        available.update(line)
        return Sample(
            id=distinct_id(member.name, content, seen),
            locator=f"{number}:{member.start}:{member.size}",
            caption=self._caption(line),
            label=self._label(line),
            groups=self._columns.groups(line),
        )

    def _picture(self, members: _Members) -> tuple[_Member, bytes]:
        member = members.picture(self._image_suffix)
        if member is None:
            raise UnreadableImage("no member of this key is a picture")
        if member.content is None:
            raise UnreadableImage(f"{member.size:,} bytes, more than {self._max_bytes:,}")
        return member, member.content

    def _caption(self, line: Mapping[str, Any]) -> str:
        if self._columns.caption_column is None:
            for suffix in CAPTION_SUFFIXES:
                if isinstance(text := line.get(suffix), str):
                    return text
        return self._columns.caption(line)

    def _label(self, line: Mapping[str, Any]) -> int | None:
        if self._columns.label_column is not None:
            return self._columns.label(line)
        text = str(line.get("cls", ""))
        return int(text) if text.isascii() and text.isdigit() else None

    def _samples(self, file: StoredFile) -> Iterator[_Members]:
        place = self._storage.place(file.name)
        current: _Members | None = None
        keys: set[str] = set()
        for member in self._members(file):
            folder, slash, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}{slash}{stem}", suffix.lower()
            if current is None or key != current.key:
                if current is not None:
                    yield current
                if key in keys:
                    raise DataError(
                        f"{place}: the key {key!r} comes again after another one; the members of a sample must stand "
                        "side by side (tar --sort=name), and no two samples may share a key"
                    )
                keys.add(key)
                current = _Members(key)
            if suffix in current.by_suffix:
                raise DataError(f"{place} has two members {member.name}; keep one")
            current.by_suffix[suffix] = member
        if current is not None:
            yield current

    def _members(self, file: StoredFile) -> Iterator[_Member]:
        """The named members of a tar, read once from its start to its end."""
        place = self._storage.place(file.name)
        try:
            with (
                self._storage.stream(file.name) as handle,
                tarfile.open(fileobj=handle, mode="r|", bufsize=READ_BYTES) as archive,
            ):
                for found in archive:
                    if found.isfile() and _has_key(found.name):
                        yield _Member(found.name, found.offset_data, found.size, self._content(archive, found))
                    archive.members.clear()  # type: ignore[attr-defined] # tarfile would keep them all
                end = archive.offset
            # tarfile takes bytes that are no header for the end, and a tar that stops between two members for whole.
            if self._storage.open(file.name).read_at(tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"it stops or is damaged at byte {end:,}")
        except (tarfile.TarError, OSError, EOFError, pa.ArrowException) as broken:
            state = "is truncated, damaged or no uncompressed tar"
            raise unreadable(place, state, broken, "replace it, or unpack it if it is compressed") from None

    def _content(self, archive: tarfile.TarFile, found: tarfile.TarInfo) -> bytes | None:
        suffix = PurePosixPath(found.name).name.partition(".")[2].lower()
        wanted = is_picture(f"x.{suffix}") or suffix in self._read_suffixes
        handle = archive.extractfile(found) if wanted and found.size <= self._max_bytes else None
        return None if handle is None else handle.read()


def _has_key(name: str) -> bool:
    """Whether a member belongs to a sample: not WebDataset's own (`__`), not a hidden one, not one without a suffix."""
    stem, dot, suffix = PurePosixPath(name).name.partition(".")
    return bool(stem and dot and suffix) and not stem.startswith("__")


def _line(members: _Members) -> dict[str, Any]:
    """The columns of a sample: entries of its JSON, and its other members as text by their suffix."""
    line: dict[str, Any] = {}
    for suffix, member in members.by_suffix.items():
        if is_picture(f"x.{suffix}") or member.content is None:
            continue
        try:
            text = member.content.decode("utf-8-sig").strip()
            if suffix != "json":
                line[suffix] = text
                continue
            entries = json.loads(text)
        except ValueError as broken:
            raise UnreadableImage(f"its member .{suffix} cannot be read: {broken}") from None
        if not isinstance(entries, dict):
            raise UnreadableImage("its member .json holds no object")
        line = {**entries, **line}
    return line
