"""The model that the repository ships is the one that its configuration makes."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from forebear.config import parse, read_yaml
from forebear.data import open_training_set
from forebear.diffusion.checkpoint import checkpoint_name, list_checkpoints, load_checkpoint
from forebear.diffusion.events import EpochPlan, read_events
from forebear.diffusion.sampling import generate
from forebear.diffusion.training import TrainConfig, learning_rate
from forebear.run import Run

DEMO = Path(__file__).parents[2] / "deploy" / "demo"
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return parse(TrainConfig, read_yaml(DEMO / "train.yaml"), "train.yaml")


@pytest.fixture(scope="module")
def run() -> Run:
    return Run(DEMO / "openmoji")


def test_settings_are_those_of_the_configuration(config: TrainConfig, run: Run) -> None:
    for section in ("data", "model", "training"):
        shipped = getattr(config, section)
        assert parse(type(shipped), run.section(section), section) == shipped


def test_configuration_names_the_checkpoints(config: TrainConfig, run: Run) -> None:
    count = len(open_training_set(config.data))
    each = math.ceil(count / config.training.batch_size)
    found = list_checkpoints(run)
    assert len(found) >= 3
    assert [c.name for c in found] == [checkpoint_name(epoch * each) for epoch in config.training.closing_epochs]
    assert {c.sample_count for c in found} == {count}


def test_learning_rates_are_means_of_the_schedule(config: TrainConfig, run: Run) -> None:
    found = list_checkpoints(run)
    rates = [learning_rate(config.training, step, found[-1].step) for step in range(found[-1].step)]
    starts = [0, *(checkpoint.step for checkpoint in found[:-1])]
    means = [np.mean(rates[start : checkpoint.step]) for start, checkpoint in zip(starts, found, strict=True)]
    assert [checkpoint.learning_rate for checkpoint in found] == pytest.approx(means)


def test_events_are_those_that_the_seed_draws(config: TrainConfig, run: Run) -> None:
    samples = open_training_set(config.data).samples
    last = list_checkpoints(run)[-1]
    training = config.training
    plan = EpochPlan.draw(
        training.seed,
        last.epoch - 1,
        len(samples),
        1000,
        power=training.timestep_power,
        flip=training.flip,
        caption_dropout=training.caption_dropout,
    )
    events = read_events(run).to_pandas()
    events = events[events["checkpoint"] == last.name]
    assert events["sample_id"].tolist() == [sample.id for sample in samples]
    np.testing.assert_array_equal(events["timestep"], plan.timesteps)


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 40 * MEGABYTE


def test_every_checkpoint_generates(run: Run) -> None:
    pictures = []
    for checkpoint in list_checkpoints(run):
        pixels = generate(load_checkpoint(run, checkpoint), ["red heart"], [None], [0], steps=4)
        assert pixels.shape == (1, 3, 32, 32)
        assert torch.isfinite(pixels).all()
        pictures.append(pixels)
    assert not torch.equal(pictures[0], pictures[-1])


def test_the_folder_says_how_it_was_made() -> None:
    text = (DEMO / "README.md").read_text(encoding="utf-8")
    assert "forebear train deploy/demo/train.yaml" in text
    assert "CC BY-SA 4.0" in text
    assert json.loads((DEMO / "openmoji" / "model" / "model_index.json").read_text())["unet"]
