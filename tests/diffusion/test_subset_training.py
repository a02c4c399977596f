"""Training on a part of a training set: the model's shape is the whole set's, its weights are the part's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forebear.data import DataConfig, open_training_set
from forebear.diffusion.checkpoint import list_checkpoints
from forebear.diffusion.events import read_events
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.training import TrainConfig, train
from forebear.errors import ConfigError, DataError
from forebear.progress import Progress
from forebear.run import Run

Configure = Callable[..., TrainConfig]


@pytest.fixture
def config(train_config: Configure) -> TrainConfig:
    return train_config("class", epochs=1, checkpoint_epochs=())


def test_classes_that_the_part_lacks_keep_their_place(tmp_path: Path, config: TrainConfig) -> None:
    whole = open_training_set(config.data)
    part = [sample.id for sample in whole.samples if sample.label in (0, 1)]
    run = Run(tmp_path)
    assert train(run, config, whole, subset=part)
    assert read_events(run)["sample_id"].to_pylist() == part
    model = DiffusionModel.load(run.model_folder)
    assert model.denoiser.config.num_class_embeds == 1 + max(sample.label or 0 for sample in whole.samples)


def test_a_part_trains_as_a_set_of_its_own(tmp_path: Path, config: TrainConfig) -> None:
    """Where the classes are the same, only what is trained on matters."""
    whole = open_training_set(config.data)
    highest = max(sample.label or 0 for sample in whole.samples)
    kept = whole.where(lambda sample: sample.label == highest or int(sample.id, 16) % 2 == 0)
    assert 0 < len(kept) < len(whole)
    assert train(Run(tmp_path / "set"), config, kept)
    assert train(Run(tmp_path / "part"), config, whole, subset={sample.id for sample in kept.samples})
    assert train(Run(tmp_path / "whole"), config, whole)
    weights = [
        next((tmp_path / name / "model" / "unet").glob("*.safetensors")).read_bytes()
        for name in ("set", "part", "whole")
    ]
    assert weights[0] == weights[1] != weights[2]


def test_a_throwaway_model_leaves_no_checkpoint(tmp_path: Path, config: TrainConfig) -> None:
    run, bar = Run(tmp_path), Progress("outer", 100, "steps", 10)
    assert train(run, config, checkpoints=False, bar=bar)
    assert run.model_folder.is_dir()
    assert list_checkpoints(run) == []
    assert not run.events_file.exists()
    samples = len(open_training_set(config.data))
    assert bar.done == 10 + -(-samples // config.training.batch_size)


def test_another_part_in_the_same_run_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    ids = [sample.id for sample in open_training_set(config.data).samples]
    assert train(Run(tmp_path), config, subset=ids[:8], checkpoints=False)
    with pytest.raises(ConfigError, match=r"subset: ids: \w+ -> \w+"):
        train(Run(tmp_path), config, subset=ids[1:9], checkpoints=False)


@pytest.mark.parametrize(("subset", "message"), [(["nobody"], "1 samples, 1 of which"), ([], "0 samples")])
def test_a_part_of_something_else_is_refused(
    tmp_path: Path, config: TrainConfig, subset: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(Run(tmp_path), config, subset=subset)


def test_the_training_set_may_be_open_already(tmp_path: Path, config: TrainConfig) -> None:
    opened = open_training_set(DataConfig("digits", limit=16))
    elsewhere = replace(config, data=replace(config.data, source="/nowhere"))
    assert train(Run(tmp_path), elsewhere, opened)
    assert len(read_events(Run(tmp_path))) == 16
