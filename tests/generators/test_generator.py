"""Generators: pictures are functions of the request, by every sampler; trajectories can be followed again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.sampling import generate
from forebear.errors import ConfigError
from forebear_generators.generator import Generator, Request, Sight
from forebear_generators.samplers import DIFFUSERS, MEMORYLESS, SAMPLERS, moves, times

Build = Callable[..., DiffusionModel]
CAPTIONS = ("red heart", "a cat", "flag of France")


def request(sampler: str = "own", steps: int = 5, guidance: float = 3.0, count: int = 3) -> Request:
    return Request(CAPTIONS[:count], (0, 1, 2)[:count], (11, 5, 11)[:count], sampler, steps, guidance)


@pytest.mark.parametrize(
    ("sampler", "conditioning"), [("own", "none"), ("own", "class"), *((s, "text") for s in SAMPLERS)]
)
def test_a_picture_does_not_depend_on_its_batch(build: Build, sampler: str, conditioning: str) -> None:
    """Within 1e-3 of the range of 2; exactly where the batches are of one size."""
    generator = Generator(build(conditioning))
    together = generator.run(request(sampler)).pixels
    alone = generator.run(request(sampler), batch=1).pixels
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)
    single = torch.cat([generator.run(request(sampler).rows(row, row + 1)).pixels for row in range(3)])
    assert torch.equal(alone, single)
    assert together.isfinite().all()
    assert together.abs().max() <= 1.0


def test_the_own_sampler_is_the_librarys(build: Build) -> None:
    model = build("text")
    asked = request()
    made = Generator(model).run(asked).pixels
    assert torch.equal(made, generate(model, CAPTIONS, (0, 1, 2), (11, 5, 11), steps=5, guidance=3.0))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_diffusers_ddim_is_the_own_one(build: Build, prediction: str) -> None:
    generator = Generator(build("none", scheduler={"prediction_type": prediction, "clip_sample": False}))
    own, theirs = (generator.run(request(sampler)).pixels for sampler in ("own", "ddim"))
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampler", list(DIFFUSERS))
def test_the_steps_are_those_of_diffusers_own_loop(build: Build, sampler: str) -> None:
    import diffusers

    model = build("none", scheduler={"prediction_type": "sample"})
    name, settings = DIFFUSERS[sampler]
    scheduler = getattr(diffusers, name).from_config(model.scheduler.config, timestep_spacing="trailing", **settings)
    scheduler.set_timesteps(7)
    x = draw_noise(model.x0_shape, 11, ["generate"], [1000], [0])
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(model.denoiser(x, timestep).sample, timestep, x).prev_sample
    made = Generator(model).run(request(sampler, steps=7, guidance=1.0, count=1)).pixels
    torch.testing.assert_close(made, x.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_trajectory_is_kept_and_followed_again(build: Build, sampler: str) -> None:
    generator = Generator(build("text"))
    made = generator.run(request(sampler), keep_trajectory=True)
    way = made.trajectory
    assert way is not None
    assert way.latents.shape == (6, 3, *generator.model.x0_shape)
    assert len(way.times) == 5
    assert torch.equal(generator.replay(way).pixels, made.pixels)
    again = generator.run(request(sampler), batch=2, keep_trajectory=True)
    assert again.trajectory is not None
    torch.testing.assert_close(again.trajectory.latents, way.latents, rtol=0, atol=1e-2)
    if sampler in MEMORYLESS:
        assert torch.equal(generator.replay(way, from_step=3).pixels, made.pixels)
    else:
        with pytest.raises(ConfigError, match="needs the steps before"):
            generator.replay(way, from_step=3)


def test_another_models_way_from_the_same_point_is_its_own(build: Build) -> None:
    way = Generator(build("text")).run(request(), keep_trajectory=True).trajectory
    assert way is not None
    other = Generator(build("text", seed=1)).replay(way, from_step=2, keep_trajectory=True).trajectory
    assert other is not None
    assert torch.equal(other.latents[:3], way.latents[:3])
    assert not torch.equal(other.latents[3], way.latents[3])


def test_steps_are_counted_over_all_batches(build: Build) -> None:
    seen: list[Sight] = []
    Generator(build()).run(request(steps=2, guidance=1.0), batch=2, on_step=seen.append)
    assert [one.made for one in seen] == [1, 2, 3, 4]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_the_last_step_sees_is_the_picture(build: Build, sampler: str) -> None:
    seen: list[Tensor] = []
    made = Generator(build("text")).run(request(sampler=sampler), on_step=lambda one: seen.append(one.pixels()))
    assert torch.allclose(seen[-1], made.pixels, atol=1e-5)
    assert (seen[-2] - made.pixels).square().mean() <= (seen[0] - made.pixels).square().mean()


def test_flow_models_show_what_they_see_too(stable_diffusion_3: Path) -> None:
    seen: list[Tensor] = []
    asked = request(sampler="own")
    made = Generator.load(stable_diffusion_3).run(asked, on_step=lambda one: seen.append(one.pixels()))
    assert torch.allclose(seen[-1], made.pixels, atol=1e-5)


def test_latent_models_and_transformers_generate(stable_diffusion: Path, dit: Path, stable_diffusion_3: Path) -> None:
    for folder, sampler in ((stable_diffusion, "dpm-solver++"), (dit, "dpm-solver++"), (stable_diffusion_3, "own")):
        pictures = Generator.load(folder).pictures(["a cat"], [0], labels=[1], sampler=sampler, steps=3, guidance=2.0)
        assert pictures[0].size == (16, 16)
        assert pictures[0].mode == "RGB"


def test_flow_models_are_not_for_other_samplers(stable_diffusion_3: Path) -> None:
    model = DiffusionModel.load(stable_diffusion_3)
    assert len(times(moves(model, "own", 3))) == 3
    with pytest.raises(ConfigError, match="not for flow models"):
        moves(model, "ddim", 3)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"sampler": "magic"}, "the samplers are own, ddim"),
        ({"steps": 0}, "give 1 to 1000"),
        ({"batch": 0}, "1 or more"),
    ],
)
def test_impossible_settings_are_refused(build: Build, change: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Generator(build()).pictures(["a"], [0], **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one of each per picture"):
        Generator(build()).pictures(["a", "b"], [0])
    way = Generator(build()).run(request(count=1), keep_trajectory=True).trajectory
    assert way is not None
    with pytest.raises(ConfigError, match="0 to 4"):
        Generator(build()).replay(way, from_step=5)
