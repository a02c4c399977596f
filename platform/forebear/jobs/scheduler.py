"""Which worker does which task next: decided from what happened, without a clock, a process or Ray.

A worker holds one task at a time, so a death belongs to a task and can be counted against it. Ray's own retries are
unlimited in Ray Data and invisible elsewhere: a task that always crashes its process would loop. Tasks are drawn from
an iterator as workers come free; memory is for the workers and for tasks that were tried and not done, never for all.
"""

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Task = TypeVar("Task", bound=Hashable)


@dataclass(frozen=True)
class Limits:
    """How much goes wrong before a task, or all of the work, is given up."""

    attempts: int = 3
    """Tries of a task that its worker does not survive, or does not end in time."""
    losses: int = 10
    """Tries of a task whose machine was lost under it: hardly the task's doing, but a task can take a machine down."""
    set_aside: int = 10
    """Tasks set aside after which no other is begun, unless they are a small share of what was done."""
    set_aside_share: float = 0.01


@dataclass(frozen=True, slots=True)
class Opened:
    """A worker is ready for its first task."""

    worker: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A worker did its task."""

    worker: int
    result: object = None
    """What the work returned."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A task that no worker can do; this one is unharmed."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Died:
    """A worker is gone, and with it what it was doing."""

    worker: int
    reason: str
    machine_lost: bool = False


@dataclass(frozen=True, slots=True)
class TimedOut:
    """A worker took too long for its task and is gone: a death of the task's own doing."""

    worker: int
    reason: str


Event = Opened | Finished | Refused | Died | TimedOut


@dataclass(frozen=True, slots=True)
class Hire:
    """Open a worker of this number, when and where there is room."""

    worker: int


@dataclass(frozen=True, slots=True)
class Start(Generic[Task]):
    """Give a task to a free worker."""

    worker: int
    task: Task


@dataclass(frozen=True, slots=True)
class Done(Generic[Task]):
    """A task is done, and is never given out again."""

    task: Task
    result: object


@dataclass(frozen=True, slots=True)
class Retry(Generic[Task]):
    """A task lost its worker and is queued again."""

    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class SetAside(Generic[Task]):
    """A task that was given up, and is never given out again."""

    task: Task
    reason: str
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Stop:
    """All of the work is given up: workers cannot be opened."""

    reason: str


Decision = Hire | Start[Task] | Done[Task] | Retry[Task] | SetAside[Task] | Stop


@dataclass
class Counts:
    """What happened so far."""

    workers: int = 0
    """Open now."""
    started: int = 0
    """Tries that were begun."""
    done: int = 0
    retried: int = 0
    set_aside: int = 0
    deaths: int = 0
    """Of workers, whatever they were doing, those that took too long among them."""
    timed_out: int = 0


