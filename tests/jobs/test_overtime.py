"""Which tasks take too long: by a clock that the test turns."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebear.errors import JobError
from forebear.jobs.driving import Watch, drive
from forebear.jobs.overtime import Clock, TimeLimit
from forebear.jobs.scheduler import Event, Finished, Limits, Opened, Scheduler, SetAside


class Hand:
    """The time of a clock."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_nothing_is_late_before_a_task_was_done_and_then_by_the_slowest() -> None:
    now = Hand()
    clock = Clock(TimeLimit(times=10.0, floor=5.0), now)
    for worker in (1, 2, 3):
        clock.start(worker)
    now.time = 1e6
    assert clock.overdue() == []  # nobody knows how long a task takes
    clock.stop(1, measure=False)
    assert clock.overdue() == []
    clock.stop(2, measure=True)
    now.time += 1.0
    clock.start(4)
    now.time += 10 * 1e6 + 5.0
    (late,) = clock.overdue()
    assert late[0] == 3
    assert "did not answer for 11,000,006 s" in late[1]
    assert "the slowest so far took 1,000,000 s" in late[1]
    now.time += 0.1
    assert [worker for worker, _ in clock.overdue()] == [3, 4]


def test_a_given_limit_holds_from_the_first_task_on() -> None:
    now = Hand()
    clock = Clock(TimeLimit(seconds=7.0), now)
    clock.start(1)
    now.time = 7.0
    assert clock.overdue() == []
    now.time = 7.5
    assert [worker for worker, _ in clock.overdue()] == [1]


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"times": 0.5}, {"floor": -1.0}, {"seconds": float("nan")}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(JobError, match="limits no task sensibly"):
        TimeLimit(**wrong)


class Hanging:
    """Workers that take `took[task]` each time, on the test's clock; None is for ever."""

    waiting = ""

    def __init__(self, now: Hand, took: dict[int, float | None]) -> None:
        self.now, self.took = now, took
        self.opening: list[int] = []
        self.holds: dict[int, tuple[int, float | None]] = {}
        self.longest = 0.0

    def hire(self, worker: int) -> None:
        self.opening.append(worker)

    def start(self, worker: int, task: int) -> None:
        took = self.took[task]
        self.holds[worker] = (task, None if took is None else self.now.time + took)

    def wait(self) -> Iterable[Event]:
        if self.opening:
            return [Opened(self.opening.pop())]
        ends = {worker: end for worker, (_, end) in self.holds.items() if end is not None}
        if not ends:
            self.now.time += 1.0  # a wait without news
            return []
        worker = min(ends, key=lambda worker: ends[worker])
        self.now.time = max(self.now.time, ends[worker])
        task, _ = self.holds.pop(worker)
        return [Finished(worker, task % 2 == 0)]

    def end(self, worker: int) -> bool:
        self.longest = max(self.longest, self.now.time)
        del self.holds[worker]
        return True


class Done(Watch[int]):
    def __init__(self) -> None:
        self.tasks: list[int] = []

    def done(self, task: int, result: object) -> None:
        self.tasks.append(task)


@given(st.lists(st.none() | st.floats(0.0, 9.0), max_size=8), st.integers(1, 4), st.booleans())
def test_hanging_tasks_are_set_aside_and_all_others_done(took: list[float | None], workers: int, given: bool) -> None:
    # Task 0 is done by someone, or nothing would be known; without a limit that is given, results that are False are
    # no measure, and the first task is even.
    took = [1.0, *took]
    now = Hand()
    backend, done = Hanging(now, dict(enumerate(took))), Done()
    limit = TimeLimit(seconds=10.0) if given else TimeLimit(times=10.0, floor=10.0)
    scheduler = Scheduler(range(len(took)), workers, Limits(attempts=2, set_aside=100))
    failed: list[SetAside[int]] = drive(scheduler, backend, done, Clock(limit, now))
    assert sorted(done.tasks) == [task for task, seconds in enumerate(took) if seconds is not None]
    assert sorted(one.task for one in failed) == [task for task, seconds in enumerate(took) if seconds is None]
    assert all(one.tries == 2 and "did not answer" in one.reason for one in failed)
    assert scheduler.counts.timed_out == scheduler.counts.deaths == 2 * len(failed)
    assert scheduler.counts.workers <= workers


def test_what_had_nothing_to_do_is_no_measure() -> None:
    now = Hand()
    clock = Clock(TimeLimit(floor=0.0), now)
    backend = Hanging(now, {1: 0.1, 3: 0.1, 5: 500.0, 4: 400.0})  # results of 1, 3 and 5 are False
    done = Done()
    assert drive(Scheduler([1, 3, 5, 4], 1), backend, done, clock) == []
    assert done.tasks == [1, 3, 5, 4]
