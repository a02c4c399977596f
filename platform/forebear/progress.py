"""Progress of long work: a live line in a terminal, one plain line every half minute elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PLAIN_INTERVAL = 30.0
"""Seconds between plain lines when standard error is not a terminal."""


class Progress:
    """Counts done units of a known total and shows label, rate, time left and an optional note on standard error."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._first = done
        self.note = ""
        self._started = self._shown = time.monotonic()
        self._live = sys.stderr.isatty()

    @property
    def rate(self) -> float:
        """Units per second since the start of this session, not counting what was done before."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` replaces the text at the end of the line."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._live else PLAIN_INTERVAL):
            self._shown = now
            self._write()

    def line(self) -> str:
        left = (self.total - self.done) / self.rate if self.rate else float("inf")
        share = self.done / self.total if self.total else 1.0
        parts = [f"{self.label} {self.done:,}/{self.total:,} {self.unit} ({share:.0%})", f"{self.rate:,.1f}/s"]
        parts += [f"{_clock(left)} left"] if self.done < self.total else []
        return ", ".join(parts + ([self.note] if self.note else []))

    def _write(self, end: str = "") -> None:
        sys.stderr.write(f"\r\x1b[2K{self.line()}{end}" if self._live else f"{self.line()}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        self._write(end="\n")


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Show progress while the block runs; the last line stays, also when the block fails."""
    bar = Progress(label, total, unit, done)
    try:
        yield bar
    finally:
        bar.finish()


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
