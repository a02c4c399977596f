"""The seam, the model as a classifier, and diversity against plain loops and hand-made cases."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.evaluation.cases import Case
from forebear_generators.cow.evaluation.findings import ratio
from forebear_generators.cow.evaluation.measures import adherence, diversity, jumps, real_jumps, word_losses

Condition = Callable[..., CowCondition]


def test_jumps_are_those_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, 2, 5, 6, generator=generator)
    kept = (torch.rand(3, 5, 6, generator=generator) > 0.5).float()
    expected = []
    for picture, mask in zip(pixels, kept, strict=True):
        found = [
            float((picture[:, y, x] - picture[:, v, u]).abs().mean())
            for y in range(5)
            for x in range(6)
            for v, u in ((y + 1, x), (y, x + 1))
            if v < 5 and u < 6 and mask[y, x] != mask[v, u]
        ]
        expected.append(np.mean(found))
    np.testing.assert_allclose(jumps(pixels, kept), expected, rtol=1e-6)
    images = torch.rand(4, 2, 5, 6, generator=generator)
    each = [jumps(images, kept[row].expand(4, -1, -1)).mean() for row in range(3)]
    np.testing.assert_allclose(real_jumps(images, kept), each)


def test_jumps_leave_out_what_is_unknown_and_have_none_without_a_boundary() -> None:
    pixels = torch.zeros(1, 1, 2, 3)
    pixels[..., 1] = 1.0
    pixels[..., 2] = torch.nan
    kept = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]])
    assert jumps(pixels, kept).tolist() == [1.0]
    assert np.isnan(jumps(pixels, torch.ones(1, 2, 3))).all()


def test_word_losses_are_the_models_own(build: Callable[..., DiffusionModel], condition: Condition) -> None:
    model = build("text", scheduler={"prediction_type": "sample"})
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    wrong = (("the cat's face", None), ("flag of France", None))
    cases = [
        Case("a", condition(prompt="a red heart"), wrong, 0),
        Case("b", condition(prompt="a red heart"), wrong[:1], 0),
    ]
    found = word_losses(model, pixels, cases, timesteps=2, draws=2)
    assert found.shape == (2, 3)
    assert bool(found[1, 2].isnan())
    for row, column, words in ((0, 0, "a red heart"), (0, 2, "flag of France"), (1, 1, "the cat's face")):
        with torch.no_grad():
            expected = np.mean(
                [
                    float(
                        model.per_sample_loss(
                            pixels[row : row + 1],
                            torch.tensor([timestep]),
                            draw_noise(model.x0_shape, 0, [SHARED], [timestep], [draw]),
                            model.condition([words], [None]),
                        )
                    )
                    for timestep in (250, 750)
                    for draw in (0, 1)
                ]
            )
        assert float(found[row, column]) == pytest.approx(expected, rel=1e-4)


def test_adherence() -> None:
    losses = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0], [4.0, 4.0, torch.nan]])
    found = adherence(losses)
    assert found["accuracy"].tolist() == [1.0, 0.0, 0.0]
    assert found["rank"].tolist() == [1.0, 2.0, 1.5]
    np.testing.assert_allclose(found["margin"], [1 - 1 / 2.5, 0.0, 0.0])


def test_diversity_is_the_mean_distance_outside_the_mask() -> None:
    kept = torch.zeros(2, 2, 2)
    kept[:, 0] = 1.0
    zero = torch.zeros(2, 3, 2, 2)
    one = zero.clone()
    one[0, :, 1] = 1.0
    one[:, :, 0] = 9.0  # kept: does not count
    np.testing.assert_allclose(diversity([zero, one, zero], kept), [2 / 3, 0.0])


def test_a_ratio_of_means_leaves_out_pairs_with_a_gap() -> None:
    found = ratio(np.array([1.0, 3.0, np.nan]), np.array([2.0, 2.0, 100.0]), "tests")
    assert found.value == 1.0
    assert 0.5 <= found.low <= found.value <= found.high <= 1.5
    assert np.isnan(ratio(np.array([np.nan]), np.array([1.0]), "tests").value)
