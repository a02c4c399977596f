"""Keeps what a scan found until a file of the source changes, so that a process opens a large set in seconds."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import PIL

from forebear.data.catalogue import Catalogue, in_memory, read_catalogue, write_catalogue
from forebear.data.folder import REFUSED
from forebear.data.training_set import FileSource, Source
from forebear.errors import DataError
from forebear.files import fingerprint
from forebear.version import __version__

FORMAT = 1
"""Counts up when a scan of the same files finds something else than before."""
SETTLED_SECONDS = 10.0
"""A source with a younger file is not kept: a file may change again within one tick of its clock."""

ABANDONED_SECONDS = 14 * 24 * 3600.0
"""An unfinished catalogue of this age is removed."""


def cache_folder() -> Path | None:
    """Where catalogues are kept: FOREBEAR_CACHE, by default ~/.cache/forebear; None when it is set to nothing."""
    chosen = os.environ.get("FOREBEAR_CACHE")
    if chosen is not None:
        return Path(chosen).expanduser() if chosen else None
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "forebear"


def catalogue_of(source: Source, address: str, settings: Mapping[str, Any]) -> Catalogue:
    """The catalogue of a source, scanned only when no catalogue of the same files and settings is kept.

    The same files: the same names, sizes and times of change. Older catalogues of the same address and settings are
    removed. Where nothing can be kept, the catalogue lies in a nameless temporary file as long as this process.
    Raises what the scan raises.
    """
    if not isinstance(source, FileSource):
        return in_memory(source.scan())
    started = time.time()
    listing, newest = _listing(source)
    decides = {"format": FORMAT, "version": __version__, "pillow": PIL.__version__, **settings}
    owner = fingerprint([address if "://" in address else str(Path(address).expanduser().absolute()), decides])[:16]
    name = f"{owner}-{listing}"
    folder = cache_folder()
    if folder is not None:
        with suppress(DataError):
            return read_catalogue(folder / "catalogues" / name)
    if folder is None or newest > started - SETTLED_SECONDS:
        return _temporary(source)
    try:
        (folder / "catalogues").mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".part", dir=folder / "catalogues"))
    except OSError:
        return _temporary(source)
    return _kept(source, part, folder / "catalogues" / name, owner)


def _kept(source: FileSource, part: Path, target: Path, owner: str) -> Catalogue:
    try:
        write_catalogue(part, source.scan())
        found = read_catalogue(part)  # mapped, so it stays whole wherever the folder goes
        if any(entry.reason.startswith(REFUSED) for entry in found.quarantined):
            return found
        for older in target.parent.glob(f"{owner}-*"):
            if older.suffix != ".part" or _abandoned(older):
                shutil.rmtree(older, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            part.rename(target)
        return found
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _abandoned(part: Path) -> bool:
    """Whether a scan that was killed left this; no scan takes so long."""
    try:
        return part.stat().st_mtime < time.time() - ABANDONED_SECONDS
    except OSError:
        return False


def _temporary(source: FileSource) -> Catalogue:
    with tempfile.TemporaryDirectory(prefix="forebear-catalogue-") as folder:
        write_catalogue(Path(folder), source.scan())
        return read_catalogue(Path(folder))


def _listing(source: FileSource) -> tuple[str, float]:
    """A digest of the source's files, and when the youngest changed, in seconds since 1970."""
    digest, newest = hashlib.blake2b(digest_size=16), 0.0
    for file in source.files():
        digest.update(f"{file.size} {file.stamp} {file.name}\n".encode("utf-8", "surrogateescape"))
        newest = max(newest, file.changed)
    return digest.hexdigest(), newest
