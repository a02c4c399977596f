"""Long work on the served run, in processes of its own that outlive a request, and this server where they can.

A job is a folder RUN/jobs/ID: `job.json` says what was started, `log` is what it wrote, `exit` its status. Whether it
runs is asked of the machine each time, so that a restarted server knows as much as the one before. Every kind of job
goes on where an earlier one stopped: what was interrupted is simply started again.
"""

import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from forebear.config import to_yaml
from forebear.files import write_json, write_text
from forebear.jobs.events import EMBEDDING, events_path, read_events
from forebear.run import Run
from forebear_serve.job_schemas import EmbedJob, EvaluateJob, IndexJob, JobInfo, JobState
from forebear_serve.problems import PATH, Problem, not_found, unavailable

FOLDER, RECORD, LOG, EXIT = "jobs", "job.json", "log", "exit"
LOG_LINES, LOG_BYTES = 40, 20_000
"""Of the end of a log that is given out."""
LISTED, AGAIN_SECONDS = 100, 0.2
SHELL = """exit="$1"; shift
trap 'stop=1; kill -TERM "$child" 2>/dev/null' TERM INT
"$@" & child=$!
if [ "$stop" ]; then kill -TERM "$child"; fi
wait "$child"; status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
echo "$status" >"$exit.part"; mv "$exit.part" "$exit"
"""
"""Runs a command and keeps its status, also when both are told to stop, and before the command has begun."""
SIGNALLED = 128
"""Exit statuses from SIGNALLED on are of processes that a signal ended, or that saved their state first."""


class _Record(BaseModel):
    """What job.json says."""

    id: str
    kind: Literal["embed", "index", "evaluate"]
    options: dict[str, Any]
    actor: str
    started: datetime
    pid: int
    """Of the shell, which leads a process group."""
    boot: str
    """The name of the machine's start: after another one, all processes are others."""
    born: str
    """When the process began, in the machine's ticks: another one may get its number later."""
    cancelled: bool = False


Asked = EmbedJob | IndexJob | EvaluateJob
Command = Callable[[Asked, Path, Path | None], list[str]]
"""What runs a job, from the run's folder and a file with the settings of embedding."""


def forebear_command(asked: Asked, run: Path, settings: Path | None) -> list[str]:
    """The `forebear` command that does a job."""
    return [sys.executable, "-m", "forebear.cli.main", *arguments(asked, run, settings)]


def arguments(asked: Asked, run: Path, settings: Path | None = None) -> list[str]:
    """What `forebear` is called with; `settings` is a file of those for embedding."""
    if isinstance(asked, EmbedJob):
        chosen = {"--grow": asked.options.grow, "--retry-quarantined": asked.options.retry_quarantined}
        file = [] if settings is None else ["--config", str(settings)]
        return ["embed", "--run", str(run), *file, *(option for option, wanted in chosen.items() if wanted)]
    named = [part for name in asked.options.estimators for part in ("--estimator", name)]
    if isinstance(asked, IndexJob):
        return ["index", "--run", str(run), *named]
    queries = [] if asked.options.queries is None else ["--queries", str(asked.options.queries)]
    return ["evaluate", asked.options.evaluation, "--run", str(run), *named, *queries]


