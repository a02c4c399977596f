"""Rectified flow: the scheduler's own sigmas, the straight line between picture and noise, and Euler's steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from forebear.diffusion.building import save_model
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.sampling import generate
from forebear.errors import ModelError

Build = Callable[..., DiffusionModel]
SHIFTS = (1.0, 3.0, 0.5)


def flow_model(build: Build, **options: Any) -> DiffusionModel:
    """A UNet under a flow scheduler: the process does not depend on the denoiser's kind."""
    base = build()
    return DiffusionModel(base.denoiser, FlowMatchEulerDiscreteScheduler(**options), base.codec, base.conditioner)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("total", [1000, 50])
def test_sigmas_ascend_with_the_timestep_to_noise_alone(build: Build, shift: float, total: int) -> None:
    model = flow_model(build, shift=shift, num_train_timesteps=total)
    assert (model.prediction_type, model.total_timesteps) == ("flow", total)
    even = np.arange(1, total + 1) / total
    expected = shift * even / (1 + (shift - 1) * even)
    np.testing.assert_allclose(model.schedule(), expected, rtol=1e-5)
    assert (np.diff(model.schedule()) > 0).all()
    times = model.process.times(torch.arange(total))
    np.testing.assert_allclose(times, expected * total, rtol=1e-5)
    noise = torch.randn(1, *model.x0_shape)
    assert torch.equal(model.noised(torch.zeros_like(noise), torch.tensor([total - 1]), noise), noise)


@pytest.mark.parametrize("shift", SHIFTS)
def test_noising_is_the_schedulers_own(build: Build, shift: float) -> None:
    model = flow_model(build, shift=shift)
    x0, noise = torch.randn(2, 4, *model.x0_shape)
    timesteps = torch.tensor([0, 1, 500, 999])
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    own = scheduler.scale_noise(x0, scheduler.timesteps[999 - timesteps], noise)
    torch.testing.assert_close(model.noised(x0, timesteps, noise), own)
    assert torch.equal(model.target(x0, timesteps, noise), noise - x0)


def test_a_scheduler_that_has_sampled_keeps_its_training_sigmas(build: Build) -> None:
    used = FlowMatchEulerDiscreteScheduler(shift=3.0)
    used.set_timesteps(7)
    base = build()
    model = DiffusionModel(base.denoiser, used, base.codec, base.conditioner)
    assert np.array_equal(model.schedule(), flow_model(build, shift=3.0).schedule())
    generate(model, [""], [None], [0], steps=2)
    assert np.array_equal(model.schedule(), flow_model(build, shift=3.0).schedule())


def test_the_loss_is_the_formula(build: Build) -> None:
    model = flow_model(build, shift=3.0)
    x0, noise = torch.randn(2, 3, *model.x0_shape)
    timesteps = torch.tensor([0, 400, 999])
    condition = model.condition([""] * 3, [None] * 3)
    losses = model.per_sample_loss(x0, timesteps, noise, condition)
    absolute = model.per_sample_loss(x0, timesteps, noise, condition, "l1")
    for row, timestep in enumerate(timesteps.tolist()):
        even = (timestep + 1) / 1000
        sigma = 3 * even / (1 + 2 * even)
        line = (1 - sigma) * x0[row] + sigma * noise[row]
        output = model.denoiser(line[None], torch.tensor([1000 * sigma])).sample[0]
        error = output - (noise[row] - x0[row])
        torch.testing.assert_close(losses[row], error.square().mean(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(absolute[row], error.abs().mean(), rtol=1e-4, atol=1e-6)
    assert losses.unique().numel() == 3


@pytest.mark.parametrize("options", [{"shift": 1.0}, {"shift": 3.0}, {"shift": 3.0, "use_karras_sigmas": True}])
@pytest.mark.parametrize("steps", [1, 10])
def test_the_steps_are_those_of_the_euler_scheduler(build: Build, options: dict[str, Any], steps: int) -> None:
    model = flow_model(build, **options)
    scheduler = FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(steps)
    x = draw_noise(model.x0_shape, 3, ["generate"], [1000], [0])
    with torch.no_grad():
        for time in scheduler.timesteps:
            x = scheduler.step(model.denoiser(x, time).sample, time, x).prev_sample
    expected = x.clamp(-1, 1)
    assert expected.unique().numel() > 2
    torch.testing.assert_close(generate(model, [""], [None], [3], steps=steps), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("option", ["use_dynamic_shifting", "invert_sigmas"])
def test_levels_that_depend_on_more_than_the_timestep_are_refused(build: Build, option: str) -> None:
    with pytest.raises(ModelError, match=rf"the scheduler has {option}.*fixed shift"):
        flow_model(build, **{option: True})


def test_a_flow_model_saves_and_loads(build: Build, tmp_path: Any) -> None:
    model = flow_model(build, shift=2.0)
    save_model(model, tmp_path)
    loaded = DiffusionModel.load(tmp_path)
    assert loaded.prediction_type == "flow"
    assert np.array_equal(loaded.schedule(), model.schedule())


def test_the_schedule_of_a_ddpm_type_model_is_its_alphas(build: Build) -> None:
    model = build()
    assert model.schedule().dtype == np.dtype("<f4")
    assert np.array_equal(model.schedule(), model.scheduler.alphas_cumprod.numpy())
