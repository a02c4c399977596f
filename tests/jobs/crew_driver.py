"""A job on a Ray of its own: a process for `test_local` to start, and to kill.

    python crew_driver.py FOLDER

Tasks are names; every worker notes, in FOLDER/TASK.tries, its process and the pid of what it was forked from. Tasks are
given out until Ray is there, then the ones named `ray-...`. Prints what became of them as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from forebear.forking import inherited
from forebear.jobs.driving import UnworkableError, Watch
from forebear.jobs.local import ForkingCrew, may_fork
from forebear.jobs.overtime import TimeLimit
from forebear.jobs.pool import Pool
from forebear.jobs.scheduler import Counts, SetAside

SPECIAL = ("deadly", "poison", "refused", "hanging")


@dataclass
class Notes(Watch[str]):
    results: dict[str, object]
    reasons: dict[str, str]
    counts: Counts | None = None

    def done(self, task: str, result: object) -> None:
        assert task not in self.results
        self.results[task] = result

    def set_aside(self, failed: SetAside[str]) -> None:
        self.reasons[failed.task] = f"{failed.tries} tries: {failed.reason}"

    def tick(self, counts: Counts, waiting: str) -> None:
        self.counts = counts


@dataclass
class NotingWorker:
    folder: Path

    def open(self) -> None:
        self._factor = inherited()["factor"]

    def work(self, task: str) -> int:
        with (self.folder / f"{task}.tries").open("a") as tries:
            tries.write(f"{os.getpid()} {os.getppid()}\n")
        number = len((self.folder / f"{task}.tries").read_text().splitlines())
        kind = task.rpartition("-")[2]
        if kind == "poison" or (kind == "deadly" and number == 1):
            os._exit(3)
        if kind == "refused":
            raise UnworkableError("it cannot be done")
        if kind == "hanging":
            time.sleep(600)
        time.sleep(0.05)
        return 7 * self._factor


def tasks(crew: ForkingCrew) -> Iterator[str]:
    yield from ("first-00000", *(f"first-{kind}" for kind in SPECIAL))
    number = 1
    while not crew._started.is_set():
        yield f"first-{number:05d}"
        number += 1
    yield from (f"ray-{kind}" for kind in SPECIAL)
    yield from (f"ray-{number:05d}" for number in range(20))


def main(folder: Path) -> None:
    notes = Notes({}, {})
    pool = Pool(2, time_limit=TimeLimit(seconds=1.5))
    assert may_fork(pool)
    with ForkingCrew(pool) as crew:
        set_aside = crew.run(partial(NotingWorker, folder), tasks(crew), notes, gift={"factor": 6})
        again = crew.run(partial(NotingWorker, folder), ["again-00000"], notes)
    told = {
        "results": notes.results,
        "reasons": notes.reasons,
        "set_aside": [failed.task for failed in (*set_aside, *again)],
        "retried": notes.counts.retried if notes.counts else None,
    }
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
