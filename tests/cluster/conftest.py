"""A tiny run, trained, embedded and indexed in this process, and the cluster of three hosts."""

import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cluster_trial.ray_hosts import RayHosts, ray_hosts

from forebear.config import parse
from forebear.diffusion.training import TrainConfig, train
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run

PICTURES = 60
TRAINED = {
    "data": {"source": "digits", "limit": PICTURES},
    "training": {"epochs": 2, "batch_size": 20, "warmup_steps": 2, "checkpoint_epochs": [1, 2]},
}
EMBEDDED = EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=16, shard_rows=1)
"""As tests/chaos/driver.py has it: a shard for each picture and checkpoint."""


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A folder that all hosts see. Its path is short, because Ray's sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="fb-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def trained_run(shared: Path, tiny_model: dict) -> Run:
    run = Run(shared / "trained")
    assert train(run, parse(TrainConfig, {**TRAINED, "model": tiny_model}, "tests"))
    return run


@pytest.fixture(scope="session")
def quiet_run(shared: Path, trained_run: Run) -> Run:
    """Embedded by one process, and indexed."""
    run = Run(shared / "quiet")
    shutil.copytree(trained_run.folder, run.folder)
    embed(run, EMBEDDED)
    build_indexes(run, ["retrac", "retrac-ridge"], IndexConfig())
    return run


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[RayHosts]:
    folder = shared / "ray"
    folder.mkdir()
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.exit("told to end"))  # and so the hosts are taken away
    with ray_hosts(folder) as running:
        yield running
    signal.signal(signal.SIGTERM, before)
