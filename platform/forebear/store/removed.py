"""Samples that were taken out of a store's answers: a list beside the embeddings, so that it is effective at once."""

import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from forebear.config import STRICT, parse, plain
from forebear.errors import ForebearError, StoreError
from forebear.files import read_json, write_json

REMOVED_FILE = "removed.json"
FORMAT_VERSION = 1
REMEDY = "restore the file from a copy; without it, nothing is known of what was removed, so nothing is answered"


@dataclass(frozen=True, config=STRICT)
class RemovedSample:
    """A sample that no answer may name or count."""

    sample_id: str
    """Whose."""
    time: str
    """When it was removed: ISO 8601, UTC."""
    reason: str
    """As it was given."""


@dataclass(frozen=True, config=STRICT)
class _File:
    removed: tuple[RemovedSample, ...]
    format_version: int


Removed = Mapping[str, RemovedSample]
"""By sample id."""


def read_removed(folder: Path) -> Removed:
    """The removed samples of the store in `folder`; empty without a list.

    Raises StoreError when the list cannot be read: a removed image must not come back because a file is damaged.
    """
    path = folder / REMOVED_FILE
    if not path.exists():
        return {}
    return _checked(read_json(path, StoreError, REMEDY), str(path))


def listed_in(content: bytes, place: str) -> Removed:
    """The removed samples of a list that lies elsewhere, at `place`; raises StoreError when it cannot be read."""
    try:
        values = json.loads(content)
    except ValueError:
        raise StoreError(f"{place} is not valid JSON; {REMEDY}") from None
    return _checked(values, place)


def merge_removed(folder: Path, others: Removed) -> tuple[str, ...]:
    """Take samples out that another store's list names, with its times and reasons; returns those not out already."""

    def add(known: dict[str, RemovedSample]) -> tuple[str, ...]:
        fresh = [name for name in others if name not in known]
        known.update({name: others[name] for name in fresh})
        return tuple(fresh)

    return _change(folder, add)


def remove_samples(folder: Path, ids: Iterable[str], reason: str) -> tuple[str, ...]:
    """Take samples out of every answer; returns those that were not out already. Raises what `read_removed` raises."""
    now = datetime.now(UTC).isoformat(timespec="seconds")

    def add(known: dict[str, RemovedSample]) -> tuple[str, ...]:
        fresh = [name for name in dict.fromkeys(ids) if name not in known]
        known.update({name: RemovedSample(name, now, reason) for name in fresh})
        return tuple(fresh)

    return _change(folder, add)


def restore_samples(folder: Path, ids: Iterable[str]) -> tuple[str, ...]:
    """Let samples into answers again; returns those that were out. Raises what reading the list raises."""
    return _change(folder, lambda known: tuple(name for name in dict.fromkeys(ids) if known.pop(name, None)))


def stamp(folder: Path) -> tuple[int, int] | None:
    """Changes whenever the list does: for processes that stay open."""
    try:
        status = (folder / REMOVED_FILE).stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino


def _checked(values: Any, place: str) -> Removed:
    try:
        found = parse(_File, values, place)
    except ForebearError as invalid:
        raise StoreError(f"{invalid}; {REMEDY}") from None
    if found.format_version != FORMAT_VERSION:
        raise StoreError(f"{place} is of format version {found.format_version}, not {FORMAT_VERSION}; update Forebear")
    return {one.sample_id: one for one in found.removed}


def _change(folder: Path, edit: Callable[[dict[str, RemovedSample]], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        with alone(folder):
            known = dict(read_removed(folder))
            done = edit(known)
            if done:
                listed = [plain(known[name]) for name in sorted(known)]
                write_json(folder / REMOVED_FILE, {"format_version": FORMAT_VERSION, "removed": listed})
    except OSError as refused:
        raise StoreError(
            f"{folder / REMOVED_FILE} cannot be written ({refused.strerror or refused}), so nothing was changed; make "
            "room or the folder writable, and try again"
        ) from None
    return done


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One change at a time: of two at once, the second would forget the first."""
    while True:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_ino != folder.stat().st_ino:
                continue  # while this process waited, a compacted store took the folder's place
            yield
            return
        finally:
            os.close(descriptor)
