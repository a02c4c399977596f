"""Tasks on real Ray actors: deaths are retried, counted, and set aside."""

from functools import partial
from pathlib import Path

import pytest

from forebear.errors import DataError, JobError
from forebear.jobs.dispatch import Pool, SetAside, TimeLimit, Watch, dispatch, ray_actors, run_on_ray
from forebear.jobs.scheduler import Counts, Limits

pytestmark = pytest.mark.usefixtures("ray_session")


def touching_worker(folder: Path, deadly: dict[str, int] | None = None, *, opens: bool = True) -> object:
    """Makes a file for every task; the first deadly[task] attempts at a task kill the process.

    The class is local, so that Ray sends it by value: its workers cannot import this test.
    """
    import os
    import time

    from forebear.errors import DataError as SentError
    from forebear.jobs.driving import UnworkableError as SentRefusal

    class Touching:
        def open(self) -> None:
            if not opens:
                os._exit(1)

        def work(self, task: str) -> str:
            if task == "everywhere":
                raise SentError("the weights changed; put them back")
            if task == "unworkable":
                raise SentRefusal("this picture cannot be read; restore it")
            if task == "endless":
                time.sleep(3600)
            attempts = len(list(folder.glob(f"{task}.attempt-*")))
            (folder / f"{task}.attempt-{attempts}").write_text(str(os.getpid()))
            if attempts < (deadly or {}).get(task, 0):
                os._exit(1)
            (folder / task).touch()
            return f"did {task}"

    return Touching()


def by_value(folder: Path, **settings: object) -> partial[object]:
    import sys

    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return partial(touching_worker, folder, **settings)


def test_all_tasks_are_done_once(tmp_path: Path) -> None:
    tasks, done = [f"task-{number}" for number in range(7)], []
    assert dispatch(by_value(tmp_path), tasks, 2, done.append) == []
    assert sorted(done) == tasks
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*tasks, *(f"{t}.attempt-0" for t in tasks)])


def test_dead_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    tasks, done = [f"task-{number}" for number in range(4)], []
    assert dispatch(by_value(tmp_path, deadly={"task-1": 1}), tasks, 2, done.append) == []
    assert sorted(done) == tasks
    assert len(list(tmp_path.glob("task-1.attempt-*"))) == 2


def test_task_that_always_kills_is_set_aside(tmp_path: Path) -> None:
    tasks, done = [f"task-{number}" for number in range(4)], []
    failed = dispatch(by_value(tmp_path, deadly={"task-0": 99}), tasks, 2, done.append)
    assert [item.task for item in failed] == ["task-0"]
    assert "died" in failed[0].reason
    assert sorted(done) == tasks[1:]
    assert len(list(tmp_path.glob("task-0.attempt-*"))) == 3


def loading(folder: Path, *, fails: bool) -> None:
    import os

    (folder / f"loaded-{os.getpid()}").touch()
    if fails:
        raise ValueError("a library is broken")


@pytest.mark.parametrize("fails", [False, True])
def test_actors_that_began_before_the_work_do_it(fails: bool, tmp_path: Path) -> None:
    import sys

    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    tasks, notes = [f"task-{number}" for number in range(4)], Notes()
    with ray_actors(Pool(2), partial(loading, tmp_path, fails=fails)) as actors:
        work = by_value(tmp_path, deadly={"task-0": 1})  # one of them dies, and its replacement did not load
        assert run_on_ray(work, tasks, actors.pool, notes, actors=actors) == []
    assert sorted(notes.results) == tasks
    loaded = {path.name.removeprefix("loaded-") for path in tmp_path.glob("loaded-*")}
    worked = {path.read_text() for path in tmp_path.glob("task-*.attempt-*")}
    assert len(loaded) == 2
    assert worked & loaded
    assert len(worked - loaded) <= 1


class Notes(Watch[str]):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.results: dict[str, object] = {}
        self.reasons: list[str] = []
        self.failed: list[SetAside[str]] = []
        self.most_workers = 0
        self.waited: set[str] = set()

    def done(self, task: str, result: object) -> None:
        self.results[task] = result

    def retried(self, task: str, reason: str) -> None:
        self.reasons.append(f"{task}: {reason}")

    def set_aside(self, failed: SetAside[str]) -> None:
        self.failed.append(failed)

    def tick(self, counts: Counts, waiting: str) -> None:
        self.most_workers = max(self.most_workers, counts.workers)
        self.waited.add(waiting)


def test_watch_hears_results_deaths_and_what_is_set_aside(tmp_path: Path) -> None:
    notes = Notes()
    work = by_value(tmp_path, deadly={"task-1": 1})
    failed = run_on_ray(work, iter(["task-0", "task-1", "unworkable"]), Pool(2), notes)
    assert notes.results == {"task-0": "did task-0", "task-1": "did task-1"}
    assert failed == notes.failed == [SetAside("unworkable", "this picture cannot be read; restore it")]
    assert [reason.split(":")[0] for reason in notes.reasons] == ["task-1"]
    assert 1 <= notes.most_workers <= 2


def test_worker_that_hangs_is_ended_and_its_task_set_aside_with_the_reason(tmp_path: Path) -> None:
    notes = Notes()
    pool = Pool(1, time_limit=TimeLimit(seconds=2.0))
    failed = run_on_ray(by_value(tmp_path), ["endless", "task-0"], pool, notes, Limits(attempts=2))
    assert [(item.task, item.tries) for item in failed] == [("endless", 2)]
    assert "did not answer for 2 s and was ended (the limit is 2 s" in failed[0].reason
    assert notes.reasons[0].startswith("endless: its worker did not answer")
    assert notes.results == {"task-0": "did task-0"}


def test_too_many_set_aside_end_the_job(tmp_path: Path) -> None:
    work, notes = by_value(tmp_path, deadly={"task-0": 99}), Notes()
    failed = run_on_ray(work, ["task-0", "task-1"], Pool(1), notes, Limits(attempts=1, set_aside=1))
    assert [item.task for item in failed] == ["task-0"]
    assert not list(tmp_path.glob("task-1*"))


def test_error_of_a_task_that_would_fail_everywhere_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the weights changed; put them back$"):
        dispatch(by_value(tmp_path), ["task-0", "everywhere"], 1, lambda task: None)
    assert (tmp_path / "task-0").exists()


@pytest.mark.parametrize(
    ("pool", "wish"), [(Pool(1, gpus=0.5), "1 CPU and 0.5 GPU"), (Pool(1, memory=2**45), "32768.0 GiB of memory")]
)
def test_workers_that_fit_on_no_machine_are_waited_for_and_then_given_up(
    pool: Pool, wish: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forebear.jobs.ray_backend.PATIENCE", 1.5)
    notes = Notes()
    with pytest.raises(JobError, match=f"no machine has .*{wish}.*ask for less"):
        run_on_ray(by_value(tmp_path), ["task-0"], pool, notes)
    assert f"waiting for a machine with {pool.wish}" in notes.waited


@pytest.mark.parametrize("pool", [{"workers": 0}, {"workers": 1, "gpus": 1.5}, {"workers": 1, "memory": -1}])
def test_impossible_pools_are_refused(pool: dict[str, int]) -> None:
    with pytest.raises(JobError):
        Pool(**pool)


def test_workers_that_die_while_opening(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"die while they open.*fewer"):
        dispatch(by_value(tmp_path, opens=False), ["task-0"], 1, lambda task: None)
