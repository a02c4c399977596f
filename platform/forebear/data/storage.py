"""Where the files of a source lie: a local folder, or a prefix of an object store behind a pyarrow file system."""

import math
import os
import stat
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from forebear.errors import DataError

OPEN_HANDLES = 32
"""Files of an object store that are kept open: opening one costs a request."""


@dataclass(frozen=True)
class StoredFile:
    """A file of a source, by its name below the storage's root."""

    name: str
    size: int
    """Bytes."""
    changed: float
    """Seconds since 1970, on the clock of the storage."""
    stamp: str
    """Differs when the file was written anew."""


class Storage(Protocol):
    """Files below one root, named with forward slashes."""

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        """Those directly in a folder (the root, or a name that ends in a slash), in the order of their names."""

    def walk(self) -> Iterator[StoredFile]:
        """Those at any depth in the order of their names; only one folder's entries are in memory at a time."""

    def read(self, name: str) -> bytes:
        """The whole file; OSError when it is not there or refused."""

    def open(self, name: str) -> pa.NativeFile:
        """The file for reading at any offset; OSError when it is not there or refused."""

    def stream(self, name: str) -> pa.NativeFile:
        """The file from its start to its end, buffered; OSError when it is not there or refused."""

    def version(self, name: str) -> Hashable:
        """Differs when the file changed since it was asked for last, where that costs no request."""

    def place(self, name: str = "") -> str:
        """The full address, for messages."""


class LocalStorage:
    """A local folder. Links to files are followed, links to folders are not."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        return (_stored(name, found) for name, found in self._entries(folder) if not stat.S_ISDIR(found.st_mode))

    def walk(self) -> Iterator[StoredFile]:
        return self._walk("")

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def open(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self.root / name))

    def stream(self, name: str) -> pa.NativeFile:
        return pa.input_stream(str(self.root / name), compression=None, buffer_size=1 << 20)

    def version(self, name: str) -> Hashable:
        return (self.root / name).stat().st_mtime_ns

    def place(self, name: str = "") -> str:
        return str(self.root / name)

    def _walk(self, folder: str) -> Iterator[StoredFile]:
        for name, found in self._entries(folder):
            if stat.S_ISDIR(found.st_mode):
                yield from self._walk(f"{name}/")
            else:
                yield _stored(name, found)

    def _entries(self, folder: str) -> list[tuple[str, os.stat_result]]:
        """Regular files and folders by their name below the root, each where its files' names come in the order."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = [(entry, _status(entry)) for entry in entries]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []
        kept = [(f"{folder}{entry.name}", status) for entry, status in found if status is not None]
        return sorted(kept, key=lambda item: f"{item[0]}/" if stat.S_ISDIR(item[1].st_mode) else item[0])


def _status(entry: "os.DirEntry[str]") -> os.stat_result | None:
    """What an entry is; None for what is neither a folder nor (a link to) a file."""
    try:
        if entry.is_dir(follow_symlinks=False) or entry.is_file():
            return entry.stat()
    except OSError:  # gone in the meantime, or a circle of links
        return None
    return None


def _stored(name: str, found: os.stat_result) -> StoredFile:
    # The time of the inode's change can't be set back, unlike that of the content's.
    stamp = f"{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
    return StoredFile(name, found.st_size, max(found.st_mtime, found.st_ctime), stamp)


class ObjectStorage:
    """A prefix of an object store, or of any other pyarrow file system.

    A file or folder that is not there is an OSError; a store that cannot be reached, or refuses, is a DataError.
    """

    def __init__(self, filesystem: pafs.FileSystem, root: str, address: str) -> None:
        self._filesystem, self._root, self._address = filesystem, root.rstrip("/"), address.rstrip("/")
        self._opened = lru_cache(maxsize=OPEN_HANDLES)(self._open)

    def kind(self) -> str:
        """`file`, `folder` or `none`: what the root itself is."""
        with reaching(self._address):
            kind = self._filesystem.get_file_info(self._root).type
            return {pafs.FileType.File: "file", pafs.FileType.Directory: "folder"}.get(kind, "none")

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        return (_object(name, found) for name, found in self._entries(folder) if found.is_file)

    def walk(self) -> Iterator[StoredFile]:
        return self._walk("")

    def read(self, name: str) -> bytes:
        with reaching(self.place(name)), self._filesystem.open_input_stream(self._path(name)) as handle:
            content: bytes = handle.read()
            return content

    def open(self, name: str) -> pa.NativeFile:
        return self._opened(name)

    def stream(self, name: str) -> pa.NativeFile:
        with reaching(self.place(name)):
            return self._filesystem.open_input_stream(self._path(name), compression=None, buffer_size=8 << 20)

    def version(self, name: str) -> Hashable:  # noqa: ARG002 - asking costs a request for every picture
        return None

    def place(self, name: str = "") -> str:
        return f"{self._address}/{name}" if name else self._address

    def _open(self, name: str) -> pa.NativeFile:
        with reaching(self.place(name)):
            return self._filesystem.open_input_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _walk(self, folder: str) -> Iterator[StoredFile]:
        for name, found in self._entries(folder):
            if found.is_file:
                yield _object(name, found)
            else:
                yield from self._walk(f"{name}/")

    def _entries(self, folder: str) -> list[tuple[str, pafs.FileInfo]]:
        with reaching(self.place(folder)):
            try:
                found = self._filesystem.get_file_info(pafs.FileSelector(self._path(folder).rstrip("/")))
            except FileNotFoundError:
                return []
        kept = [(f"{folder}{info.base_name}", info) for info in found]
        return sorted(kept, key=lambda item: item[0] if item[1].is_file else f"{item[0]}/")


