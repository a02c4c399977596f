"""A folder of immutable files on any file system: each is named by its content, and appears whole or not at all."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from forebear.data.storage import ObjectStorage, object_storage, reaching, unreadable
from forebear.errors import StoreError
from forebear.files import whole_file

COPIED_AT_ONCE = 4 << 20
"""Bytes."""


def object_name(name: str, sha256: str) -> str:
    """`a/shard.parquet` as `a/shard-<16 digits of its checksum>.parquet`: another content has another name."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}-{sha256[:16]}{path.suffix}"))


class ObjectFolder(ObjectStorage):
    """An object store's prefix, or a folder, that can be written to.

    On local disks a file is written beside, synced and renamed; elsewhere an upload shows when it is complete. Raises
    DataError when the storage does not answer or refuses.
    """

    @classmethod
    def of(cls, address: str) -> "ObjectFolder":
        """Open `scheme://bucket/prefix` or a local path; raises what `object_storage` raises."""
        if "://" not in address:
            return cls(pafs.LocalFileSystem(), str(Path(address).absolute()), address)
        found = object_storage(address)
        return cls(found._filesystem, found._root, found._address)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file by its name below the folder, one request for each folder in it."""
        return {file.name: file.size for file in self.walk()}

    def content(self, name: str) -> bytes | None:
        """All of a small file; None when it is not there."""
        try:
            return self.read(name)
        except FileNotFoundError:
            return None

    def send(self, name: str, source: Path) -> None:
        """Put a local file there."""
        try:
            if self._filesystem.type_name == "local":
                with whole_file(Path(self._path(name))) as part:
                    shutil.copyfile(source, part)
                return
            with source.open("rb") as read, self._output(name) as sink:
                while block := read.read(COPIED_AT_ONCE):
                    sink.write(block)
        except (OSError, pa.ArrowException) as error:
            raise self._unwritable(name, error) from None

    def write(self, name: str, content: bytes) -> None:
        """Put a small file there, in one step for whoever reads it."""
        try:
            if self._filesystem.type_name == "local":
                with whole_file(Path(self._path(name))) as part:
                    part.write_bytes(content)
                return
            with self._output(name) as sink:
                sink.write(content)
        except (OSError, pa.ArrowException) as error:
            raise self._unwritable(name, error) from None

    def delete(self, name: str) -> None:
        """Take a file away; it may be gone already."""
        try:
            self._filesystem.delete_file(self._path(name))
        except FileNotFoundError:
            pass
        except (OSError, pa.ArrowException) as error:
            raise unreadable(self.place(name), "cannot be deleted", error, "check the permissions") from None

    def fetch(self, name: str, target: Path, size: int, sha256: str) -> None:
        """Copy a file to `target`, whole and with this checksum or not at all; raises StoreError."""
        digest, found = hashlib.sha256(), 0
        with whole_file(target) as part, part.open("wb") as sink:
            for block in self._blocks(name):
                digest.update(block)
                found += len(block)
                sink.write(block)
            if (found, digest.hexdigest()) != (size, sha256):
                damage = "another checksum" if found == size else f"{found:,} bytes instead of {size:,}"
                raise StoreError(
                    f"{self.place(name)} is damaged: it has {damage}; delete it there and push again from a run that "
                    "is whole. What is here already is kept"
                )

    def _blocks(self, name: str) -> Iterator[bytes]:
        try:
            with reaching(self.place(name)), self.stream(name) as source:
                while block := source.read(COPIED_AT_ONCE):
                    yield block
        except FileNotFoundError:
            raise StoreError(
                f"{self.place(name)} is missing; if another push has just ended, pull again, else push again from a "
                "run that is whole. What is here already is kept"
            ) from None

    def _output(self, name: str) -> pa.NativeFile:
        # Without this argument, names that end in .gz would be compressed.
        return self._filesystem.open_output_stream(self._path(name), compression=None)

    def _unwritable(self, name: str, error: Exception) -> Exception:
        return unreadable(
            self.place(name),
            "cannot be written",
            error,
            "check room and permissions, then the same command again",
        )
