"""Generated pictures are functions of model, words and seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise, paper_timesteps, stratified_timesteps, trailing_timesteps
from forebear.diffusion.sampling import generate
from forebear.errors import ConfigError

Build = Callable[..., DiffusionModel]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip", [True, False])
def test_the_steps_are_those_of_the_ddim_scheduler(build: Build, prediction: str, clip: bool) -> None:
    from diffusers import DDIMScheduler

    model = build(scheduler={"prediction_type": prediction, "clip_sample": clip})
    scheduler = DDIMScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    x = draw_noise(model.x0_shape, 3, ["generate"], [1000], [0])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(model.denoiser(x, timestep).sample, timestep, x).prev_sample
    torch.testing.assert_close(generate(model, [""], [None], [3], steps=10), x.clamp(-1, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("total", [1_000, 100, 7])
def test_any_number_of_steps_gives_as_many_descending_timesteps(total: int) -> None:
    for steps in range(1, total + 1):
        timesteps = trailing_timesteps(steps, total)
        assert len(timesteps) == steps
        assert timesteps[0] == total - 1
        assert timesteps[-1] >= 0
        assert (np.diff(timesteps) < 0).all()


@pytest.mark.parametrize("conditioning", ["class", "text"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_picture_does_not_depend_on_its_batch(build: Build, conditioning: str, guidance: float) -> None:
    """Within 1e-3 of the range of 2: sums over batches of other sizes may round differently, and the steps add up."""
    model = build(conditioning)
    captions, labels, seeds = ["red heart", "a cat", "flag of France"], [0, 1, 2], [11, 5, 11]
    together = generate(model, captions, labels, seeds, steps=5, guidance=guidance)
    assert together.shape == (3, 3, 8, 8)
    for row in range(3):
        one = slice(row, row + 1)
        alone = generate(model, captions[one], labels[one], seeds[one], steps=5, guidance=guidance)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-3)
        again = generate(model, captions[one], labels[one], seeds[one], steps=5, guidance=guidance)
        assert torch.equal(alone, again)
    backwards = generate(model, captions[::-1], labels[::-1], seeds[::-1], steps=5, guidance=guidance)
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=1e-3)
    assert (together[0] - together[2]).abs().max() > 1e-2  # the same seed under other words


def test_other_seeds_give_other_pictures(build: Build) -> None:
    pictures = generate(build(), [""] * 2, [None] * 2, [0, 1], steps=3)
    assert (pictures[0] - pictures[1]).abs().max() > 1e-2


def test_guidance_one_asks_the_model_once_and_equals_the_plain_path(build: Build) -> None:
    model = build("text")
    sizes: list[int] = []
    hook = model.denoiser.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    plain = generate(model, ["red heart"], [None], [0], steps=3, guidance=1.0)
    assert sizes == [1, 1, 1]
    sizes.clear()
    nearly = generate(model, ["red heart"], [None], [0], steps=3, guidance=1.0 + 1e-7)
    assert sizes == [2, 2, 2]
    hook.remove()
    torch.testing.assert_close(nearly, plain, rtol=0, atol=1e-3)
    strong = generate(model, ["red heart"], [None], [0], steps=3, guidance=7.0)
    assert (strong - plain).abs().max() > 1e-3


def test_steps_are_reported_and_need_not_divide_the_timesteps(build: Build) -> None:
    seen: list[int] = []
    pictures = generate(build(), [""], [None], [0], steps=7, on_step=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert pictures.isfinite().all()
    assert pictures.abs().max() <= 1.0


def test_latent_and_learned_variance_models_generate(stable_diffusion: Path, build: Build) -> None:
    latent = DiffusionModel.load(stable_diffusion)
    assert generate(latent, ["a cat", ""], [None, None], [0, 1], steps=3).shape == (2, 3, 16, 16)
    variance = build(unet={"out_channels": 6})
    assert generate(variance, [""], [None], [0], steps=3).shape == (1, 3, 8, 8)
    folded = build("text", space_to_depth=2)
    assert generate(folded, ["a cat"], [None], [0], steps=3).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_steps_are_refused(build: Build, steps: int) -> None:
    with pytest.raises(ConfigError, match="give 1 to 1000"):
        generate(build(), [""], [None], [0], steps=steps)


@pytest.mark.parametrize(("captions", "seeds"), [(["a"], [0, 1]), ([], []), (["a", "b"], [0])])
def test_lists_of_unequal_length_are_refused(build: Build, captions: list[str], seeds: list[int]) -> None:
    with pytest.raises(ConfigError, match="one of each per picture"):
        generate(build(), captions, [None] * len(captions), seeds)


def test_stratified_timesteps_are_the_midpoints_of_equal_strata() -> None:
    assert stratified_timesteps(4, 1000).tolist() == [125, 375, 625, 875]
    assert stratified_timesteps(2, 1000, low=500, high=600).tolist() == [525, 575]
    assert stratified_timesteps(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_the_papers_timesteps() -> None:
    assert paper_timesteps(3, 1000).tolist() == [1, 500, 999]
