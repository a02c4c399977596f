"""Hands tasks to Ray actors, replaces those that die, and sets aside the tasks that kill them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext

from forebear.jobs.driving import Telling, UnworkableError, Watch, Worker, drive
from forebear.jobs.overtime import Clock, TimeLimit
from forebear.jobs.pool import Pool, ray_session
from forebear.jobs.ray_backend import Actors, RayBackend
from forebear.jobs.scheduler import Limits, Scheduler, SetAside, Task

__all__ = [
    "Actors",
    "Pool",
    "SetAside",
    "TimeLimit",
    "UnworkableError",
    "Watch",
    "Worker",
    "dispatch",
    "ray_actors",
    "run_on_ray",
]


def dispatch(
    make_worker: Callable[[], Worker[Task]], tasks: Iterable[Task], workers: int, done: Callable[[Task], None]
) -> list[SetAside[Task]]:
    """`run_on_ray` with workers of one CPU each; `done` is called here, for each finished task."""
    return run_on_ray(make_worker, tasks, Pool(workers), Telling(done))


@contextmanager
def ray_actors(pool: Pool, load: Callable[[], object] | None = None) -> Iterator[Actors]:
    """A Ray and the pool's actors; with `load`, which is pickled, they begin at once and call it, before there is work.

    Raises JobError when the cluster cannot be reached or Ray is not installed.
    """
    with ray_session(pool) as growing:
        actors = Actors(pool, growing=growing)
        try:
            if load is not None:
                actors.prepare(load)
            yield actors
        finally:
            actors.close()


def run_on_ray(
    make_worker: Callable[[], Worker[Task]],
    tasks: Iterable[Task],
    pool: Pool,
    watch: Watch[Task],
    limits: Limits | None = None,
    *,
    actors: Actors | None = None,
) -> list[SetAside[Task]]:
    """Do all tasks, in order of hand-out, on the pool's Ray actors; returns those set aside, as `limits` say.

    Tasks are drawn from the iterator as workers come free. A task is tried again when its worker dies or is ended for
    taking longer than the pool's time limit, and set aside when that goes on or when one raises UnworkableError. Any
    other exception of `open` or `work` ends the job: a ForebearError is raised as it is. Raises JobError when workers
    die again and again while they open, or when no machine has room for one. `actors` are the pool's own where they
    have been begun before.
    """
    with (
        nullcontext(actors) if actors else ray_actors(pool) as source,
        closing(RayBackend(make_worker, source)) as backend,
    ):
        return drive(Scheduler(tasks, pool.workers, limits), backend, watch, Clock(pool.time_limit))