class Jobs:
    """Starts, watches and ends the jobs of one run, one at a time."""

    def __init__(self, run: Path, command: Command = forebear_command) -> None:
        self._run, self._command = Run(run), command
        self._folder = run.absolute() / FOLDER
        self._lock = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def check(self) -> None:
        """Whether the run is there: raises when not."""
        self._run.settings()

    def start(self, asked: Asked, actor: str) -> JobInfo:
        """Raises Problem 409 while another job of this run goes on, 503 when the run's folder takes no files."""
        with self._lock:
            for one in self._records():
                if self._state(one)[0] is JobState.RUNNING:
                    raise Problem(
                        HTTPStatus.CONFLICT,
                        "conflict",
                        f"the job {one.id} ({one.kind}) of this run still runs; wait for it, or cancel it",
                    )
            try:
                return self._info(self._started(asked, actor))
            except OSError as refused:
                raise unavailable(f"the job cannot be started ({refused.strerror}); free or unlock the disk") from None

    def all_jobs(self) -> tuple[JobInfo, ...]:
        """The last ones, the newest first."""
        return tuple(self._info(one) for one in self._records()[:LISTED])

    def get(self, job_id: str) -> JobInfo:
        """With the end of its log. Raises Problem 404."""
        record = self._record(job_id)
        told = {"log": _tail(self._folder / job_id / LOG), "progress": self._progress(record)}
        return self._info(record).model_copy(update=told)

    def cancel(self, job_id: str) -> JobInfo:
        """Ask a job to stop, which it does when its state is safe; one that is over stays as it is."""
        with self._lock:
            record = self._record(job_id)
            if self._state(record)[0] is JobState.RUNNING:
                record = record.model_copy(update={"cancelled": True})
                self._write(record)
                for _ in range(2):  # a process that is just being made may lose the first signal
                    with suppress(ProcessLookupError):
                        os.killpg(record.pid, signal.SIGTERM)
                    time.sleep(AGAIN_SECONDS)
                    if self._state(record)[0] is not JobState.RUNNING:
                        break
            return self._info(record)

    def _started(self, asked: Asked, actor: str) -> _Record:
        now = datetime.now(UTC)
        job_id = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"
        folder = self._folder / job_id
        folder.mkdir(parents=True)
        run, settings = self._run.folder.absolute(), None
        if asked.kind == "embed" and self._run.has_section(EMBEDDING):
            settings = folder / "embedding.yaml"  # others than the store's would be refused
            write_text(settings, to_yaml(self._run.section(EMBEDDING)))
        with (folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                ["/bin/sh", "-c", SHELL, "sh", str(folder / EXIT), *self._command(asked, run, settings)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._run.folder,
                start_new_session=True,
            )
        self._children[job_id] = process
        options = asked.options.model_dump(mode="json")
        record = _Record(
            id=job_id,
            kind=asked.kind,
            options=options,
            actor=actor,
            started=now,
            pid=process.pid,
            boot=_boot(),
            born=_born(process.pid) or "",
        )
        try:
            self._write(record)
        except OSError:
            os.killpg(process.pid, signal.SIGKILL)  # nobody would know of it
            raise
        return record

    def _write(self, record: _Record) -> None:
        write_json(self._folder / record.id / RECORD, record.model_dump(mode="json"))

    def _record(self, job_id: str) -> _Record:
        for one in self._records():
            if one.id == job_id:
                return one
        raise not_found(f"there is no job {job_id[:80]}; list them with GET /v1/jobs")

    def _records(self) -> list[_Record]:
        """The newest first; a folder without a whole record is that of a start that was cut short."""
        found = []
        for file in self._folder.glob(f"*/{RECORD}"):
            with suppress(OSError, ValidationError):
                found.append(_Record.model_validate_json(file.read_bytes()))
        return sorted(found, key=lambda one: (one.started, one.id), reverse=True)

    def _state(self, record: _Record) -> tuple[JobState, int | None]:
        """How a job stands, with its exit status."""
        runs = self._runs(record)  # asked first: it may write its status in between
        status = _status(self._folder / record.id / EXIT)
        if status == 0:
            return JobState.SUCCEEDED, status
        if status is None and runs:
            return JobState.RUNNING, None
        if record.cancelled:
            return JobState.CANCELLED, status
        if status is None or status >= SIGNALLED:
            return JobState.INTERRUPTED, status
        return JobState.FAILED, status

    def _runs(self, record: _Record) -> bool:
        child = self._children.get(record.id)
        if child is not None and child.poll() is not None:
            self._children.pop(record.id, None)  # and it is a zombie no more
        if record.boot != _boot() or _born(record.pid) not in (None, record.born):
            return False
        try:
            os.killpg(record.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def _info(self, record: _Record) -> JobInfo:
        state, status = self._state(record)
        return JobInfo(
            id=record.id,
            kind=record.kind,
            options=record.options,
            state=state,
            actor=record.actor,
            started=record.started,
            exit_status=status,
            progress=self._progress(record) if state is JobState.RUNNING else None,
        )

    def _progress(self, record: _Record) -> dict[str, Any] | None:
        """The last event between the job's start and that of the next one."""
        if record.kind != "embed":
            return None
        since = record.started.timestamp()
        later = [one.started.timestamp() for one in self._records() if one.started > record.started]
        last: dict[str, Any] | None = None
        for event in read_events(events_path(self._run, EMBEDDING)):
            if since <= event.get("time", 0.0) < min(later, default=math.inf):
                last = event
        if last is not None and last.get("error"):
            last = {**last, "error": PATH.sub(r"\1", str(last["error"]))}
        return last


def _born(pid: int) -> str | None:
    """When a process began; None when it is gone or this machine does not say, and a dash when it has ended."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return None
    return "-" if said[0] == "Z" else said[19]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _status(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _tail(file: Path) -> tuple[str, ...]:
    """The last lines of a log, without the folders of paths."""
    try:
        with file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(PATH.sub(r"\1", line) for line in text.splitlines()[-LOG_LINES:])
