"""SDEdit and RePaint follow their papers step by step, keep what they must, and cost what they say."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.errors import ConfigError
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.evaluation.baselines import paste, repaint, repaint_way, sdedit
from forebear_generators.cow.sampler import CowResult
from forebear_generators.cow.schedule import keyed_noise
from forebear_generators.cow.settings import CowConfig, PlacementConfig
from forebear_generators.generator import Generator

Build = Callable[..., DiffusionModel]
Condition = Callable[..., CowCondition]
CONFIG = CowConfig(steps=5, guidance=2.0, placement=PlacementConfig(size="canvas"))


@pytest.fixture(scope="module")
def generator(build: Build) -> Generator:
    return Generator(build("text", scheduler={"prediction_type": "sample"}))


def test_sdedit_of_strength_0_is_the_pasted_canvas(generator: Generator, condition: Condition) -> None:
    pasted, same = (paste(generator, [condition()], CONFIG), sdedit(generator, [condition()], CONFIG, 0.0))
    assert torch.equal(same.pixels, pasted.pixels)
    assert torch.equal(pasted.pixels, pasted.canvas)
    assert (same.calls, pasted.calls) == (0, 0)


def test_sdedit_is_the_stochastic_way_down_from_the_noised_canvas(generator: Generator, condition: Condition) -> None:
    model, given_condition = generator.model, condition()
    made = sdedit(generator, [given_condition], CONFIG, 0.6)
    alphas = [1.0] + [float(model.scheduler.alphas_cumprod[200 * k - 1]) for k in range(1, 6)]
    seeds = (given_condition.seed,)
    noise = keyed_noise(made.canvas, seeds, "sdedit noised", 599, 0)
    x = alphas[3] ** 0.5 * made.canvas + (1 - alphas[3]) ** 0.5 * noise
    with torch.no_grad():
        words = [model.conditioner.encode([word], [None]) for word in ("", given_condition.prompt)]
        for k in (3, 2, 1):
            empty, told = (
                model.denoiser(x, timestep=torch.tensor([200 * k - 1]), **each.arguments()).sample for each in words
            )
            x0 = (empty + 2.0 * (told - empty)).clamp(-1, 1)
            unclipped = empty + 2.0 * (told - empty)
            direction = (x - alphas[k] ** 0.5 * unclipped) / (1 - alphas[k]) ** 0.5
            beta = 1 - alphas[k] / alphas[k - 1]
            variance = (1 - alphas[k - 1]) / (1 - alphas[k]) * beta  # DDPM's posterior
            fresh = keyed_noise(x, seeds, "sdedit down", 200 * k - 1, 0) if variance else 0.0
            x = alphas[k - 1] ** 0.5 * x0 + (1 - alphas[k - 1] - variance) ** 0.5 * direction + variance**0.5 * fresh
    assert (made.calls, made.evaluations) == (3, 6)
    torch.testing.assert_close(made.pixels, x.clamp(-1, 1), atol=1e-5, rtol=1e-5)


def test_a_walk_of_repaint() -> None:
    assert repaint_way(4, 2, 2) == [4, 3, 2, 3, 4, 3, 2, 1, 0]
    assert repaint_way(3, 1, 1) == [3, 2, 1, 0]
    assert sum(after < before for before, after in pairwise(repaint_way(10, 1, 10))) == 10 + 9 * 9


@given(steps=st.integers(1, 12), jump=st.integers(1, 12), resamplings=st.integers(1, 4))
def test_repaint_walks_each_stretch_as_often_as_asked(steps: int, jump: int, resamplings: int) -> None:
    if jump > steps:
        with pytest.raises(ConfigError, match="RePaint jumps"):
            repaint_way(steps, jump, resamplings)
        return
    way = repaint_way(steps, jump, resamplings)
    assert (way[0], way[-1]) == (steps, 0)
    assert all(abs(before - after) == 1 for before, after in pairwise(way))
    downward = [before for before, after in pairwise(way) if after < before]
    reached = range(jump, steps - jump + 1, jump)
    for step in range(1, steps + 1):
        walked_again = any(stop < step <= stop + jump for stop in reached)
        assert downward.count(step) == (resamplings if walked_again else 1), step


def test_repaint_keeps_the_known_region(build: Build, condition: Condition) -> None:
    """At every step the kept area is the noised canvas, whatever the model says; at the end it is the canvas."""
    seen: list[list[Tensor]] = []
    made: list[CowResult] = []
    for seed in (0, 1):
        generator = Generator(build("text", seed=seed, scheduler={"prediction_type": "sample"}))
        inputs: list[Tensor] = []
        generator.model.denoiser.register_forward_hook(lambda _m, given, _o, kept=inputs: kept.append(given[0][:1]))
        made.append(repaint(generator, [condition()], CONFIG, 1, 2))
        seen.append(inputs)
    assert len(seen[0]) == made[0].calls == 5 + 4
    kept = made[0].kept[0] == 1
    assert 0 < int(kept.sum()) < kept.numel()
    for first, second in zip(*seen, strict=True):
        assert torch.equal(first[0][:, kept], second[0][:, kept])
    assert not torch.equal(seen[0][-1], seen[1][-1])
    for one in made:
        assert torch.equal(one.pixels[0][:, kept], one.canvas[0][:, kept])
    assert not torch.equal(made[0].pixels, made[1].pixels)


def test_pictures_do_not_depend_on_their_batch(generator: Generator, condition: Condition) -> None:
    several = [condition(key) for key in range(3)]
    for way, more in ((sdedit, {"strength": 0.8}), (repaint, {"jump": 1, "resamplings": 2})):
        together = way(generator, several, CONFIG, **more).pixels  # type: ignore[operator]
        alone = way(generator, several[1:2], CONFIG, **more).pixels  # type: ignore[operator]
        torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_impossible_settings_are_refused(generator: Generator, condition: Condition, build: Build) -> None:
    with pytest.raises(ConfigError, match="strength of SDEdit is 2"):
        sdedit(generator, [condition()], CONFIG, 2.0)
    with pytest.raises(ConfigError, match="RePaint jumps 6 of 5"):
        repaint(generator, [condition()], CONFIG, 6, 2)
    with pytest.raises(ConfigError, match="no text encoder"):
        sdedit(Generator(build()), [condition()], CONFIG, 0.5)
