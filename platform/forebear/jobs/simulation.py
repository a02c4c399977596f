"""The real scheduler with simulated workers: what a cluster would do with a job, before there is a cluster.

A discrete-event simulation: time passes from event to event. Workers take tasks at their own speeds, die, lose their
machines, and come back; the decisions are those of the scheduler that drives Ray. Nothing is kept for each task.
"""

import heapq
import os
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from forebear.errors import ConfigError, JobError
from forebear.jobs.driving import Watch, drive
from forebear.jobs.scheduler import Counts, Died, Event, Finished, Limits, Opened, Scheduler

HOUR = 3600.0
GRANULARITY = 4096
"""Events between two looks at this process's memory."""

Shard = tuple[int, int]
"""Checkpoint and number."""


@dataclass(frozen=True)
class Scenario:
    """A job and the cluster that it runs on. Times in seconds unless they say hours."""

    samples: int
    checkpoints: int
    shard_rows: int
    workers: int
    rate: float
    """Samples that a worker embeds in a second, at one checkpoint."""
    spread: float = 0.1
    """Standard deviation of the logarithm of a worker's speed: machines differ."""
    opening: float = 30.0
    """To open a worker: read the model and the list of images."""
    latency: float = 0.005
    """Between the end of a task and the begin of the next one."""
    worker_hours: float = float("inf")
    """Mean time between deaths of one worker."""
    machine_hours: float = float("inf")
    """Mean time between losses (preemptions) of one machine, with all of its workers."""
    machine_workers: int = 8
    away: float = 120.0
    """Until a lost machine, or another in its place, is there."""
    poison: float = 0.0
    """Share of shards that kill their worker each time."""
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.samples, self.checkpoints, self.shard_rows, self.workers, self.machine_workers)
        if min(counts) < 1 or not self.rate > 0:
            raise ConfigError("a simulation needs at least one sample, checkpoint, row, worker, and a rate above 0")
        if min(self.worker_hours, self.machine_hours) <= 0 or not 0 <= self.poison < 1:
            raise ConfigError("hours between failures must be above 0, and the share of poison from 0 to below 1")
        if min(self.spread, self.opening, self.latency, self.away) < 0:
            raise ConfigError("spread and times cannot be negative")

    @property
    def shards_per_checkpoint(self) -> int:
        return -(-self.samples // self.shard_rows)

    @property
    def shards(self) -> int:
        return self.shards_per_checkpoint * self.checkpoints

    @property
    def ideal(self) -> float:
        """Seconds if all workers were busy, equal and immortal from the start."""
        return self.samples * self.checkpoints / (self.workers * self.rate)

    def tasks(self) -> Iterator[Shard]:
        """All shards, one at a time."""
        for checkpoint in range(self.checkpoints):
            for number in range(self.shards_per_checkpoint):
                yield checkpoint, number

    def rows(self, shard: Shard) -> int:
        return min(self.shard_rows, self.samples - shard[1] * self.shard_rows)


@dataclass(frozen=True)
class Simulated:
    """What became of a scenario."""

    makespan: float
    """Seconds of simulated time."""
    ideal: float
    counts: Counts
    given_up: bool
    busy: float
    """Worker-seconds of tries that ended well."""
    wasted: float
    """Worker-seconds of tries that died."""
    machines_lost: int
    decisions_per_second: float
    """Of the scheduler on this machine, with the simulation's own work counted against it."""
    needed_per_second: float
    """Decisions in a second of simulated time."""
    memory: int
    """Bytes by which this process grew, at most; 0 where the system does not say."""
    resident: int
    """Bytes that this process took at most."""

    @property
    def efficiency(self) -> float:
        """Of the ideal: 1 when every worker is busy with what counts from the first second to the last."""
        return self.ideal / self.makespan if self.makespan else 1.0

    @property
    def wasted_share(self) -> float:
        return self.wasted / (self.busy + self.wasted) if self.busy else 0.0


def simulate(scenario: Scenario, limits: Limits | None = None) -> Simulated:
    """Run the scheduler over the scenario until all of its shards are done or set aside.

    Raises JobError when nothing can ever be finished: workers die faster than they open.
    """
    memory = _Memory()
    workers = _SimulatedWorkers(scenario, memory)
    scheduler = Scheduler(scenario.tasks(), scenario.workers, limits)
    start = time.perf_counter()
    drive(scheduler, workers, Watch())
    took = time.perf_counter() - start
    counts = scheduler.counts
    decisions = 2 * counts.started + counts.deaths  # a start and a settling of each try, and a hire for each death
    memory.look()
    return Simulated(
        makespan=workers.now,
        ideal=scenario.ideal,
        counts=counts,
        given_up=scheduler.given_up,
        busy=workers.busy,
        wasted=workers.wasted,
        machines_lost=workers.machines_lost,
        decisions_per_second=decisions / max(took, 1e-9),
        needed_per_second=decisions / max(workers.now, 1e-9),
        memory=memory.growth,
        resident=memory.most,
    )


class _SimulatedWorkers:
    """A backend of which everything is made up but the order of events."""

    def __init__(self, scenario: Scenario, memory: "_Memory") -> None:
        self._scenario, self._memory, self._chance = scenario, memory, Random(scenario.seed)
        self._events: list[tuple[float, int, int, Event | None]] = []
        """(time, number, worker or -1 - machine, event or None where a machine goes or comes)."""
        self._number = 0
        self._machine_of: dict[int, int] = {}
        self._speed: dict[int, float] = {}
        self._since: dict[int, float] = {}
        """When busy workers began."""
        machines = -(-scenario.workers // scenario.machine_workers)
        self._free = deque(slot % machines for slot in range(scenario.workers))
        """Machines with room, one entry for each worker's place."""
        self._away: dict[int, int] = {}
        """By lost machine: places that come back with it."""
        self._waiting: deque[int] = deque()
        self.now = self.busy = self.wasted = 0.0
        self.machines_lost = 0
        for machine in range(machines):
            self._later(self._lifetime(scenario.machine_hours), -1 - machine, None)

    @property
    def waiting(self) -> str:
        return "waiting for machines" if self._waiting else ""

    def hire(self, worker: int) -> None:
        if self._free:
            self._place(worker, self._free.popleft())
        else:
            self._waiting.append(worker)

    def start(self, worker: int, task: Shard) -> None:
        scenario, chance = self._scenario, self._chance
        seconds = scenario.latency + scenario.rows(task) / (scenario.rate * self._speed[worker])
        death = self._lifetime(scenario.worker_hours)
        if scenario.poison and Random(f"{scenario.seed} {task}").random() < scenario.poison:
            death = min(death, seconds * chance.random())
        self._since[worker] = self.now
        if death < seconds:
            self._later(death, worker, Died(worker, "its worker died in the simulation"))
        else:
            self._later(seconds, worker, Finished(worker))

    def wait(self) -> list[Event]:
        while self._events:
            self.now, number, worker, event = heapq.heappop(self._events)
            if number % GRANULARITY == 0:
                self._memory.look()
            if event is None:
                lost = self._turn(-1 - worker)
                if lost:
                    return lost
            elif worker in self._machine_of:  # or it went with its machine before this could happen
                return [self._settled(worker, event)]
        raise JobError("the simulated workers can finish nothing; give longer times between failures")

    def end(self, worker: int) -> bool:  # noqa: ARG002 - simulated tasks are not timed
        return False

    def _settled(self, worker: int, event: Event) -> Event:
        since = self._since.pop(worker, self.now)
        if isinstance(event, Died):
            self.wasted += self.now - since
            self._vacate(self._leave(worker))
        else:
            self.busy += self.now - since
        return event

    def _turn(self, machine: int) -> list[Event]:
        """A machine comes back, or is lost with its workers."""
        scenario = self._scenario
        if machine in self._away:
            places = self._away.pop(machine)
            self._later(self._lifetime(scenario.machine_hours), -1 - machine, None)
            for _ in range(places):
                self._vacate(machine)
            return []
        self.machines_lost += 1
        here = [worker for worker, its in self._machine_of.items() if its == machine]
        kept = [free for free in self._free if free != machine]
        self._away[machine] = len(here) + len(self._free) - len(kept)
        self._free = deque(kept)
        for worker in here:
            self.wasted += self.now - self._since.pop(worker, self.now)
            self._leave(worker)
        self._later(scenario.away, -1 - machine, None)
        return [Died(worker, "its machine was lost in the simulation", machine_lost=True) for worker in here]

    def _place(self, worker: int, machine: int) -> None:
        self._machine_of[worker] = machine
        self._speed[worker] = self._chance.lognormvariate(0.0, self._scenario.spread)
        self._later(self._scenario.opening, worker, Opened(worker))

    def _leave(self, worker: int) -> int:
        del self._speed[worker]
        return self._machine_of.pop(worker)

    def _vacate(self, machine: int) -> None:
        if self._waiting:
            self._place(self._waiting.popleft(), machine)
        else:
            self._free.append(machine)

    def _lifetime(self, hours: float) -> float:
        return self._chance.expovariate(1 / (hours * HOUR)) if hours != float("inf") else float("inf")

    def _later(self, seconds: float, worker: int, event: Event | None) -> None:
        if seconds != float("inf"):
            self._number += 1
            heapq.heappush(self._events, (self.now + seconds, self._number, worker, event))


class _Memory:
    """Resident memory of this process, looked at now and then."""

    def __init__(self) -> None:
        self.first = self.most = _resident()

    def look(self) -> None:
        self.most = max(self.most, _resident())

    @property
    def growth(self) -> int:
        return self.most - self.first


def _resident() -> int:
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
