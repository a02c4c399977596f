"""The numbers of a running job for programs: JSON lines in the run's folder, and metrics on Ray's dashboard."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from forebear.errors import JobError
from forebear.run import Run

GAUGES = {
    "total": "units of the whole stage",
    "rate": "units per second of this session",
    "seconds_left": "at the rate so far",
    "workers": "that are open",
    "retried": "tasks that lost a worker and were tried again",
    "set_aside": "tasks that were given up",
}
EMBEDDING, INDEXING = "embedding", "indexing"
"""Stages."""
DONE = "done"


def events_path(run: Run, stage: str) -> Path:
    """Where the events of a stage (`embedding`, `indexing`) are appended, session after session."""
    return run.folder / "progress" / f"{stage}.jsonl"


class EventLog:
    """Appends events to a file of JSON lines, each with its `time` (seconds since 1970). A listener of Progress.

    A line is written at once and never changed, so another process can follow the file; `read_events` skips the line
    that a killed process left half written. On a disk that is full, lines are left out: what the work itself cannot
    write ends it, with its own reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
            if self._file.seek(0, 2) and (self._file.seek(-1, 2), self._file.read(1))[1] != b"\n":
                self._file.write(b"\n")
        except OSError as refused:
            raise JobError(f"{path} cannot be written ({refused.strerror}); free or unlock the folder") from None

    def __call__(self, event: dict[str, Any]) -> None:
        with suppress(OSError):
            self._file.write(json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False).encode() + b"\n")

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole event of a log, in order; none when there is no log."""
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event


class RayMetrics:
    """Shows events as metrics `forebear_...` of Ray's dashboard, tagged with stage and run. A listener of Progress.

    Without a Ray, or where this process is a client outside of the cluster (ray://), it does nothing: only members of
    a cluster export metrics.
    """

    def __init__(self, run: Run) -> None:
        self._run = run.folder.resolve().name
        self._metrics: dict[str, Any] = {}
        self._done = 0

    def __call__(self, event: dict[str, Any]) -> None:
        if not self._metrics and not self._begin(event):
            return
        tags = {"stage": event["stage"], "run": self._run}
        for name in GAUGES:
            if event.get(name) is not None:
                self._metrics[name].set(event[name], tags)
        if event["done"] > self._done:
            self._metrics[DONE].inc(event["done"] - self._done, tags)
            self._done = event["done"]

    def _begin(self, event: dict[str, Any]) -> bool:
        try:
            import ray
            from ray.util.metrics import Counter, Gauge
        except ImportError:
            return False
        if not ray.is_initialized() or ray.util.client.ray.is_connected():
            return False
        keys = ("stage", "run")
        self._done = event["done"]  # what was done before is not counted again
        self._metrics = {name: Gauge(f"forebear_{name}", about, keys) for name, about in GAUGES.items()}
        self._metrics[DONE] = Counter("forebear_done", "units done in this session", keys)
        return True
