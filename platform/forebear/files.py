"""Files that are either whole or absent: written beside, synced, then renamed."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from forebear.errors import ForebearError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a `.part` path to write to; on success sync it and rename it to `path`, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb+") as handle:
            os.fsync(handle.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, error: type[ForebearError], remedy: str) -> Any:
    """Read JSON from `path`; raise `error` with `remedy` when the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist; {remedy}") from None
    except OSError as refused:
        raise error(f"{path} cannot be read ({refused.strerror}); {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise error(f"{path} is not valid JSON; {remedy}") from None


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """32 hexadecimal digits that identify a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint_of_items(items: Iterable[Any]) -> str:
    """`fingerprint(list(items))` without ever holding the list."""
    digest = hashlib.blake2b(b"[", digest_size=16)
    for place, item in enumerate(items):
        text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest.update(f",{text}".encode() if place else text.encode())
    digest.update(b"]")
    return digest.hexdigest()
