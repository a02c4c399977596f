"""The pure core: whatever order things happen in, every task is done once or set aside."""

from collections import Counter
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from forebear.jobs.scheduler import (
    Died,
    Done,
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
    TimedOut,
)

NEVER = Limits(attempts=3, losses=4, set_aside=10_000)
"""Never gives up all of the work."""


class Play:
    """Carries out decisions in memory; the test says what happens to which worker."""

    def __init__(self, scheduler: Scheduler[int]) -> None:
        self.scheduler = scheduler
        self.opening: set[int] = set()
        self.free: set[int] = set()
        self.holds: dict[int, int] = {}
        self.tries: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self.losses: Counter[int] = Counter()
        self.done: list[int] = []
        self.set_aside: list[SetAside[int]] = []
        self.stopped = False
        self.carry_out(scheduler.begin())

    @property
    def workers(self) -> list[int]:
        return sorted({*self.opening, *self.free, *self.holds})

    def carry_out(self, decisions: list[object]) -> None:
        for decision in decisions:
            match decision:
                case Hire(worker):
                    self.opening.add(worker)
                case Start(worker, task):
                    self.free.remove(worker)  # KeyError: not open, or busy
                    self.holds[worker] = task
                    self.tries[task] += 1
                case Done(task):
                    self.done.append(task)
                case SetAside():
                    self.set_aside.append(decision)
                case Stop():
                    self.stopped = True
                case Retry(task):
                    assert task not in self.done
        assert len(self.workers) <= self.scheduler.workers
        assert self.scheduler.in_flight == len(self.holds)
        assert self.scheduler.counts.workers == len(self.free) + len(self.holds)

    def happen(self, worker: int, what: str) -> None:
        if worker in self.opening:
            self.opening.remove(worker)
            if what in ("die", "lose"):
                self.carry_out(self.scheduler.handle(Died(worker, what, what == "lose")))
            else:
                self.free.add(worker)
                self.carry_out(self.scheduler.handle(Opened(worker)))
            return
        task = self.holds.pop(worker, None)
        if what == "hang":
            if task is not None:
                self.deaths[task] += 1
                self.carry_out(self.scheduler.handle(TimedOut(worker, what)))
        elif what in ("die", "lose"):
            self.free.discard(worker)
            if task is not None:
                (self.deaths if what == "die" else self.losses)[task] += 1
            self.carry_out(self.scheduler.handle(Died(worker, what, what == "lose")))
        elif task is not None:
            self.free.add(worker)
            event = Refused(worker, what) if what == "refuse" else Finished(worker, task)
            self.carry_out(self.scheduler.handle(event))


@given(st.integers(0, 6), st.integers(1, 3), st.data())
def test_any_interleaving_ends_with_every_task_done_once_or_set_aside(tasks: int, workers: int, data) -> None:
    play = Play(Scheduler(range(tasks), workers, NEVER))
    for _ in range(120):
        if play.scheduler.over or play.stopped:
            break
        worker = data.draw(st.sampled_from(play.workers))
        play.happen(worker, data.draw(st.sampled_from(["finish", "finish", "refuse", "die", "lose", "hang"])))
    while not (play.scheduler.over or play.stopped):  # an end must be in reach from everywhere
        not_free = [worker for worker in play.workers if worker not in play.free]
        assert not_free, "nobody opens or works, and nothing ends"
        play.happen(not_free[0], "finish")
    given_up = [failed.task for failed in play.set_aside]
    assert len(set(play.done)) == len(play.done)
    assert len(set(given_up)) == len(given_up)
    assert not set(play.done) & set(given_up)
    if not play.stopped:
        assert sorted([*play.done, *given_up]) == list(range(tasks))
        assert not play.scheduler._tries  # nothing is remembered of tasks that are settled
    for task in range(tasks):
        assert play.deaths[task] <= NEVER.attempts
        assert play.losses[task] <= NEVER.losses
        assert play.tries[task] - play.losses[task] <= NEVER.attempts
    assert play.scheduler.counts.started == play.tries.total()
    assert play.scheduler.counts.retried + len(given_up) >= play.deaths.total()


