"""`embed` as a member of the trial's cluster, by the driver of tests/chaos: it notes each try of a shard."""

import os
import shutil
import signal
import sys
from collections import Counter
from typing import Any

from cluster_trial.ray_hosts import PORT, ROOT, RayHosts, wait_for
from forebear.jobs.events import events_path, read_events
from forebear.run import Run

DRIVER = ROOT / "tests" / "chaos" / "driver.py"
LONGEST = 400.0
"""Seconds that an embedding may take."""


class Embedding:
    """One driver on the head, with a worker for every host."""

    def __init__(self, cluster: RayHosts, trained: Run, name: str) -> None:
        self.cluster, self.run = cluster, Run(trained.folder.with_name(name))
        shutil.copytree(trained.folder, self.run.folder)
        self.notes = self.run.folder.with_suffix(".notes")
        self._log = cluster.log(f"embed-{name}")
        command = [sys.executable, str(DRIVER), str(self.run.folder), "1", str(len(cluster.hosts)), str(self.notes)]
        address = {"RAY_ADDRESS": f"{cluster.head.address}:{PORT}"}
        with self._log.open("wb") as log:
            self._process: Any = cluster.head.popen(command, cluster.environment | address, log)

    def __enter__(self) -> "Embedding":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def done(self) -> int:
        """Shards that are whole."""
        return len(list(self.run.store_folder.glob("checkpoint=*/shard-*.json")))

    def wait_for(self, shards: int) -> None:
        def enough() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"the driver ended: {self._log.read_text()[-2000:]}")
            return self.done() >= shards

        wait_for(enough, f"{shards} shards", LONGEST, pause=0.05)

    def finish(self) -> None:
        """Wait for its end; raises RuntimeError with its log when it fails."""
        if self._process.wait(LONGEST):
            raise RuntimeError(self._log.read_text()[-3000:])

    def processes(self) -> set[int]:
        """Of workers that have begun a shard."""
        return {int(process) for _, _, _, process in self._noted()}

    def happened(self) -> Counter[str]:
        """How many tries `begin`, `end` and found a shard `kept`."""
        return Counter(what for what, *_ in self._noted())

    def _noted(self) -> list[list[str]]:
        """What happened, checkpoint, shard, process; nothing before the first try."""
        return [line.split() for line in self.notes.read_text().splitlines()] if self.notes.exists() else []

    def events(self) -> list[dict[str, Any]]:
        return list(read_events(events_path(self.run, "embedding")))


def store_bytes(run: Run) -> dict[str, bytes]:
    """Every file of a run's store."""
    files = (path for path in run.store_folder.rglob("*") if path.is_file())
    return {str(path.relative_to(run.store_folder)): path.read_bytes() for path in files}
