"""Hands tasks to Ray actors of one CPU each, replaces those that die, and sets aside the tasks that kill them.

Ray's own retries are unlimited in Ray Data and invisible elsewhere: a task that always crashes its process would loop.
Here an actor takes one task at a time, so a death belongs to a task and can be counted against it.
"""

import os
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from forebear.errors import ForebearError, JobError

ATTEMPTS = 3
"""Deaths after which a task is set aside."""
MAX_SET_ASIDE = 10
"""Tasks set aside after which no other is begun: then the cause is hardly the tasks."""

Task = TypeVar("Task", bound=Hashable)
Task_contra = TypeVar("Task_contra", bound=Hashable, contravariant=True)


class Worker(Protocol[Task_contra]):
    """Lives in an actor. Arguments of its constructor and tasks are pickled."""

    def open(self) -> None:
        """Whatever is slow and done once; called before the first task."""

    def work(self, task: Task_contra) -> None:
        """Do one task and keep its result where the caller finds it. Doing it twice must do no harm."""


@dataclass(frozen=True)
class SetAside(Generic[Task]):
    """A task that killed its worker each time."""

    task: Task
    reason: str


def dispatch(
    make_worker: Callable[[], Worker[Task]], tasks: Sequence[Task], workers: int, done: Callable[[Task], None]
) -> list[SetAside[Task]]:
    """Do all tasks, in order of hand-out, on `workers` Ray actors of one CPU each; returns those set aside.

    `done` is called here, for each finished task. A task is tried again at most twice when its worker dies; after
    MAX_SET_ASIDE tasks that failed so, no other is begun. An exception of `open` or `work` ends the job: a
    ForebearError is raised as it is. Raises JobError when workers die again and again while they open.
    """
    with _ray(workers):
        dispatcher = _Dispatcher(make_worker, tasks, done)
        try:
            return dispatcher.run(min(workers, len(tasks)))
        finally:
            dispatcher.close()


class _Dispatcher(Generic[Task]):
    def __init__(
        self, make_worker: Callable[[], Worker[Task]], tasks: Sequence[Task], done: Callable[[Task], None]
    ) -> None:
        self._make_worker, self._done = make_worker, done
        self._queue = deque(tasks)
        self._running: dict[Any, tuple[Any, Task | None]] = {}
        """By object reference: the actor, and its task or None while it opens."""
        self._actors: set[Any] = set()
        self._deaths: Counter[Task | None] = Counter()
        self._set_aside: list[SetAside[Task]] = []

    def run(self, workers: int) -> list[SetAside[Task]]:
        import ray

        for _ in range(workers):
            self._hire()
        # An actor that still waits for a free CPU holds no task, so nothing waits for it at the end.
        while self._queue or any(task is not None for _, task in self._running.values()):
            (ready,), _ = ray.wait(list(self._running), num_returns=1)
            actor, task = self._running.pop(ready)
            death = _death(ready)
            if death is not None:
                self._bury(actor, task, death)
                continue
            if task is not None:
                self._done(task)
            else:
                del self._deaths[None]  # it can be opened: earlier failures were chance
            if self._queue:
                self._start(actor, self._queue.popleft())
        return self._set_aside

    def close(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def _hire(self) -> None:
        import ray

        # Restarts are this module's own: after one of Ray's it could not be told whose task had been lost.
        actor = ray.remote(num_cpus=1, max_restarts=0)(_actor_class()).remote(self._make_worker, Path.cwd())
        self._actors.add(actor)
        self._running[actor.open.remote()] = (actor, None)

    def _start(self, actor: Any, task: Task) -> None:
        self._running[actor.work.remote(task)] = (actor, task)

    def _bury(self, actor: Any, task: Task | None, reason: str) -> None:
        """Count a death against its task, queue the task again or set it aside, and hire another actor."""
        import ray

        self._actors.discard(actor)
        ray.kill(actor)  # it may be unreachable only, and must not work on beside its replacement
        self._deaths[task] += 1
        if task is None:
            if self._deaths[None] >= ATTEMPTS:
                raise JobError(
                    f"workers die while they open the run ({reason}); if memory is short, use fewer of them, or 0 to "
                    "work in one process"
                )
        elif self._deaths[task] < ATTEMPTS:
            self._queue.appendleft(task)
        else:
            self._set_aside.append(SetAside(task, reason))
            if len(self._set_aside) >= MAX_SET_ASIDE:
                self._queue.clear()
        if self._queue:
            self._hire()


def _actor_class() -> type[Any]:
    """The body of a Ray actor. A local class, which Ray sends by value: actors import only what their workers need."""

    class Actor:
        def __init__(self, make_worker: Any, folder: Path) -> None:
            self.make_worker, self.folder = make_worker, folder

        def open(self) -> None:
            os.chdir(self.folder)  # relative paths in a run's settings are those of the command
            self.worker = self.make_worker()
            self.worker.open()

        def work(self, task: Any) -> None:
            self.worker.work(task)

    return Actor


def _death(reference: Any) -> str | None:
    """None when the call behind `reference` returned, the reason when its actor died; raises what the call raised."""
    import ray

    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as failed:
        if isinstance(failed.cause, ForebearError):
            raise failed.cause from None
        raise
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as death:
        # RayActorError: ActorDiedError, and ActorUnavailableError when it may be the network alone.
        return " ".join(str(death).split())[:300]
    return None


@contextmanager
def _ray(workers: int) -> Iterator[None]:
    """A Ray to work on: the one that is there, the one that RAY_ADDRESS names, or one of this machine's own."""
    try:
        import ray
    except ImportError:
        raise JobError("several workers need Ray; pip install ray, or set workers to 0") from None
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        # Without an address Ray joins whatever cluster was last started on this machine.
        ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()