def test_tasks_are_drawn_as_workers_come_free() -> None:
    drawn = 0

    def tasks() -> Iterator[int]:
        nonlocal drawn
        while True:
            drawn += 1
            yield drawn

    play = Play(Scheduler(tasks(), 4))
    for _ in range(1000):
        for worker in play.workers:
            play.happen(worker, "finish")
    assert len(play.done) > 3900
    assert drawn - len(play.done) <= 2 * 4


def test_no_tasks_hire_nobody_and_few_tasks_hire_few() -> None:
    assert Scheduler([], 5).begin() == []
    assert Scheduler([], 5).over
    assert len(Scheduler(["a", "b"], 5).begin()) == 2


def test_task_that_kills_is_set_aside_after_its_attempts_and_others_go_on() -> None:
    play = Play(Scheduler(range(3), 1))
    while not play.scheduler.over:
        play.happen(play.workers[0], "die" if play.holds.get(play.workers[0]) == 1 else "finish")
    assert play.done == [0, 2]
    assert play.set_aside == [SetAside(1, "die", tries=3)]
    assert play.scheduler.counts.retried == 2


def test_task_that_hangs_is_set_aside_after_its_attempts_and_its_worker_replaced() -> None:
    play = Play(Scheduler(range(3), 1))
    while not play.scheduler.over:
        play.happen(play.workers[0], "hang" if play.holds.get(play.workers[0]) == 1 else "finish")
    assert play.done == [0, 2]
    assert play.set_aside == [SetAside(1, "hang", tries=3)]
    assert (play.scheduler.counts.timed_out, play.scheduler.counts.deaths) == (3, 3)
    first = Play(Scheduler(range(2), 1))
    assert first.scheduler.handle(TimedOut(first.workers[0], "it only opens")) == []
    assert first.scheduler.counts.workers == 0


def test_lost_machines_are_not_held_against_a_task() -> None:
    play = Play(Scheduler(range(1), 1))
    for _ in range(9):
        play.happen(play.workers[0], "finish")  # opens
        play.happen(play.workers[0], "lose")
    play.happen(play.workers[0], "finish")
    play.happen(play.workers[0], "finish")
    assert play.done == [0]
    assert play.tries[0] == 10


def test_idle_worker_takes_the_task_of_a_dead_one() -> None:
    play = Play(Scheduler(range(2), 2))
    for worker in play.workers:
        play.happen(worker, "finish")
    first, second = sorted(play.holds)
    play.happen(first, "finish")
    play.happen(second, "die")
    assert play.holds == {first: 1}
    assert play.workers == [first]  # nobody is hired to do nothing


def test_many_set_aside_give_the_work_up_but_a_small_share_does_not() -> None:
    play = Play(Scheduler(range(100), 1, Limits(set_aside=4)))
    while not play.scheduler.over:
        play.happen(play.workers[0], "refuse")
    assert [failed.task for failed in play.set_aside] == [0, 1, 2, 3]
    assert play.scheduler.given_up
    assert play.tries.total() == 4
    play = Play(Scheduler(range(2000), 1, Limits(set_aside=4, set_aside_share=0.1)))
    while not play.scheduler.over:
        play.happen(play.workers[0], "refuse" if play.holds.get(play.workers[0], 0) % 20 == 19 else "finish")
    assert len(play.set_aside) == 100
    assert not play.scheduler.given_up


def test_workers_that_cannot_open_stop_the_work_unless_they_once_could() -> None:
    play = Play(Scheduler(range(9), 2))
    for _ in range(3):
        assert not play.stopped
        play.happen(play.workers[0], "die")
    assert play.stopped
    play = Play(Scheduler(range(9), 2))
    play.happen(play.workers[0], "finish")
    for _ in range(4):
        play.happen(max(play.opening), "die")
    assert not play.stopped
    play.happen(max(play.opening), "die")
    assert play.stopped
    play = Play(Scheduler(range(9), 2))
    for _ in range(50):
        play.happen(play.workers[0], "lose")  # machines come and go
    assert not play.stopped


def test_late_word_of_a_buried_worker_changes_nothing() -> None:
    play = Play(Scheduler(range(2), 1))
    (first,) = play.workers
    play.happen(first, "finish")
    play.happen(first, "die")
    assert play.scheduler.handle(Finished(first)) == []
    assert play.scheduler.handle(Died(first, "again")) == []
    assert play.done == []
