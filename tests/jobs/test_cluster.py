"""Clusters that were there before the job: an address, a client from outside, GPUs by share, metrics."""

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forebear.errors import JobError
from forebear.jobs.pool import check_reachable

LONGEST = 180.0
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of the test's own cluster, and of nothing else."""
OUTSIDE = importlib.util.find_spec("grpc") is not None
"""Whether there is what `ray[client]` adds to Ray: ray:// needs it."""

EXPORTS = importlib.util.find_spec("prometheus_client") is not None
"""Whether there is what `ray[default]` adds to Ray: without it a machine exports no metrics."""


def test_cluster_that_is_not_there_is_named_at_once() -> None:
    for address in (f"127.0.0.1:{free_port()}", f"ray://127.0.0.1:{free_port()}", "no-such-host.invalid:6379"):
        with pytest.raises(JobError, match=rf"cluster at {address} cannot be reached.*RAY_ADDRESS"):
            check_reachable(address)
    check_reachable("auto")
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_reachable(f"ray://127.0.0.1:{server.getsockname()[1]}")


@dataclass(frozen=True)
class Head:
    """A cluster of one machine with two CPUs and one GPU that exists in name only."""

    address: str
    client: str
    metrics: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A real `ray start --head` on free ports, ended by ending the process group that it runs in."""
    port, client, metrics = free_port(), free_port(), free_port()
    temporary = Path("/tmp") / f"fb-{os.getpid()}"
    command = [
        *(Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--metrics-export-port={metrics}"),
        *([f"--ray-client-server-port={client}"] if OUTSIDE else []),
        *("--num-cpus=2", "--num-gpus=1", "--include-dashboard=false", f"--temp-dir={temporary}"),
        "--disable-usage-stats",
    ]
    log = (tmp_path_factory.mktemp("head") / "log.txt").open("wb")
    environment = {**os.environ, **TOKEN, "RAY_worker_niceness": "0"}
    process = subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        wait_until(lambda: listens(port) and (listens(client) or not OUTSIDE), "the head")
        yield Head(f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}", f"http://127.0.0.1:{metrics}/metrics")
    finally:
        process.terminate()  # --block ends what it started
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
        shutil.rmtree(temporary, ignore_errors=True)
        log.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def exported(head: Head) -> str:
    try:
        with urllib.request.urlopen(head.metrics, timeout=5) as page:
            return page.read().decode()
    except OSError:  # not there yet
        return ""


def wait_until(condition, what: str) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.2)


SCRIPT = '''
import os, sys, time
from functools import partial
from pathlib import Path

from forebear.errors import DataError
from forebear.jobs.dispatch import Pool, Watch, run_on_ray
from forebear.jobs.driving import UnworkableError
from forebear.jobs.events import RayMetrics
from forebear.progress import progress
from forebear.run import Run


class Touching:
    """Writes what Ray gave it into a file for each task; `deadly` kills the first process that takes it."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def open(self):
        import ray
        context = ray.get_runtime_context()
        self.given = f"{context.get_assigned_resources()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')}"

    def work(self, task):
        if task == "unworkable":
            raise UnworkableError("this picture cannot be read")
        if task == "wrong":
            raise DataError("wrong weights everywhere")
        if task == "deadly" and not (self.folder / "deadly.tried").exists():
            (self.folder / "deadly.tried").touch()
            os._exit(1)
        (self.folder / task).write_text(self.given)
        time.sleep(0.2)
        return task.upper()


class Telling(Watch):
    """Prints what it hears."""

    def __init__(self, bar):
        self.bar, self.most = bar, 0

    def done(self, task, result):
        print("done", task, result)
        self.bar.advance()

    def retried(self, task, reason):
        print("retried", task)

    def set_aside(self, failed):
        print("set aside", failed.task, failed.reason)

    def tick(self, counts, waiting):
        self.most = max(self.most, counts.workers)
        self.bar.facts = {"workers": counts.workers}
        self.bar.tick()


import ray
if "ray." in sys.argv[2]:
    ray.init(log_to_driver=False)
folder, pool, tasks, hold = sys.argv[1], eval(sys.argv[2]), sys.argv[3].split(), float(sys.argv[4])
with progress("testing", len(tasks), "tasks", listeners=(RayMetrics(Run(Path("some-run"))),)) as bar:
    watch = Telling(bar)
    run_on_ray(partial(Touching, folder), tasks, pool, watch)
    print("workers", watch.most)
    time.sleep(hold)
'''


def job(address: str, folder: Path, pool: str, tasks: str, hold: float = 0.0) -> "subprocess.Popen[str]":
    """Another process that runs the tasks on a cluster."""
    script = folder / "job.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), pool, tasks, str(hold)],
        env={**os.environ, **TOKEN, "RAY_ADDRESS": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["address", pytest.param("client", marks=pytest.mark.skipif(not OUTSIDE, reason="needs ray[client]"))]
)
def test_jobs_run_on_a_cluster_from_inside_and_from_outside(head: Head, kind: str, tmp_path: Path) -> None:
    output, error = job(getattr(head, kind), tmp_path, "Pool(2)", "a b deadly unworkable c").communicate(
        timeout=2 * LONGEST
    )
    lines = output.splitlines()
    assert {"done a A", "done b B", "done c C", "done deadly DEADLY"} <= set(lines), error
    assert "retried deadly" in lines
    assert "set aside unworkable this picture cannot be read" in lines
    failing = job(getattr(head, kind), tmp_path, "Pool(1)", "wrong")
    _, error = failing.communicate(timeout=2 * LONGEST)
    assert failing.returncode == 1
    assert error.strip().endswith("DataError: wrong weights everywhere")


@pytest.mark.slow
def test_workers_share_a_gpu_and_memory_limits_how_many_there_are(head: Head, tmp_path: Path) -> None:
    output, error = job(head.address, tmp_path, "Pool(4, cpus=0.25, gpus=0.5)", "a b c d e f").communicate(
        timeout=2 * LONGEST
    )
    assert "workers 2" in output.splitlines(), error  # four are asked for, the GPU has room for two
    assert "'GPU': 0.5" in (tmp_path / "a").read_text()
    huge = "Pool(4, cpus=0.25, memory=int(0.6 * ray.cluster_resources()['memory']))"
    output, error = job(head.address, tmp_path, huge, "g h i j").communicate(timeout=2 * LONGEST)
    assert "workers 1" in output.splitlines(), error
    assert "'memory'" in (tmp_path / "g").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not EXPORTS, reason="needs ray[default]")
def test_progress_is_on_ray_s_metrics(head: Head, tmp_path: Path) -> None:
    running = job(head.address, tmp_path, "Pool(1)", " ".join(f"t{number}" for number in range(40)), hold=60.0)
    try:
        wait_until(lambda: "forebear_done" in exported(head), "the metric")
        text = exported(head)
    finally:
        running.kill()
        running.communicate()
    total = next(line for line in text.splitlines() if re.match(r"ray_forebear_total\{", line))
    assert 'stage="testing"' in total
    assert 'run="some-run"' in total
    assert float(total.split()[-1]) == 40
