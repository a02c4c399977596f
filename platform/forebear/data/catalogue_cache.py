"""Keeps what a scan found until a file of the source changes, so that a process opens a large set in seconds."""

import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL

from forebear.data.catalogue import Catalogue, in_memory, read_catalogue
from forebear.data.catalogue_scan import Journal, scan_at_once, scan_into
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

    The same files: the same names, sizes and times of change. A scan that was killed goes on where it was, unless files
    changed that it had read. Older catalogues of the same address and settings are removed. Where nothing can be kept,
    the catalogue lies in a nameless temporary file as long as this process.
    Raises what the scan raises.
    """
    if not isinstance(source, FileSource):
        return in_memory(source.scan())
    started = time.time()
    listing = _listing(source)
    decides = {"format": FORMAT, "version": __version__, "pillow": PIL.__version__, **settings}
    owner = fingerprint([address if "://" in address else str(Path(address).expanduser().absolute()), decides])[:16]
    name = f"{owner}-{listing.digest}"
    folder = cache_folder()
    if folder is not None:
        with suppress(DataError):
            return read_catalogue(folder / "catalogues" / name)
    if folder is None or listing.newest > started - SETTLED_SECONDS:
        return _temporary(source, listing)
    try:
        (folder / "catalogues").mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".part", dir=folder / "catalogues"))
    except OSError:
        return _temporary(source, listing)
    return _kept(source, listing, part, folder / "catalogues" / name, owner)


def _kept(source: FileSource, listing: "_Listing", part: Path, target: Path, owner: str) -> Catalogue:
    try:
        _scan(source, listing, part, target.with_name(f"{owner}.scan"))
        found = read_catalogue(part)  # mapped, so it stays whole wherever the folder goes
        if any(entry.reason.startswith(REFUSED) for entry in found.quarantined):
            return found
        for older in (*target.parent.glob(f"{owner}-*"), *target.parent.glob("*.scan")):
            if older.suffix not in (".part", ".scan") or _abandoned(older):
                shutil.rmtree(older, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            part.rename(target)
        return found
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _scan(source: FileSource, listing: "_Listing", part: Path, unfinished: Path) -> None:
    """Scan into `part`; what is found on the way lies in the folder `unfinished` until all is found."""
    journal = _journal(unfinished)
    if journal is None:  # another process is at it, and would be waited for in vain if it is stuck
        scan_at_once(part, source, listing.files)
        return
    keep = False
    try:
        scan_into(part, source, listing.files, journal, listing.stamp)
    except BaseException:
        keep = journal.begun
        raise
    finally:
        journal.close()
        if not keep:
            shutil.rmtree(unfinished, ignore_errors=True)


def _journal(unfinished: Path) -> Journal | None:
    """The journal of an unfinished scan, anew when it is damaged; None when it cannot be had."""
    for _ in range(2):
        try:
            return Journal(unfinished / "scan.sqlite")
        except (sqlite3.OperationalError, OSError):  # locked by another process, or not to be written
            return None
        except sqlite3.DatabaseError:
            shutil.rmtree(unfinished, ignore_errors=True)
    return None


def _abandoned(part: Path) -> bool:
    """Whether a scan that was killed left this; no scan takes so long."""
    try:
        return part.stat().st_mtime < time.time() - ABANDONED_SECONDS
    except OSError:
        return False


def _temporary(source: FileSource, listing: "_Listing") -> Catalogue:
    with tempfile.TemporaryDirectory(prefix="forebear-catalogue-") as folder:
        scan_at_once(Path(folder), source, listing.files)
        return read_catalogue(Path(folder))


@dataclass(frozen=True)
class _Listing:
    """What is known of a source's files without reading them."""

    digest: str
    files: int
    newest: float
    """When the youngest changed, in seconds since 1970."""
    up_to: tuple[str, ...]
    """Where parts are files: the digest of the files up to each one."""

    def stamp(self, part: int) -> str:
        """Differs when one of the files that decide about the parts up to this one is another."""
        if not self.up_to:
            return self.digest
        return self.up_to[part] if part < len(self.up_to) else ""


def _listing(source: FileSource) -> _Listing:
    digest, newest, count = hashlib.blake2b(digest_size=16), 0.0, 0
    up_to: list[str] = []
    for file in source.files():
        digest.update(f"{file.size} {file.stamp} {file.name}\n".encode("utf-8", "surrogateescape"))
        newest, count = max(newest, file.changed), count + 1
        if source.parts_are_files:
            up_to.append(digest.hexdigest())
    return _Listing(digest.hexdigest(), count, newest, tuple(up_to))