class Scheduler(Generic[Task]):
    """Takes events, gives decisions. Whoever drives it carries out each decision and reports what becomes of it.

    Every task of `tasks` (all different) is done once, set aside, or, after too many were set aside, never begun.
    """

    def __init__(
        self, tasks: Iterable[Task], workers: int, limits: Limits | None = None, counts: Counts | None = None
    ) -> None:
        """`counts`: of tasks before these, which count on."""
        self.workers, self.limits, self.counts = workers, limits or Limits(), counts or Counts()
        self._left, self._exhausted = iter(tasks), False
        self._queue: deque[Task] = deque()
        """Next to be given out: tasks to be tried again, and few of those that are left."""
        self._opening: set[int] = set()
        self._idle: deque[int] = deque()
        self._busy: dict[int, Task] = {}
        self._tries: dict[Task, list[int]] = {}
        """Of tasks that lost a worker and are not done: deaths, and machines lost."""
        self._hired = self._failed_openings = 0
        self._ever_opened = self.given_up = False
        """`given_up`: so many tasks were set aside that no other is begun."""

    @property
    def over(self) -> bool:
        """Whether nothing is under way and nothing left to begin."""
        return not self._busy and (self.given_up or not self._backlog(1))

    @property
    def in_flight(self) -> int:
        """Tasks that workers hold."""
        return len(self._busy)

    def begin(self) -> list[Decision[Task]]:
        """The first hires; none when there are no tasks."""
        return self._assign()

    def handle(self, event: Event) -> list[Decision[Task]]:
        """What to do after `event`. Late word of a worker that was given up changes nothing, nor that it
        took too long for a task that it does not have."""
        worker = event.worker
        if isinstance(event, TimedOut) and worker not in self._busy:
            return []
        if worker in self._opening:
            decisions = self._opened(event)
        elif worker in self._busy:
            decisions = self._settled(event)
        elif worker in self._idle and isinstance(event, Died):
            self._idle.remove(worker)
            self._bury()
            decisions = []
        else:
            return []
        return [*decisions, *self._assign()]

    def _opened(self, event: Event) -> list[Decision[Task]]:
        self._opening.discard(event.worker)
        if not isinstance(event, Died):
            self._idle.append(event.worker)
            self._ever_opened, self._failed_openings = True, 0  # it can be done: earlier failures were chance
            self.counts.workers += 1
            return []
        self.counts.deaths += 1
        self._failed_openings += not event.machine_lost
        # Once workers have opened, many may fail together where a machine has trouble.
        most = self.limits.attempts + (self.workers if self._ever_opened else 0)
        return [Stop(event.reason)] if self._failed_openings >= most else []

    def _settled(self, event: Event) -> list[Decision[Task]]:
        """What becomes of the task of a busy worker."""
        task = self._busy.pop(event.worker)
        if isinstance(event, Died | TimedOut):
            self._bury()
            self.counts.timed_out += isinstance(event, TimedOut)
            tries = self._tries.setdefault(task, [0, 0])
            tries[isinstance(event, Died) and event.machine_lost] += 1
            if tries[0] >= self.limits.attempts or tries[1] >= self.limits.losses:
                return [self._give_up(task, event.reason)]
            self._queue.appendleft(task)
            self.counts.retried += 1
            return [Retry(task, event.reason)]
        self._idle.append(event.worker)
        if isinstance(event, Refused):
            return [self._give_up(task, event.reason)]
        self._tries.pop(task, None)
        self.counts.done += 1
        return [Done(task, event.result if isinstance(event, Finished) else None)]

    def _bury(self) -> None:
        self.counts.deaths += 1
        self.counts.workers -= 1

    def _give_up(self, task: Task, reason: str) -> SetAside[Task]:
        tries = max(1, sum(self._tries.pop(task, [0, 0])))
        self.counts.set_aside += 1
        most = max(self.limits.set_aside, self.limits.set_aside_share * self.counts.done)
        self.given_up = self.given_up or self.counts.set_aside >= most
        return SetAside(task, reason, tries)

    def _assign(self) -> list[Decision[Task]]:
        """Give tasks to free workers, and hire as many as the tasks beyond those can keep busy."""
        decisions: list[Decision[Task]] = []
        if self.given_up:
            return decisions
        while self._idle and self._backlog(1):
            worker, task = self._idle.popleft(), self._queue.popleft()
            self._busy[worker] = task
            self.counts.started += 1
            decisions.append(Start(worker, task))
        missing = self.workers - len(self._opening) - len(self._idle) - len(self._busy)
        if missing > 0:
            for _ in range(min(missing, self._backlog(missing + len(self._opening)) - len(self._opening))):
                self._hired += 1
                self._opening.add(self._hired)
                decisions.append(Hire(self._hired))
        return decisions

    def _backlog(self, count: int) -> int:
        """How many tasks are queued, up to `count`; draws that many from the iterator where it has them."""
        while len(self._queue) < count and not self._exhausted:
            try:
                self._queue.append(next(self._left))
            except StopIteration:
                self._exhausted = True
        return min(len(self._queue), count)
