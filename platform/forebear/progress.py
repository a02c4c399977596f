"""Progress of long work: a live line in a terminal, a plain line every half minute elsewhere, events for programs."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PLAIN_INTERVAL = 30.0
"""Seconds between plain lines when standard error is not a terminal."""
LIVE_INTERVAL = 0.2
EVENT_INTERVAL = 2.0
"""Seconds between `progress` events."""

Listener = Callable[[dict[str, Any]], None]
"""Hears an event: `event` (`begin`, `progress`, `end`), `stage`, `unit`, `done`, `total`, `rate` (units per second),
`seconds_left` (None while unknown), `note`, the facts by name, and at the end `error` (None when all went well)."""


class Progress:
    """Counts done units of a known total and shows label, rate, time left, facts and a note on standard error."""

    def __init__(self, label: str, total: int, unit: str, done: int = 0, listeners: Sequence[Listener] = ()) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._first = done
        self.note = ""
        self.facts: dict[str, int] = {}
        """Further numbers by their names, `workers`, `retried` ...; shown when they are not 0."""
        self._listeners = listeners
        self._started = self._shown = self._told = time.monotonic()
        self._live = sys.stderr.isatty()

    @property
    def rate(self) -> float:
        """Units per second since the start of this session, not counting what was done before."""
        return (self.done - self._first) / max(time.monotonic() - self._started, 1e-9)

    @property
    def seconds_left(self) -> float:
        """At the rate so far; infinite while nothing is done."""
        left = self.total - self.done
        return left / self.rate if self.rate else float("inf") if left else 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more units as done; `note` replaces the text at the end of the line."""
        self.done += count
        self.note = note or self.note
        self.tick()

    def found(self, count: int = 1, note: str = "") -> None:
        """Count units that turn out to have been done before: they are no part of the rate."""
        self._first += count
        self.advance(count, note)

    def tick(self) -> None:
        """Show what stands, when it is time; for work whose units are far apart."""
        now = time.monotonic()
        if now - self._shown >= (LIVE_INTERVAL if self._live else PLAIN_INTERVAL):
            self._shown = now
            self._write()
        if self._listeners and now - self._told >= EVENT_INTERVAL:
            self._told = now
            self.tell("progress")

    def line(self) -> str:
        share = self.done / self.total if self.total else 1.0
        parts = [f"{self.label} {self.done:,}/{self.total:,} {self.unit} ({share:.0%})", f"{self.rate:,.1f}/s"]
        parts += [f"{_clock(self.seconds_left)} left"] if self.done < self.total else []
        parts += [f"{value:,} {name.replace('_', ' ')}" for name, value in self.facts.items() if value]
        return ", ".join(parts + ([self.note] if self.note else []))

    def tell(self, event: str, **more: Any) -> None:
        """Send an event with the present numbers to every listener."""
        left = self.seconds_left
        numbers = {
            "event": event,
            "stage": self.label,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "rate": self.rate,
            "seconds_left": left if left != float("inf") else None,
            "note": self.note,
            **self.facts,
            **more,
        }
        for listener in self._listeners:
            listener(numbers)

    def _write(self, end: str = "") -> None:
        sys.stderr.write(f"\r\x1b[2K{self.line()}{end}" if self._live else f"{self.line()}\n")
        sys.stderr.flush()

    def finish(self) -> None:
        self._write(end="\n")


@contextmanager
def progress(
    label: str, total: int, unit: str, done: int = 0, listeners: Sequence[Listener] = ()
) -> Iterator[Progress]:
    """Show progress while the block runs; the last line stays, also when the block fails."""
    bar = Progress(label, total, unit, done, listeners)
    bar.tell("begin")
    error: str | None = "interrupted"
    try:
        yield bar
        error = None
    except Exception as problem:
        error = str(problem) or type(problem).__name__
        raise
    finally:
        bar.finish()
        bar.tell("end", error=error)


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
