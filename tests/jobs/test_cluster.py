"""Clusters that were there before the job: an address, a client from outside, GPUs by share, metrics."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from forebear.errors import JobError
from forebear.jobs.pool import check_reachable
from forebear.run import Run

CopyRun = Callable[[Run], Run]
StoreFiles = Callable[[Run], dict[str, bytes]]

LONGEST = 600.0
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Of the test's own cluster, and of nothing else."""
FORKS = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
"""For the head: with grpcio 1.85 the client's server forks without it, and what it forks may die at once."""


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

    python: Path
    """Has the extra `cluster`."""
    address: str
    client: str
    metrics: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(
    cluster_python: Path, tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]
) -> Iterator[Head]:
    """A real `ray start --head` on free ports, ended by ending the process group that it runs in."""
    port, client, metrics = free_port(), free_port(), free_port()
    temporary = Path("/tmp") / f"fb-{os.getpid()}"
    command = [
        *(cluster_python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
        *(f"--port={port}", f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"),
        *("--num-cpus=2", "--num-gpus=1", "--include-dashboard=false", f"--temp-dir={temporary}"),
        "--disable-usage-stats",
    ]
    log = (tmp_path_factory.mktemp("head") / "log.txt").open("wb")
    environment = {**os.environ, **TOKEN, **FORKS, "RAY_worker_niceness": "0"}
    process = subprocess.Popen(
        [str(part) for part in command], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    try:
        wait_until(lambda: process.poll() is not None or (listens(port) and listens(client)), "the head", LONGEST)
        assert process.poll() is None, f"the head ended by itself: {Path(log.name).read_text()[-2000:]}"
        metrics_page = f"http://127.0.0.1:{metrics}/metrics"
        yield Head(cluster_python, f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}", metrics_page)
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
    """Writes what Ray gave it into a file for each task.

    `meet` waits for another worker, `deadly` kills the first process that takes it.
    """

    def __init__(self, folder):
        self.folder = Path(folder)

    def open(self):
        import ray
        (self.folder / f"open-{os.getpid()}").touch()
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
        while task == "meet" and len(list(self.folder.glob("open-*"))) < 2:
            time.sleep(0.1)
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
        self.bar.facts = {"workers": counts.workers, "retried": counts.retried, "set_aside": counts.set_aside}
        self.bar.tick()


import ray
if "ray." in sys.argv[2]:
    ray.init(log_to_driver=False)
folder, pool, tasks, hold = sys.argv[1], eval(sys.argv[2]), sys.argv[3].split(), float(sys.argv[4])
with progress("testing", len(tasks), "tasks", listeners=(RayMetrics(Run(Path(folder))),)) as bar:
    watch = Telling(bar)
    run_on_ray(partial(Touching, folder), tasks, pool, watch)
    print("workers", watch.most)
    until = time.monotonic() + hold
    while time.monotonic() < until:  # as a job does: Ray exports a gauge once for each time that it is set
        bar.tick()
        time.sleep(0.2)
'''


EMBED = """
import sys
from pathlib import Path
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run

settings = EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=16, shard_rows=8, workers=2)
embed(Run(Path(sys.argv[1])), settings)
"""
"""With the settings of the fixture `small`, and workers."""


def job(
    head: Head,
    folder: Path,
    pool: str,
    tasks: str,
    hold: float = 0.0,
    address: str = "",
    token: Mapping[str, str] = TOKEN,
) -> "subprocess.Popen[str]":
    """Another process that runs the tasks on the cluster, inside of it unless another address is given."""
    script = folder / "job.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [str(head.python), str(script), str(folder), pool, tasks, str(hold)],
        env={**os.environ, **token, "RAY_ADDRESS": address or head.address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["address", "client"])
def test_jobs_run_on_a_cluster_from_inside_and_from_outside(head: Head, kind: str, tmp_path: Path) -> None:
    address = getattr(head, kind)
    running = job(head, tmp_path, "Pool(2)", "a b deadly unworkable c", address=address)
    output, error = running.communicate(timeout=2 * LONGEST)
    lines = output.splitlines()
    assert {"done a A", "done b B", "done c C", "done deadly DEADLY"} <= set(lines), error
    assert "retried deadly" in lines
    assert "set aside unworkable this picture cannot be read" in lines
    failing = job(head, tmp_path, "Pool(1)", "wrong", address=address)
    _, error = failing.communicate(timeout=2 * LONGEST)
    assert failing.returncode == 1
    assert error.strip().endswith("DataError: wrong weights everywhere")


@pytest.mark.slow
def test_workers_share_a_gpu_and_memory_limits_how_many_there_are(head: Head, tmp_path: Path) -> None:
    output, error = job(head, tmp_path, "Pool(4, cpus=0.25, gpus=0.5)", "meet b c d e f").communicate(
        timeout=2 * LONGEST
    )
    assert "workers 2" in output.splitlines(), error  # four are asked for, the GPU has room for two
    assert "'GPU': 0.5" in (tmp_path / "meet").read_text()
    huge = "Pool(4, cpus=0.25, memory=int(0.6 * ray.cluster_resources()['memory']))"
    output, error = job(head, tmp_path, huge, "g h i j").communicate(timeout=2 * LONGEST)
    assert "workers 1" in output.splitlines(), error
    assert "'memory'" in (tmp_path / "g").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["address", "client"])
@pytest.mark.parametrize("token", ["another", "none"])
def test_cluster_that_refuses_the_token_says_so(head: Head, kind: str, token: str, tmp_path: Path) -> None:
    address = getattr(head, kind)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} if token == "another" else {}
    _, error = job(head, tmp_path, "Pool(1)", "a", address=address, token=own).communicate(timeout=2 * LONGEST)
    last = error.strip().splitlines()[-1]
    assert f"JobError: the Ray cluster at {address} cannot be reached" in last
    assert "RAY_AUTH_TOKEN" in last
    assert kind == "address" or "it refuses the token" in last  # not a time-out
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_run_embedded_from_outside_has_the_bytes_of_one_embedded_here(
    head: Head, class_run: Run, embedded: Run, copy_run: CopyRun, store_files: StoreFiles
) -> None:
    run = copy_run(class_run)
    command = [str(head.python), "-c", EMBED, str(run.folder)]
    environment = {**os.environ, **TOKEN, "RAY_ADDRESS": head.client}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "2 workers" in finished.stderr
    assert store_files(run) == store_files(embedded)


GAUGES = {"total": 40.0, "workers": 1.0, "retried": 0.0, "set_aside": 0.0}


def metrics(head: Head, run: str) -> dict[str, float]:
    """Forebear's metrics of this stage and run that the machine exports now; a counter's name ends in _total."""
    lines = re.findall(r"^ray_forebear_(\w+)\{([^}]*)\} (\S+)$", exported(head), re.MULTILINE)
    return {name: float(value) for name, tags, value in lines if f'run="{run}",stage="testing"' in tags}


@pytest.mark.slow
def test_progress_is_on_ray_s_metrics(head: Head, tmp_path: Path, wait_until: Callable[..., None]) -> None:
    # Joined beforehand, so that the job does not leave the cluster, and its metrics with it, when the tasks are done.
    joined = "(ray.is_initialized(), Pool(1))[1]"
    running = job(head, tmp_path, joined, " ".join(f"t{number}" for number in range(40)), hold=LONGEST)
    try:
        wait_until(lambda: metrics(head, tmp_path.name).get("done_total") == 40.0, "the counter's last value", LONGEST)
        found = metrics(head, tmp_path.name)
    finally:
        running.kill()
        running.communicate()
    assert found == found | GAUGES
    assert found["rate"] > 0.0
    assert "seconds_left" in found
