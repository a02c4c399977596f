"""Work on a Ray of this machine's own: a process forked from this one does it until Ray and its actors are there.

Ray takes some six seconds to start, and then an actor ten to import torch and diffusers, which this process has done
already. So it is forked: a first worker begins at once, and actors have workers forked beside them when they begin, or
begin again after a death. Forks share the memory of libraries, models and lists of images.
"""

import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol

from forebear.forking import EndedError, Forked, can_fork, server_here, server_of
from forebear.jobs.dispatch import Actors, ray_actors, run_on_ray
from forebear.jobs.driving import UnworkableError, Watch, Worker, drive
from forebear.jobs.overtime import Clock
from forebear.jobs.pool import ADDRESS, Pool
from forebear.jobs.ray_backend import NEWS, RayBackend
from forebear.jobs.scheduler import Counts, Died, Event, Finished, Limits, Opened, Refused, Scheduler, SetAside, Task

NAME = "forebear-worker"
"""What `ps` calls a forked worker."""
FIRST_ACTOR = 30.0
"""Seconds for which an actor is waited for while the first worker goes on."""


class Crew(Protocol):
    """Runs tasks on the workers of one job, once or again and again."""

    @property
    def pool(self) -> Pool: ...

    def run(
        self, make_worker: Callable[[], Worker[Task]], tasks: Iterable[Task], watch: Watch[Task], *, gift: object = None
    ) -> list[SetAside[Task]]:
        """As `run_on_ray` says. `gift` is what `forebear.forking.inherited` gives in workers that are forked."""


@dataclass(frozen=True)
class RayCrew:
    """Ray actors, begun before or when there is work."""

    pool: Pool
    actors: Actors | None = None

    def run(
        self,
        make_worker: Callable[[], Worker[Task]],
        tasks: Iterable[Task],
        watch: Watch[Task],
        *,
        gift: object = None,  # noqa: ARG002 - nothing is forked
    ) -> list[SetAside[Task]]:
        """As Crew says."""
        return run_on_ray(make_worker, tasks, self.pool, watch, actors=self.actors)


def may_fork(pool: Pool) -> bool:
    """Whether a ForkingCrew can have the work: on a Ray of this machine alone, not begun yet, and without GPUs."""
    ray = sys.modules.get("ray")
    elsewhere = os.environ.get(ADDRESS) or (ray is not None and ray.is_initialized())
    return can_fork() and not elsewhere and not pool.gpus


class ForkingCrew:
    """A first worker forked from this process, later the pool's Ray actors with forked workers. A context manager."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._clock = Clock(pool.time_limit)
        self._held = ExitStack()
        self._ray: threading.Thread | None = None
        self._started, self._over = threading.Event(), threading.Event()
        self._outcome: Actors | BaseException | None = None

    def __enter__(self) -> "ForkingCrew":
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._ray is not None:
            self._ray.join()
        self._held.close()

    def run(
        self,
        make_worker: Callable[[], Worker[Task]],
        tasks: Iterable[Task],
        watch: Watch[Task],
        limits: Limits | None = None,
        *,
        gift: object = None,
    ) -> list[SetAside[Task]]:
        """As Crew says; `gift` is that of the first time."""
        if self._ray is None:
            self._forks = self._held.enter_context(server_here(gift))
            self._ray = threading.Thread(target=self._have_ray, daemon=True)
            self._ray.start()
        left, sent = iter(tasks), pickle.dumps(make_worker)
        first = Scheduler(_until(self._started, left), 1, limits)
        with closing(_Fork[Task](self._forks, sent)) as backend:
            set_aside = drive(first, backend, watch, self._clock)
        return set_aside if first.given_up else [*set_aside, *self._on_ray(sent, left, watch, limits, first.counts)]

    def _on_ray(
        self, sent: bytes, tasks: Iterator[Task], watch: Watch[Task], limits: Limits | None, counts: Counts
    ) -> list[SetAside[Task]]:
        self._started.wait()
        if not isinstance(self._outcome, Actors):
            raise self._outcome or RuntimeError("Ray did not start")
        scheduler = Scheduler(tasks, self.pool.workers, limits, replace(counts, workers=0))
        with closing(RayBackend[Task](partial(forked_worker, self._forks, sent), self._outcome)) as backend:
            return drive(scheduler, backend, watch, self._clock)

    def _have_ray(self) -> None:
        """Ray, from its start to its end, in one thread: its processes end with the thread that started them."""
        try:
            with ray_actors(self.pool) as actors:
                actors.begin_one(FIRST_ACTOR)
                self._outcome = actors
                self._started.set()
                self._over.wait()
        except BaseException as failure:
            self._outcome = failure
        finally:
            self._started.set()


def forked_worker(forks: Path, make_worker: bytes) -> Any:
    """A worker forked from the server of a folder, or, where that is gone, one in this process."""
    try:
        server = server_of(forks)
    except OSError:
        return pickle.loads(make_worker)()
    return Forked(make_worker, NAME, server)


def _until(over: threading.Event, tasks: Iterator[Task]) -> Iterator[Task]:
    while not over.is_set():
        try:
            yield next(tasks)
        except StopIteration:
            return


class _Fork(Generic[Task]):
    """One worker in a forked process; threads wait for what it answers."""

    waiting = ""

    def __init__(self, forks: Path, make_worker: bytes) -> None:
        self._forks, self._make = forks, make_worker
        self._worker: Forked | None = None
        self._news: SimpleQueue[Event | BaseException] = SimpleQueue()

    def hire(self, worker: int) -> None:
        def opened() -> Event:
            self._worker = Forked(self._make, NAME, server_of(self._forks), outlived=True)
            self._worker.open()
            return Opened(worker)

        self._ask(worker, opened)

    def start(self, worker: int, task: Task) -> None:
        self._ask(worker, lambda: Finished(worker, self._worker.work(task) if self._worker else None))

    def wait(self) -> list[Event]:
        try:
            told = self._news.get(timeout=NEWS)
        except Empty:
            return []
        if isinstance(told, BaseException):
            raise told
        return [told]

    def end(self, worker: int) -> bool:  # noqa: ARG002 - there is one
        if self._worker is None or not self._news.empty():
            return False
        self._worker.kill()
        return True

    def close(self) -> None:
        if self._worker is not None:
            self._worker.kill()

    def _ask(self, worker: int, call: Callable[[], Event]) -> None:
        def answer() -> None:
            try:
                told: Event | BaseException = call()
            except UnworkableError as refusal:
                told = Refused(worker, str(refusal))
            except EndedError as death:
                told = Died(worker, str(death))
            except BaseException as failure:
                told = failure
            self._news.put(told)

        threading.Thread(target=answer, daemon=True).start()
