"""Clean pictures in the model's space, cached or not, mirrored or not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from forebear.data import DataConfig, TrainingSet, open_training_set
from forebear.diffusion import pictures as module
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.pictures import Pictures

Build = Callable[..., DiffusionModel]


@pytest.fixture(scope="module")
def digits() -> TrainingSet:
    return open_training_set(DataConfig("digits", limit=12))


def test_pixels_are_the_same_cached_or_not(build: Build, digits: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(channels=1)
    kept = Pictures(digits, model)
    monkeypatch.setattr(module, "CACHE_BYTES", 0)
    fresh = Pictures(digits, model)
    for rows in ([3, 1], [1, 4, 3, 3]):
        expected = torch.from_numpy(digits.pixels(rows, 8, 1))
        torch.testing.assert_close(kept.x0(rows), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(fresh.x0(rows), expected, rtol=0, atol=1e-6)


def test_chosen_rows_are_mirrored_and_the_cache_is_not(build: Build, digits: TrainingSet) -> None:
    pictures = Pictures(digits, build(channels=1))
    plain = pictures.x0([0, 1, 2])
    mirrored = pictures.x0([0, 1, 2], np.array([False, True, False]))
    assert torch.equal(mirrored[[0, 2]], plain[[0, 2]])
    assert torch.equal(mirrored[1], plain[1].flip(-1))
    assert torch.equal(pictures.x0([0, 1, 2]), plain)


def test_mirroring_is_of_pixels_and_not_of_the_models_space(build: Build, digits: TrainingSet) -> None:
    model = build(space_to_depth=2, channels=1)
    pictures = Pictures(digits, model)
    mirrored = model.codec.decode(pictures.x0([5], np.array([True])))
    assert torch.equal(mirrored, model.codec.decode(pictures.x0([5])).flip(-1))


def test_dropped_captions_are_empty(build: Build, digits: TrainingSet) -> None:
    model = build("text", captions=[sample.caption for sample in digits.samples], channels=1)
    condition = Pictures(digits, model).condition([0, 1], np.array([True, False])).hidden_states
    assert condition is not None
    expected = model.condition(["", digits.samples[1].caption], [None, None]).hidden_states
    assert expected is not None
    torch.testing.assert_close(condition, expected)


def test_class_conditions_are_the_samples_labels(build: Build, digits: TrainingSet) -> None:
    few = digits.where(lambda sample: sample.label in (0, 1, 2))
    labels = Pictures(few, build("class", channels=1)).condition([0, 1]).class_labels
    assert labels is not None
    assert labels.tolist() == [few.samples[0].label, few.samples[1].label]
