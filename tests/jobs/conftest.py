"""Tiny trained runs, made once, and copies of them to work in."""

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from forebear.data import DataConfig
from forebear.diffusion.building import ModelConfig, TextConfig
from forebear.diffusion.training import TrainConfig, TrainingConfig, train
from forebear.files import fingerprint
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig
from forebear.run import Run

ROOT = Path(__file__).parents[2]
CLUSTER_ENVIRONMENT = ROOT / "runs" / "peers" / "cluster"
"""Kept between runs: the first takes a minute."""

UNET = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 4}
BY_CLASS = ModelConfig(
    conditioning="class",
    image_size=8,
    channels=1,
    unet=UNET
    | {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]},
)
BY_CAPTION = ModelConfig(
    conditioning="text",
    image_size=8,
    channels=1,
    text=TextConfig(width=16, layers=1, heads=2, max_tokens=5),
    unet=UNET
    | {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    },
)
SMALL = EmbedConfig(timesteps=2, projection=ProjectionConfig(dim=64), batch_size=16, shard_rows=8)


@pytest.fixture(scope="session")
def small() -> EmbedConfig:
    """60 pictures in 8 shards for each checkpoint."""
    return SMALL


def _train(folder: Path, model: ModelConfig, data: DataConfig) -> Run:
    run = Run(folder)
    training = TrainingConfig(
        epochs=2, batch_size=20, warmup_steps=2, flip=True, caption_dropout=0.4, checkpoint_epochs=(1, 2)
    )
    assert train(run, TrainConfig(data, model, training))
    return run


@pytest.fixture(scope="session")
def class_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """60 digits, two checkpoints; not to be written to."""
    return _train(tmp_path_factory.mktemp("class") / "run", BY_CLASS, DataConfig("digits", limit=60))


@pytest.fixture(scope="session")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """30 digits with captions, two checkpoints; not to be written to."""
    return _train(tmp_path_factory.mktemp("text") / "run", BY_CAPTION, DataConfig("digits", limit=30))


CopyRun = Callable[[Run], Run]


@pytest.fixture
def copy_run(tmp_path: Path) -> CopyRun:
    """A copy of a run that a test may change."""

    def copy(run: Run) -> Run:
        target = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(run.folder, target)
        return Run(target)

    return copy


def _store_files(run: Run) -> dict[str, bytes]:
    files = (path for path in run.store_folder.rglob("*") if path.is_file())
    return {str(path.relative_to(run.store_folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="session")
def store_files() -> Callable[[Run], dict[str, bytes]]:
    """Every file of a run's store with its bytes, manifest and sidecars included."""
    return _store_files


@pytest.fixture(scope="session")
def embedded(class_run: Run, small: EmbedConfig, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`class_run`, embedded without interruption; not to be written to."""
    from forebear.jobs import embed

    run = Run(tmp_path_factory.mktemp("embedded") / "run")
    shutil.copytree(class_run.folder, run.folder)
    embed(run, replace(small, workers=0))
    return run


@pytest.fixture(scope="session")
def cluster_python() -> Path:
    """A Python that has the extra `cluster` beside all that this one has, Ray's version the same."""
    python, stamp = CLUSTER_ENVIRONMENT / "bin" / "python", CLUSTER_ENVIRONMENT / "requirements-fingerprint"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    requirements = [*extras["cluster"], f"ray=={version('ray')}"]
    here = sysconfig.get_path("purelib")
    wanted = fingerprint([*requirements, here])
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(CLUSTER_ENVIRONMENT)], check=True)
        # What is here counts as installed there, so that only what the extra adds is fetched.
        (site,) = CLUSTER_ENVIRONMENT.glob("lib/python*/site-packages")
        (site / "beside.pth").write_text(f"import site; site.addsitedir({here!r})\n", encoding="utf-8")
        pins = ROOT / "deploy" / "local" / "constraints.txt"
        command = [str(python), "-m", "pip", "install", "-qq", "--no-input", "-c", str(pins), *requirements]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            pytest.skip(f"{' '.join(command)} failed, is a package index in reach? {finished.stderr[-500:]}")
        stamp.write_text(wanted, encoding="utf-8")
    return python.absolute()
