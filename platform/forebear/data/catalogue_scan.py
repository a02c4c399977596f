"""A scan that goes on where it was killed: what each part of the source gave is kept until all parts are there."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from forebear.data.catalogue import QUARANTINE_SCHEMA, SAMPLE_SCHEMA, copy_catalogue, write_catalogue, write_entries
from forebear.data.occurrences import Occurrences
from forebear.data.sample import Entry
from forebear.data.scanning import Scan
from forebear.data.training_set import FileSource
from forebear.errors import DataError
from forebear.progress import Progress

QUIET = 5.0
"""Seconds after which a scan shows how far it is."""
LOOK = 64
"""Entries between two looks at the clock."""
TABLES = ("batches (number INTEGER PRIMARY KEY, kind TEXT, content BLOB)", "parts (stamp TEXT, facts TEXT)")
SCHEMAS = {"samples": SAMPLE_SCHEMA, "quarantined": QUARANTINE_SCHEMA}


class Journal:
    """What the parts of a source gave, each part whole or not at all, in a file that one process holds at a time."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error when another process holds it, or when it is damaged."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        try:
            for command in ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA synchronous = FULL", "BEGIN EXCLUSIVE"):
                self._database.execute(command)
            for table in TABLES:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS {table}")
            self._seen = Occurrences(self._database)
            self._database.execute("COMMIT")
        except sqlite3.Error:
            self._database.close()
            raise

    @property
    def begun(self) -> bool:
        """Whether a part is done."""
        return bool(self._database.execute("SELECT count(*) FROM parts").fetchone()[0])

    def resume(self, stamp: Callable[[int], str]) -> Scan:
        """Where to go on. `stamp` says of the files of all parts up to one whether they are those that were read."""
        done, last = self._database.execute("SELECT count(*), max(rowid) FROM parts").fetchone()
        if done:
            kept, facts = self._database.execute("SELECT stamp, facts FROM parts WHERE rowid = ?", (last,)).fetchone()
            if kept == stamp(done - 1):
                return Scan(self._seen, done, json.loads(facts))
        for command in ("BEGIN", "DELETE FROM batches", "DELETE FROM parts", "DELETE FROM seen", "COMMIT"):
            self._database.execute(command)
        return Scan(self._seen)

    def keep(self, entries: Iterator[Entry], scan: Scan, stamp: str) -> None:
        """Read a part and keep what it gave; counts it as done."""
        self._database.execute("BEGIN")
        try:
            write_entries(entries, self._writer("samples"), self._writer("quarantined"))
            self._database.execute("INSERT INTO parts VALUES (?, ?)", (stamp, json.dumps(scan.facts)))
            self._database.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):  # a full disk has rolled it back already
                self._database.execute("ROLLBACK")
            raise
        scan.done += 1

    def batches(self, kind: str) -> Iterator[pa.RecordBatch]:
        """`samples` or `quarantined`, in the order of the source."""
        found = self._database.execute("SELECT content FROM batches WHERE kind = ? ORDER BY number", (kind,))
        return (pa.ipc.read_record_batch(pa.py_buffer(content), SCHEMAS[kind]) for (content,) in found)

    def close(self) -> None:
        self._database.close()

    def _writer(self, kind: str) -> Callable[[pa.RecordBatch], object]:
        def write(batch: pa.RecordBatch) -> None:
            content = batch.serialize().to_pybytes()
            self._database.execute("INSERT INTO batches (kind, content) VALUES (?, ?)", (kind, content))

        return write


def scan_into(folder: Path, source: FileSource, files: int, journal: Journal, stamp: Callable[[int], str]) -> None:
    """Scan the parts of a source of so many files that are not in the journal yet; then write the catalogue.

    Raises what the scan raises; what the parts before it gave stays in the journal.
    """
    scan = journal.resume(stamp)
    with _Report(source, files, scan) as report:
        for part in source.parts(scan):
            try:
                journal.keep(report.entries(part), scan, stamp(scan.done))
            except sqlite3.Error as full:
                raise DataError(
                    f"what the scan finds cannot be kept ({full}); make room, or set FOREBEAR_CACHE to another folder"
                ) from None
    copy_catalogue(folder, journal.batches("samples"), journal.batches("quarantined"))


def scan_at_once(folder: Path, source: FileSource, files: int) -> None:
    """Scan a source and write its catalogue without keeping anything in between."""
    scan = Scan(Occurrences())
    try:
        with _Report(source, files, scan) as report:
            write_catalogue(folder, (entry for part in source.parts(scan) for entry in report.entries(part)))
    finally:
        scan.seen.close()


class _Report:
    """Shows how far a scan is, when it takes long."""

    def __init__(self, source: FileSource, files: int, scan: Scan) -> None:
        self._by_file, self._files, self._scan = source.parts_are_files, files, scan
        self._started, self._entries, self._parts = time.monotonic(), 0, scan.done
        self._bar: Progress | None = None

    def entries(self, part: Iterator[Entry]) -> Iterator[Entry]:
        for entry in part:
            self._entries += 1
            if self._entries % LOOK == 0:
                self._look()
            yield entry
        self._parts += 1

    def _look(self) -> None:
        if self._bar is None:
            if time.monotonic() - self._started < QUIET:
                return
            self._bar = Progress("reading images", self._files, "files", self._done)
        self._bar.done, self._bar.note = self._done, f"{self._entries:,} images now"
        self._bar.tick()

    @property
    def _done(self) -> int:
        return self._parts if self._by_file else min(self._files, self._entries)

    def __enter__(self) -> "_Report":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.done = self._done
            self._bar.finish()
