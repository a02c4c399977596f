"""What grows with the number of samples, and what must not: `python growth.py SAMPLES` simulates a driver."""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from forebear.jobs.plan import Job, make_plan
from forebear.jobs.simulation import Scenario, simulate

WORKERS, RATE, SHARD_ROWS = 1000, 50.0, 256
MACHINE_HOURS = 10.0
"""Mean time between losses of a machine: something is tried again all the time."""


def simulated(samples: int) -> dict[str, Any]:
    """The scheduler on that many samples, in a process of its own, which grew by `memory` to `resident` bytes."""
    command = [sys.executable, __file__, str(samples)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    keys = ("memory", "resident", "decisions_per_second", "needed_per_second", "counts", "machines_lost")
    return {"samples": samples, **{key: found[key] for key in keys}}


def planned(samples: int, rate: float, workers: int, shape: dict[str, int]) -> dict[str, Any]:
    """What `forebear plan` says of that many samples at a measured rate."""
    plan = make_plan(Job(samples=samples, workers=workers, rate=rate, **shape))
    return {"samples": samples, **{name: plan.value(name) for name in ("time", "CPU-hours", "store", "index")}}


if __name__ == "__main__":
    scenario = Scenario(
        samples=int(sys.argv[1]),
        checkpoints=1,
        shard_rows=SHARD_ROWS,
        workers=WORKERS,
        rate=RATE,
        machine_hours=MACHINE_HOURS,
    )
    print(json.dumps(asdict(simulate(scenario))))
