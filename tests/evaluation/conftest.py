"""A tiny class-conditional digits model with a store of every measurement, trained once for all tests."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from forebear.config import parse
from forebear.diffusion.training import TrainConfig, train
from forebear.gradients import ProjectionConfig
from forebear.jobs import EmbedConfig, embed
from forebear.run import Run

SAMPLES = 30
TRAINING = {
    "data": {"source": "digits", "limit": SAMPLES},
    "training": {"epochs": 2, "batch_size": 10, "warmup_steps": 2, "checkpoint_epochs": [1, 2]},
}
EMBEDDING = EmbedConfig(
    timesteps=2, projection=ProjectionConfig(dim=512), measurements=("loss", "square", "output"), batch_size=64
)


@pytest.fixture(scope="session")
def evaluation_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: dict[str, Any]) -> Run:
    """Trained and embedded at stratified timesteps. Evaluations may write to it, under names of their own."""
    run = Run(tmp_path_factory.mktemp("evaluations") / "digits")
    assert train(run, parse(TrainConfig, TRAINING | {"model": tiny_model}, "tests"))
    embed(run, EMBEDDING)
    return run


@pytest.fixture(scope="session")
def recorded_evaluation_run(evaluation_run: Run) -> Run:
    """The same model, embedded at the events that training recorded."""
    folder = evaluation_run.folder.with_name("recorded")
    shutil.copytree(evaluation_run.folder, folder, ignore=shutil.ignore_patterns("store", "evaluation", "curvature"))
    run = Run(folder)
    settings = (folder / "run.yaml").read_text(encoding="utf-8")
    (folder / "run.yaml").write_text(settings.partition("embedding:")[0], encoding="utf-8")
    embed(run, EmbedConfig(scheme="recorded", projection=ProjectionConfig(dim=64), batch_size=64))
    return run


@pytest.fixture
def writable_evaluation_run(evaluation_run: Run, tmp_path: Path) -> Run:
    """A copy that a test may damage."""
    shutil.copytree(evaluation_run.folder, tmp_path / "digits", ignore=shutil.ignore_patterns("evaluation"))
    return Run(tmp_path / "digits")
