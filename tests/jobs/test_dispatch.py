"""Tasks on real Ray actors: deaths are retried, counted, and set aside."""

from functools import partial
from pathlib import Path

import pytest

from forebear.errors import DataError, JobError
from forebear.jobs.dispatch import ATTEMPTS, dispatch

pytestmark = pytest.mark.usefixtures("ray_session")


def touching_worker(folder: Path, deadly: dict[str, int] | None = None, *, opens: bool = True) -> object:
    """Makes a file for every task; the first deadly[task] attempts at a task kill the process.

    The class is local, so that Ray sends it by value: its workers cannot import this test.
    """
    import os

    from forebear.errors import DataError as SentError

    class Touching:
        def open(self) -> None:
            if not opens:
                os._exit(1)

        def work(self, task: str) -> None:
            if task == "refused":
                raise SentError("this picture cannot be read; restore it")
            attempts = len(list(folder.glob(f"{task}.attempt-*")))
            (folder / f"{task}.attempt-{attempts}").touch()
            if attempts < (deadly or {}).get(task, 0):
                os._exit(1)
            (folder / task).touch()

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
    assert len(list(tmp_path.glob("task-0.attempt-*"))) == ATTEMPTS


def test_too_many_set_aside_end_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forebear.jobs.dispatch.MAX_SET_ASIDE", 1)
    failed = dispatch(by_value(tmp_path, deadly={"task-0": 99}), ["task-0", "task-1"], 1, pytest.fail)
    assert [item.task for item in failed] == ["task-0"]
    assert not list(tmp_path.glob("task-1*"))


def test_error_of_a_task_is_raised_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^this picture cannot be read; restore it$"):
        dispatch(by_value(tmp_path), ["task-0", "refused"], 1, lambda task: None)
    assert (tmp_path / "task-0").exists()


def test_workers_that_die_while_opening(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"die while they open.*fewer"):
        dispatch(by_value(tmp_path, opens=False), ["task-0"], 1, lambda task: None)
