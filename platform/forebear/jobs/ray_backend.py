"""Workers that are Ray actors."""

import os
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from forebear.errors import ForebearError, JobError
from forebear.jobs.driving import UnworkableError, Worker
from forebear.jobs.pool import Pool
from forebear.jobs.scheduler import Died, Event, Finished, Opened, Refused

BATCH = 256
"""Finished calls that are taken at a time."""
NEWS = 1.0
"""Seconds after which a wait without news returns."""
PATIENCE = 300.0
"""Seconds without an open worker after which a cluster is given up that has no machine large enough for one."""

Task = TypeVar("Task", bound=Hashable)


class Actors:
    """A pool's actors, before they are workers. `growing`: machines may join the Ray that they live on."""

    def __init__(self, pool: Pool, *, growing: bool) -> None:
        import ray

        self.pool, self.growing = pool, growing
        # Without restarts a death is final.
        self._class = ray.remote(max_restarts=0, **pool.options)(_actor_class())
        self._ready: list[Any] = []

    def prepare(self, load: Callable[[], object]) -> list[Any]:
        """Begin the pool's actors now; each calls `load`: the references. What it raises, the work will raise again."""
        self._ready = [self._class.remote() for _ in range(self.pool.workers)]
        return [actor.prepare.remote(load) for actor in self._ready]

    def begin_one(self, seconds: float) -> None:
        """Begin the pool's actors, and wait for the first of them; not where none has room on this Ray."""
        import ray

        begun = self.prepare(_nothing)
        if any(self.pool.fits(node["Resources"]) for node in ray.nodes()):
            ray.wait(begun, num_returns=1, timeout=seconds)

    def take(self) -> Any:
        return self._ready.pop(0) if self._ready else self._class.remote()

    def close(self) -> None:
        """End those that were not taken."""
        import ray

        while self._ready:
            ray.kill(self._ready.pop())


class RayBackend(Generic[Task]):
    """Actors by the scheduler's numbers, replaced by it alone: after one of Ray's own restarts it could not be told
    whose task had been lost. A worker that fits nowhere yet is waited for where machines may join.
    """

    def __init__(self, make_worker: Callable[[], Worker[Task]], actors: Actors) -> None:
        import ray

        self._ray, self._pool, self._growing, self._source = ray, actors.pool, actors.growing, actors
        # Sent once, not with every actor.
        self._make = ray.put((make_worker, str(Path.cwd())))
        self._actors: dict[int, Any] = {}
        self._machines: dict[int, str] = {}
        """By worker: the machine that it opened on."""
        self._calls: dict[Any, tuple[int, bool]] = {}
        """By object reference: the worker, and whether it opens."""
        self._without = time.monotonic()
        self.waiting = ""

    def hire(self, worker: int) -> None:
        actor = self._actors[worker] = self._source.take()
        self._calls[actor.open.remote(self._make)] = (worker, True)

    def start(self, worker: int, task: Task) -> None:
        self._calls[self._actors[worker].work.remote(task)] = (worker, False)

    def wait(self) -> Iterable[Event]:
        references = list(self._calls)
        ready, _ = self._ray.wait(references, num_returns=1, timeout=NEWS)
        if ready and len(references) > 1:
            ready, _ = self._ray.wait(references, num_returns=min(len(references), BATCH), timeout=0)
        self._look_for_room()
        return [self._event(reference) for reference in ready]

    def end(self, worker: int) -> bool:
        call = next((reference for reference, (its, _) in self._calls.items() if its == worker), None)
        if call is None or self._ray.wait([call], timeout=0)[0]:
            return False
        del self._calls[call]
        self._kill(worker)
        return True

    def close(self) -> None:
        for worker in list(self._actors):
            self._kill(worker)

    def _event(self, reference: Any) -> Event:
        worker, opens = self._calls.pop(reference)
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except errors.RayTaskError as failed:
            if isinstance(failed.cause, UnworkableError):
                return Refused(worker, str(failed.cause))
            if isinstance(failed.cause, ForebearError):
                raise failed.cause from None
            raise
        except (errors.RayActorError, errors.OutOfMemoryError) as death:
            # RayActorError: ActorDiedError, and ActorUnavailableError when it may be the network alone.
            lost = self._machine_lost(worker, death)
            self._kill(worker)  # it may be unreachable only, and must not work on beside its replacement
            return Died(worker, _in_a_line(death), lost)
        if opens:
            self._machines[worker] = result
            return Opened(worker)
        return Finished(worker, result)

    def _kill(self, worker: int) -> None:
        self._machines.pop(worker, None)
        self._ray.kill(self._actors.pop(worker))

    def _machine_lost(self, worker: int, death: Exception) -> bool:
        if getattr(death, "preempted", False):
            return True
        machine = self._machines.get(worker)
        return machine is not None and not any(node["Alive"] for node in self._ray.nodes() if node["NodeID"] == machine)

    def _look_for_room(self) -> None:
        """Say what is waited for while no worker is open; raise JobError when it will hardly come."""
        if self._machines:
            self._without, self.waiting = time.monotonic(), ""
            return
        passed = time.monotonic() - self._without
        if passed < NEWS and self._growing:
            return
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if any(self._pool.fits(resources) for resources in nodes):
            self.waiting = ""
            return
        if not self._growing or passed > PATIENCE:
            there = "; ".join(sorted(_resources(resources) for resources in nodes)) or "none"
            raise JobError(f"no machine has {self._pool.wish} for a worker (there are: {there}); ask for less")
        self.waiting = f"waiting for a machine with {self._pool.wish}"


def _nothing() -> None:
    pass


def _resources(resources: dict[str, float]) -> str:
    memory = resources.get("memory", 0.0) / 2**30
    return f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU, {memory:.1f} GiB"


def _in_a_line(death: Exception) -> str:
    return " ".join(str(death).split())[:300]


def _actor_class() -> type[Any]:
    """The body of a Ray actor. A local class, which Ray sends by value: actors import only what their workers need."""

    class Actor:
        def prepare(self, load: Callable[[], object]) -> None:
            load()

        def open(self, make: tuple[Callable[[], Any], str]) -> str:
            """Returns the machine."""
            import ray

            make_worker, folder = make
            if not Path(folder).is_dir():
                from forebear.errors import JobError as SentError

                raise SentError(
                    f"a machine of the cluster has no folder {folder}; start the job from a folder that every "
                    "machine shares"
                )
            os.chdir(folder)  # relative paths in a run's settings are those of the command
            self.worker = make_worker()
            self.worker.open()
            return str(ray.get_runtime_context().get_node_id())

        def work(self, task: Any) -> Any:
            return self.worker.work(task)

    return Actor
