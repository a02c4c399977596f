"""Which tasks take too long: measured against those that were done."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from forebear.errors import JobError


@dataclass(frozen=True)
class TimeLimit:
    """How long a worker may take for one task. Without `seconds` nothing is limited until a task has been done."""

    seconds: float | None = None
    """The limit itself, whatever the others took."""
    times: float = 10.0
    """Otherwise: as many times what the slowest finished task took ..."""
    floor: float = 300.0
    """... and so many seconds more: a busy disk or a checkpoint to load is no hang."""

    def __post_init__(self) -> None:
        if (self.seconds is not None and not self.seconds > 0) or self.times < 1 or self.floor < 0:
            raise JobError(f"{self} limits no task sensibly; give seconds above 0, times from 1, and a floor from 0")

    def after(self, slowest: float | None) -> float:
        """Seconds for a task when the slowest so far took `slowest`, or none is done; infinite without a limit."""
        if self.seconds is not None:
            return self.seconds
        return float("inf") if slowest is None else self.floor + self.times * slowest


class Clock:
    """Times the tasks of workers."""

    def __init__(self, limit: TimeLimit, now: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._now = limit, now
        self._since: dict[int, float] = {}
        self._slowest: float | None = None

    def start(self, worker: int) -> None:
        self._since[worker] = self._now()

    def stop(self, worker: int, *, measure: bool) -> None:
        """The worker's task ended, if it had one. `measure`: it was done, so others are measured against it."""
        since = self._since.pop(worker, None)
        if since is not None and measure:
            self._slowest = max(self._slowest or 0.0, self._now() - since)

    def overdue(self) -> list[tuple[int, str]]:
        """Workers that are above the limit, the longest first, with the reason in words."""
        limit, now = self._limit.after(self._slowest), self._now()
        late: list[tuple[int, str]] = []
        for worker, since in self._since.items():  # in the order of their starts
            if now - since <= limit:
                break
            late.append((worker, self._reason(now - since, limit)))
        return late

    def _reason(self, took: float, limit: float) -> str:
        why = "as it was set" if self._limit.seconds is not None else f"the slowest so far took {self._slowest:,.0f} s"
        return f"its worker did not answer for {took:,.0f} s and was ended (the limit is {limit:,.0f} s: {why})"
