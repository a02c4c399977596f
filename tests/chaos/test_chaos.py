"""A cluster on which everything dies once gives the bytes of one quiet process, and wastes what was in flight."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forebear.data import DataConfig
from forebear.diffusion.building import ModelConfig
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed
from forebear.jobs.events import events_path, read_events
from forebear.run import Run
from forebear.store import Store

pytestmark = pytest.mark.slow

PICTURES, CHECKPOINTS, WORKERS = 100, 2, 3
SHARDS = PICTURES * CHECKPOINTS
"""One picture each."""
LONGEST = 600.0
"""Seconds to wait for any one thing."""
MODEL = ModelConfig(
    conditioning="class",
    image_size=8,
    channels=1,
    unet={
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
)
CONFIG = EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=16, shard_rows=1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    training = TrainingConfig(epochs=2, batch_size=20, warmup_steps=2, checkpoint_epochs=(1, 2))
    assert train(run, TrainConfig(DataConfig("digits", limit=PICTURES), MODEL, training))
    return run


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A head and two more machines, of one CPU each; lost ones are noticed within seconds."""
    for name, value in (("initial_delay", 2000), ("period", 1000), ("timeout", 1000)):
        monkeypatch.setenv(f"RAY_health_check_{name}_ms", str(value))
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 unless it is set: on a busy machine actors would starve
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


class Chaos:
    """Starts and kills drivers, and the actors that their notes name."""

    def __init__(self, run: Run, address: str, notes: Path) -> None:
        self.run, self.address, self.notes = run, address, notes
        self.log = notes.with_name("drivers.log")
        self.chance = random.Random(7)
        self.driver: subprocess.Popen[bytes] | None = None
        self.actor_kills = 0

    def start_driver(self) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("driver.py")
        command = [sys.executable, script, self.run.folder, 1, WORKERS, self.notes]
        environment = {**os.environ, "RAY_ADDRESS": self.address, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.driver = subprocess.Popen([str(p) for p in command], env=environment, stdout=log, stderr=log)
        return self.driver

    def done(self) -> set[Path]:
        return set(self.run.store_folder.glob("checkpoint=*/shard-*.json"))

    def wait_for(self, shards: int) -> None:
        self.wait(lambda: len(self.done()) >= shards, f"{shards} shards")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LONGEST
        while not condition():
            assert self.driver is not None
            assert self.driver.poll() is None, f"the driver ended by itself: {self.log.read_text()}"
            assert time.monotonic() < end, f"{what} did not come; {len(self.done())} shards are done"
            time.sleep(0.02)

    def lines(self) -> list[tuple[str, str, str]]:
        """(what, shard, process) in the order of events."""
        lines = (line.split() for line in self.notes.read_text().splitlines())
        return [(what, f"{checkpoint} {shard}", process) for what, checkpoint, shard, process in lines]

    def working(self) -> list[int]:
        """Processes in the midst of a shard."""
        last = {process: what for what, _, process in self.lines()}
        return [int(process) for process, what in last.items() if what == "begin" and is_actor(int(process))]

    def kill_actor(self) -> None:
        working: list[int] = []

        def found() -> bool:
            working[:] = self.working()
            return bool(working)

        self.wait(found, "a working actor")
        os.kill(self.chance.choice(working), signal.SIGKILL)
        self.actor_kills += 1

    def kill_driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        assert self.driver.wait() == -signal.SIGKILL
        # Ray ends the actors of a driver that is gone.
        end = time.monotonic() + LONGEST
        while any(is_actor(int(process)) for _, _, process in self.lines()):
            assert time.monotonic() < end, "actors outlived their driver"
            time.sleep(0.05)


def is_actor(process: int) -> bool:
    """Whether a process that the notes name still is a Ray worker, and no later process of the same number."""
    try:
        return b"ray::" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def stamps(files: set[Path]) -> dict[Path, tuple[int, int]]:
    parquet = (path.with_suffix(".parquet") for path in files)
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in parquet}


def store_bytes(run: Run) -> dict[str, bytes]:
    files = (path for path in run.store_folder.rglob("*") if path.is_file())
    return {str(path.relative_to(run.store_folder)): path.read_bytes() for path in files}


def test_everything_dies_once_and_nothing_is_lost_or_done_twice(run: Run, cluster, tmp_path: Path) -> None:
    quiet = Run(tmp_path / "quiet")
    shutil.copytree(run.folder, quiet.folder)
    embed(quiet, CONFIG)
    chaos = Chaos(run, cluster.address, tmp_path / "notes.txt")
    kept: dict[Path, tuple[int, int]] = {}
    try:
        chaos.start_driver()
        for shards in (10, 25):
            chaos.wait_for(shards)
            chaos.kill_actor()
        chaos.wait_for(40)
        chaos.kill_driver()
        kept |= stamps(chaos.done())

        chaos.start_driver()
        chaos.wait_for(70)
        cluster.remove_node(chaos.chance.choice(list(cluster.worker_nodes)), allow_graceful=False)
        chaos.wait_for(90)
        cluster.add_node(num_cpus=1)
        chaos.wait_for(110)
        chaos.kill_actor()
        chaos.wait_for(130)
        chaos.kill_driver()
        kept |= stamps(chaos.done())

        driver = chaos.start_driver()
        chaos.wait_for(160)
        chaos.kill_actor()
        assert driver.wait(LONGEST) == 0, chaos.log.read_text()
    finally:
        if chaos.driver is not None:
            chaos.driver.kill()
            chaos.driver.wait()

    assert store_bytes(run) == store_bytes(quiet)
    Store.open(run.store_folder).verify()
    assert stamps(chaos.done()).items() >= kept.items()  # what was done stayed as it was
    happened = Counter(what for what, _, _ in chaos.lines())
    written = Counter(shard for what, shard, _ in chaos.lines() if what == "end")
    assert max(written.values()) == 1
    settled = {shard for what, shard, _ in chaos.lines() if what in ("end", "kept")}
    assert len(settled) == SHARDS
    # An actor holds one shard, a machine of one CPU has one actor, and a driver has all of them.
    lost = happened["begin"] - happened["end"] - happened["kept"]
    assert chaos.actor_kills == 4
    assert lost <= chaos.actor_kills + 1 + 2 * WORKERS
    events = list(read_events(events_path(run, "embedding")))
    assert [event["event"] for event in events].count("begin") == 3
    assert events[-1] | {"event": "end", "error": None, "done": SHARDS} == events[-1]
    retried = [event for event in events if event["event"] == "retried"]
    assert 1 <= len(retried) <= chaos.actor_kills + 1
    summary = f"{dict(happened)}, {lost} tries lost, {len(retried)} retried, {chaos.actor_kills} actors killed"
    sys.stderr.write(f"chaos: {summary}\n")
