"""Carries out what the scheduler decides, on whatever workers there are: Ray's, this process, or simulated ones."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from forebear.errors import ForebearError, JobError
from forebear.jobs.overtime import Clock
from forebear.jobs.scheduler import (
    Counts,
    Decision,
    Done,
    Event,
    Finished,
    Hire,
    Limits,
    Opened,
    Refused,
    Retry,
    Scheduler,
    SetAside,
    Start,
    Stop,
    Task,
    TimedOut,
)
from forebear.progress import Progress

NAMED_IN_ERRORS = 5
Task_contra = TypeVar("Task_contra", bound=Hashable, contravariant=True)


class UnworkableError(ForebearError):
    """Raised by a worker's `work`: this task cannot be done by anyone, others can. The task is set aside at once."""


def unworkable(problem: Exception) -> UnworkableError:
    """What to raise when `problem` is a task's own: the same in one line, with its class where it is not of ours."""
    kind = "" if isinstance(problem, ForebearError) else f"{type(problem).__name__}: "
    return UnworkableError(kind + " ".join(str(problem).split())[:500])


def first_of(given_up: Sequence[str]) -> str:
    """The first tasks that were given up, in words, and how many more there are."""
    more = f"; and {len(given_up) - NAMED_IN_ERRORS} more" if len(given_up) > NAMED_IN_ERRORS else ""
    return "; ".join(given_up[:NAMED_IN_ERRORS]) + more


class Worker(Protocol[Task_contra]):
    """Does tasks one at a time. For Ray, tasks and what makes the worker are pickled."""

    def open(self) -> None:
        """Whatever is slow and done once; called before the first task."""

    def work(self, task: Task_contra) -> object:
        """Do one task and keep its result where the caller finds it; a small value may be returned.

        False says that there was nothing to do: how long that took is no measure of other tasks. Doing a task twice
        must do no harm. UnworkableError sets the task aside; every other exception ends the job.
        """


class Watch(Generic[Task]):
    """Hears what becomes of the tasks. Every method may be left as it is."""

    def done(self, task: Task, result: object) -> None:
        """`result` is what `work` returned."""

    def retried(self, task: Task, reason: str) -> None: ...

    def set_aside(self, failed: SetAside[Task]) -> None: ...

    def tick(self, counts: Counts, waiting: str) -> None:
        """After every round of events, and about once a second; `waiting` says what workers wait for, or is empty."""


class Telling(Watch[Task]):
    """Calls a function for each task that is done."""

    def __init__(self, done: Callable[[Task], None]) -> None:
        self._done = done

    def done(self, task: Task, result: object) -> None:  # noqa: ARG002 - the watch's signature
        self._done(task)


class ProgressWatch(Watch[Task]):
    """Keeps a progress line up to date: workers, tasks tried again and set aside, and `note` or what is waited for."""

    def __init__(self, bar: Progress) -> None:
        self.bar, self.note = bar, ""

    def tick(self, counts: Counts, waiting: str) -> None:
        self.bar.facts = {"workers": counts.workers, "retried": counts.retried, "set_aside": counts.set_aside}
        self.bar.note = waiting or self.note
        self.bar.tick()


class Backend(Protocol[Task_contra]):
    """Workers by number, as a scheduler knows them."""

    @property
    def waiting(self) -> str:
        """What workers that are not open yet wait for, in a few words; mostly empty."""

    def hire(self, worker: int) -> None: ...

    def start(self, worker: int, task: Task_contra) -> None: ...

    def wait(self) -> Iterable[Event]:
        """What happened; nothing after about a second without news. Raises what would fail for every task.

        A worker that is reported dead does nothing any more.
        """

    def end(self, worker: int) -> bool:
        """End a worker that has a task; False when there is news of it, or when it cannot be ended from here."""


def drive(
    scheduler: Scheduler[Task], backend: Backend[Task], watch: Watch[Task], clock: Clock | None = None
) -> list[SetAside[Task]]:
    """Do all tasks; returns those set aside. Raises JobError when workers cannot be opened, and what `wait` raises.

    `clock` says which tasks take too long; without one they may take for ever.
    """
    set_aside: list[SetAside[Task]] = []
    decisions = scheduler.begin()
    while True:
        for decision in decisions:
            _carry_out(decision, backend, watch)
            if isinstance(decision, Start) and clock:
                clock.start(decision.worker)
            if isinstance(decision, SetAside):
                set_aside.append(decision)
        if scheduler.over:
            watch.tick(scheduler.counts, "")
            return set_aside
        decisions = [decision for event in _news(backend, clock) for decision in scheduler.handle(event)]
        watch.tick(scheduler.counts, backend.waiting)


def _news(backend: Backend[Task], clock: Clock | None) -> Iterator[Event]:
    """What the backend says, and which workers were ended because they took too long."""
    if clock is None:
        yield from backend.wait()
        return
    for event in backend.wait():
        clock.stop(event.worker, measure=isinstance(event, Finished) and event.result is not False)
        yield event
    for worker, reason in clock.overdue():
        if backend.end(worker):
            clock.stop(worker, measure=False)
            yield TimedOut(worker, reason)


def _carry_out(decision: Decision[Task], backend: Backend[Task], watch: Watch[Task]) -> None:
    match decision:
        case Start(worker, task):
            backend.start(worker, task)
        case Done(task, result):
            watch.done(task, result)
        case Hire(worker):
            backend.hire(worker)
        case Retry(task, reason):
            watch.retried(task, reason)
        case SetAside():
            watch.set_aside(decision)
        case Stop(reason):
            raise JobError(
                f"workers die while they open the run ({reason}); if memory is short, use fewer of them, or 0 to work "
                "in one process"
            )


class _Here(Generic[Task]):
    """One worker in this process."""

    waiting = ""

    def __init__(self, worker: Worker[Task]) -> None:
        self._worker = worker
        self._next: list[tuple[int, Task | None]] = []

    def hire(self, worker: int) -> None:
        self._worker.open()
        self._next.append((worker, None))

    def start(self, worker: int, task: Task) -> None:
        self._next.append((worker, task))

    def wait(self) -> list[Event]:
        worker, task = self._next.pop()
        if task is None:
            return [Opened(worker)]
        try:
            return [Finished(worker, self._worker.work(task))]
        except UnworkableError as refusal:
            return [Refused(worker, str(refusal))]

    def end(self, worker: int) -> bool:  # noqa: ARG002 - this process cannot end itself
        return False


def run_here(
    worker: Worker[Task], tasks: Iterable[Task], watch: Watch[Task], limits: Limits | None = None
) -> list[SetAside[Task]]:
    """Do all tasks in this process, in order; returns those set aside. Exceptions of `open` and `work` end the job."""
    return drive(Scheduler(tasks, 1, limits), _Here(worker), watch)