def _object(name: str, found: pafs.FileInfo) -> StoredFile:
    # A store that tells no time of change could change at any: its files count as changing still.
    changed = math.inf if found.mtime_ns is None else found.mtime_ns / 1e9
    return StoredFile(name, found.size, changed, f"{found.mtime_ns}")


def object_storage(address: str) -> ObjectStorage:
    """Open `scheme://bucket/prefix`.

    S3 takes its endpoint, credentials and region from the environment (AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION or AWS_DEFAULT_REGION) and
    AWS's own files; other schemes go to pyarrow, and those that it does not know to fsspec. Raises DataError for a
    scheme that neither knows and for credentials inside the address: it is written into the run.
    """
    parts = urlsplit(address)
    if parts.username or parts.password:
        raise DataError(
            f"{parts.scheme}://...@{parts.hostname}: addresses are written down, and must hold no credentials; "
            "put them into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    root = address.split("://", 1)[1]
    if not root.strip("/"):
        raise DataError(f"{address} names no bucket; give {parts.scheme}://BUCKET/PREFIX")
    filesystem = _s3(parts.netloc) if parts.scheme in {"s3", "s3a"} else None
    if filesystem is None:
        filesystem, root = _other(address, parts.scheme)
    return ObjectStorage(filesystem, root, address)


def _s3(bucket: str) -> pafs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with reaching(f"s3://{bucket}"):
        if region is None and endpoint is None:
            region = pafs.resolve_s3_region(bucket)
        unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in {"1", "true", "yes"}
        return pafs.S3FileSystem(
            region=region,
            endpoint_override=endpoint,
            anonymous=unsigned,
            connect_timeout=10,
            request_timeout=60,
        )


def _other(address: str, scheme: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, path = pafs.FileSystem.from_uri(address)
        return filesystem, str(path)
    except (pa.ArrowException, ImportError, OSError):
        pass
    try:
        import fsspec

        filesystem, path = fsspec.url_to_fs(address)
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
    except (ImportError, ValueError) as unknown:
        raise DataError(
            f"{address}: no file system for {scheme}:// ({unknown}); install fsspec's package for it, or copy the files"
        ) from None


_REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY",
    "SIGNATURE",
    "MISSING_AUTH",
    "CREDENTIALS",
    "STATUS 401",
    "STATUS 403",
)
_UNREACHED = ("NETWORK_CONNECTION", "CURLCODE", "TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE")


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn what an object store answers into a DataError; FileNotFoundError passes."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise unreadable(place, "cannot be read", error, "check the address and the permissions") from None


def unreadable(place: str, state: str, error: Exception, remedy: str) -> DataError:
    """`place state (error); remedy`, unless the error is the object store's: then with the remedy for that."""
    text = str(error)
    upper = text.upper() if "AWS Error" in text else ""
    if "NO_SUCH_BUCKET" in upper:
        return DataError(f"{place}: the bucket does not exist; check the address and AWS_ENDPOINT_URL")
    if any(mark in upper for mark in _UNREACHED):
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "the default endpoint"
        return DataError(
            f"{place}: the object store at {endpoint} does not answer ({_last(text)}); check AWS_ENDPOINT_URL, "
            "AWS_REGION and the network, and try again"
        )
    if any(mark in upper for mark in _REFUSED):
        return DataError(
            f"{place}: the object store refuses access ({_last(text)}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to an identity that may list and read it (to push, also write and "
            "delete), or AWS_NO_SIGN_REQUEST=1 for a public bucket"
        )
    return DataError(f"{place} {state} ({text}); {remedy}")


def _last(text: str) -> str:
    """The part of an AWS message that says why."""
    return text.split("operation: ", 1)[-1].split("; Details:", 1)[0].strip() or "no reason given"
