"""A tiny class-conditional digits model, trained and embedded by the real thing, once for all tests."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from forebear.attribution import Attributor
from forebear.attribution.features import import_features
from forebear.config import parse
from forebear.data import DataConfig, open_training_set
from forebear.diffusion.training import TrainConfig, train
from forebear.gradients import ProjectionConfig
from forebear.index import IndexConfig
from forebear.jobs import EmbedConfig, build_indexes, embed
from forebear.run import Run

CONFIG = {
    "data": {"source": "digits", "limit": 24},
    "model": {
        "conditioning": "class",
        "image_size": 8,
        "channels": 1,
        "unet": {
            "block_out_channels": [8, 16],
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        },
    },
    "training": {"epochs": 3, "batch_size": 8, "warmup_steps": 2, "flip": True, "checkpoint_epochs": [1, 3]},
}


def embedded(trained: Run, folder: Path, settings: EmbedConfig) -> Run:
    """A copy of the trained run with a store, features, and an index for every estimator that it can serve."""
    shutil.copytree(trained.folder, folder)
    run = Run(folder)
    embed(run, settings)
    np.save(folder / "features.npy", np.random.default_rng(0).standard_normal((24, 5)))
    import_features(run, open_training_set(parse(DataConfig, CONFIG["data"], "tests")), folder / "features.npy")
    build_indexes(run, None, IndexConfig())
    return run


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("attribution") / "trained")
    assert train(run, parse(TrainConfig, CONFIG, "tests"))
    return run


@pytest.fixture(scope="session")
def recorded_run(trained_run: Run) -> Run:
    """Whole gradients at the events that training recorded: exact Diffusion-TracIn."""
    settings = EmbedConfig(scheme="recorded", projection=ProjectionConfig(dim=None))
    return embedded(trained_run, trained_run.folder.with_name("recorded"), settings)


@pytest.fixture(scope="session")
def digits_run(trained_run: Run) -> Run:
    """Projected gradients of every measurement at shared stratified timesteps and noise."""
    measurements = ("loss", "square", "output")
    settings = EmbedConfig(timesteps=3, projection=ProjectionConfig(dim=1024), measurements=measurements)
    return embedded(trained_run, trained_run.folder.with_name("digits"), settings)


@pytest.fixture(scope="session")
def attributor(digits_run: Run) -> Attributor:
    return Attributor.open(digits_run.folder)


@pytest.fixture
def writable_run(digits_run: Run, tmp_path: Path) -> Run:
    """A copy of `digits_run` that a test may damage."""
    shutil.copytree(digits_run.folder, tmp_path / "digits")
    return Run(tmp_path / "digits")
