"""A tiny trained run, made once by the real verbs, and a way to call the command in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from forebear.cli.main import main

CONFIG = """
data: {source: digits, limit: 40}
model:
  conditioning: class
  image_size: 8
  channels: 1
  unet:
    block_out_channels: [8, 16]
    down_block_types: [DownBlock2D, AttnDownBlock2D]
    up_block_types: [AttnUpBlock2D, UpBlock2D]
    layers_per_block: 1
    norm_num_groups: 4
    attention_head_dim: 8
training: {epochs: 2, batch_size: 10, warmup_steps: 2, checkpoint_epochs: [1, 2]}
"""

Forebear = Callable[..., Result]


@pytest.fixture(scope="session")
def forebear() -> Forebear:
    """Call the command with arguments; returns click's result."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return call


@pytest.fixture(scope="session")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "digits.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def embedded_run(tmp_path_factory: pytest.TempPathFactory, config_file: Path, forebear: Forebear) -> Path:
    """A run that `train`, `embed` and `index` have made."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    for arguments in (
        ("train", config_file, "--run", run),
        ("embed", "--run", run, "--timesteps", 2, "--dim", 64),
        ("index", "--run", run),
    ):
        result = forebear(*arguments)
        assert result.exit_code == 0, result.output
    return run
