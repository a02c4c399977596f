"""One embedding in a process of its own: `python job.py RUN WORKERS SETTINGS` prints its times as JSON.

`curve` holds (seconds since `embed` was called, pictures done) for every shard, by the times of change of its files.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from forebear.config import parse, plain
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run


@dataclass(frozen=True)
class Timed:
    """One finished embedding."""

    workers: int
    seconds: float
    """Of the whole call: Ray's start and end, opening the run in the driver and in every worker, and the work."""
    curve: tuple[tuple[float, int], ...]
    store_bytes: int

    @property
    def pictures(self) -> int:
        return self.curve[-1][1]

    @property
    def rate(self) -> float:
        """Pictures a second in the second half of the pictures: by then all workers have begun."""
        times, done = zip(*self.curve[(len(self.curve) - 1) // 2 :], strict=True)
        return linear_regression(times, done).slope

    @property
    def start_up(self) -> float:
        """Seconds that the call took beyond all pictures at the rate."""
        return self.seconds - self.pictures / self.rate


def timed(run: Run, config: EmbedConfig, workers: int) -> Timed:
    """Embed a run that has no store yet in a child process."""
    settings = json.dumps(plain(replace(config, workers=workers)))
    command = [sys.executable, __file__, str(run.folder), settings]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    return Timed(workers, found["seconds"], tuple((at, rows) for at, rows in found["curve"]), found["store_bytes"])


def middle(found: list[Timed]) -> Timed:
    """The one with the median rate of the work."""
    rate = median(one.rate for one in found)
    return min(found, key=lambda one: abs(one.rate - rate))


def _work(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    run, config = Run(folder), parse(EmbedConfig, settings, "settings")
    start, began = time.time(), time.perf_counter()
    store = embed(run, config)
    seconds = time.perf_counter() - began
    rows = {(record.checkpoint, record.shard): record.rows for record in store.manifest.shards}
    ends, done = [], 0
    files = sorted(run.store_folder.glob("checkpoint=*/shard-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    for path in files:
        done += rows[path.parent.name.removeprefix("checkpoint="), int(path.stem.removeprefix("shard-"))]
        ends.append((path.stat().st_mtime_ns / 1e9 - start, done))
    return {"seconds": seconds, "curve": ends, "store_bytes": sum(path.stat().st_size for path in files)}


if __name__ == "__main__":
    print(json.dumps(_work(Path(sys.argv[1]), json.loads(sys.argv[2]))))
