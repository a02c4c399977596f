"""The sampler does what docs/cow.md says: counted, compared with plain steps, the same picture in any company."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.errors import ConfigError
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.sampler import CowResult, Stage, cow, planned_calls
from forebear_generators.cow.schedule import Schedule
from forebear_generators.cow.settings import CowConfig, PlacementConfig
from forebear_generators.generator import Generator
from forebear_generators.quantisation.quantise import quantise
from forebear_generators.quantisation.settings import CalibrationConfig, QuantisationConfig, RoundingConfig

Build = Callable[..., DiffusionModel]
Condition = Callable[..., CowCondition]
WHOLE = PlacementConfig(size="canvas")
# A random model that predicts x0 does not multiply small errors, as one that predicts noise does.
CALM = {"prediction_type": "sample"}
QUICK: dict[str, Any] = {"steps": 5, "cycles": 2, "back": 0.8}


def watched(generator: Generator, condition: CowCondition, config: CowConfig) -> tuple[CowResult, dict[Stage, Tensor]]:
    seen: dict[Stage, Tensor] = {}
    return cow(generator, [condition], config, watch=seen.__setitem__), seen


# -- Cost --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "calls", "evaluations"), [(10, 37, 114), (50, 185, 570)])
def test_the_papers_setting_costs_what_the_paper_says(
    build: Build, condition: Condition, steps: int, calls: int, evaluations: int
) -> None:
    model = build("text", scheduler=CALM)
    asked: list[int] = []
    model.denoiser.register_forward_hook(lambda _m, given, _o: asked.append(len(given[0])))
    heard: list[int] = []
    config = CowConfig(steps=steps)
    made = cow(Generator(model), [condition()], config, on_call=heard.append)
    assert (len(asked), sum(asked)) == (made.calls, made.evaluations) == (calls, evaluations)
    assert heard == list(range(1, calls + 1))
    assert planned_calls(Generator(model), 1, config) == calls
    assert planned_calls(Generator(model), 5, config, batch=2) == 3 * calls
    # The seed is a quarter of the canvas, and nothing is asked above step b.
    assert made.timesteps == tuple(1000 * k // steps - 1 for k in range(1, int(0.7 * steps) + 1))


def test_what_does_not_change_the_picture_is_not_computed(build: Build, condition: Condition) -> None:
    generator = Generator(build("text", scheduler=CALM))
    whole = cow(generator, [condition()], CowConfig(placement=WHOLE))
    assert (whole.calls, whole.evaluations) == (32, 7 * 2 + 20 * 4 + 5 * 2)
    assert torch.equal(
        whole.pixels, cow(generator, [condition()], CowConfig(placement=WHOLE, inversion="canvas")).pixels
    )
    assert cow(generator, [condition()], CowConfig(guidance=1.0)).evaluations == 37
    two_way = cow(generator, [condition()], CowConfig(suppress="", diverse="")).evaluations
    assert two_way == 37 * 2


def test_the_default_step_count_is_that_of_the_papers_script(build: Build, condition: Condition) -> None:
    assert Schedule.of(Generator(build()), CowConfig()).steps == 10
    schedule = Schedule.of(Generator(build()), CowConfig())
    assert (schedule.replace, schedule.back, schedule.preserved) == (5, 7, {4})
    # int(.29 N) is meant as written, not as floating numbers have it.
    assert Schedule.of(Generator(build()), CowConfig(steps=100, replace=0.29, preserve=0.0)).replace == 29


# -- Oracle ------------------------------------------------------------------------------------------------------------


class Plain:
    """METHODS 2.1 step by step, in plain torch and its own DDIM, for one picture."""

    def __init__(self, model: DiffusionModel, prompt: str, label: int | None, seed: int, config: CowConfig) -> None:
        self.model, self.config, self.seed = model, config, seed
        self.steps = 10
        self.alphas = [1.0] + [float(model.scheduler.alphas_cumprod[100 * k - 1]) for k in range(1, 11)]
        words = {"text": prompt, "negative": config.negative, "suppress": config.suppress, "diverse": config.diverse}
        kind = model.conditioner.kind
        with torch.no_grad():
            if kind == "text":
                self.words = {name: model.conditioner.encode([word], [None]) for name, word in words.items()}
                self.words["empty"] = model.conditioner.encode([""], [None])
            else:
                self.words = {"text": model.conditioner.encode([""], [label])}
        self.seen: dict[Stage, Tensor] = {}

    def unet(self, x: Tensor, k: int, words: str) -> Tensor:
        with torch.no_grad():
            output: Tensor = self.model.denoiser(
                x, timestep=torch.tensor([100 * k - 1]), **self.words[words].arguments()
            ).sample
        return output[:, : x.shape[1]]

    def guided(self, x: Tensor, k: int) -> Tensor:
        text = self.unet(x, k, "text")
        if "empty" not in self.words:
            return text
        empty = self.unet(x, k, "empty")
        return empty + self.config.guidance * (text - empty)

    def guided_in_cycles(self, x: Tensor, k: int, mask: Tensor) -> Tensor:
        if "empty" not in self.words:
            return self.guided(x, k)
        negative, text, suppress, diverse = (self.unet(x, k, w) for w in ("negative", "text", "suppress", "diverse"))
        away = mask * negative + (1 - mask) * (negative + suppress - diverse)
        return away + self.config.guidance * (text - away)

    def read(self, x: Tensor, output: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """x0 (not clipped) and noise."""
        signal, spread = self.alphas[k] ** 0.5, (1 - self.alphas[k]) ** 0.5
        if self.model.prediction_type == "epsilon":
            return (x - spread * output) / signal, output
        if self.model.prediction_type == "sample":
            return output, (x - signal * output) / spread
        return signal * x - spread * output, spread * x + signal * output

    def clip(self, x0: Tensor) -> Tensor:
        return x0.clamp(-1, 1) if self.model.scheduler.config.get("clip_sample", False) else x0

    def invert(self, x0: Tensor, last: int, phase: str) -> list[Tensor]:
        states = [x0]
        for k in range(last):
            x = states[-1]
            _, noise = self.read(x, self.guided(x, k + 1), k + 1)
            clean = self.clip((x - (1 - self.alphas[k]) ** 0.5 * noise) / self.alphas[k] ** 0.5)
            states.append(self.alphas[k + 1] ** 0.5 * clean + (1 - self.alphas[k + 1]) ** 0.5 * noise)
        self.seen |= {Stage(phase, k): x for k, x in enumerate(states)}
        return states

    def ddim(self, x: Tensor, output: Tensor, k: int, eta: float, owner: str, draw: int) -> Tensor:
        clean, noise = self.read(x, output, k)
        now, below = self.alphas[k], self.alphas[k - 1]
        sigma = eta * ((1 - below) / (1 - now)) ** 0.5 * (1 - now / below) ** 0.5
        x = below**0.5 * self.clip(clean) + (1 - below - sigma**2) ** 0.5 * noise
        return x + sigma * draw_noise(tuple(x.shape[1:]), self.seed, [owner], [100 * k - 1], [draw])

    def run(self, seed: Tensor, canvas: Tensor, mask: Tensor, top: int, left: int) -> Tensor:
        """Clean x0 from the encoded seed and canvas; the mask, [1, 1, h, w], is of the canvas."""
        r, b, p = 5, 7, 4
        side = seed.shape[-1]
        inner = (..., slice(top, top + side), slice(left, left + side))

        def overwrite(x: Tensor, k: int) -> Tensor:
            x = x.clone()
            part, kept = x[inner], (mask[inner] == 1).expand_as(x[inner])
            part[kept] = states[k][kept]
            return x

        states = self.invert(seed, b, "invert seed")
        x = self.invert(canvas, r, "invert canvas")[-1]
        for cycle in range(self.config.cycles):
            ratio = self.alphas[b] / self.alphas[r]
            fresh = draw_noise(tuple(x.shape[1:]), self.seed, ["cow disturb"], [100 * b - 1], [cycle])
            x = overwrite(ratio**0.5 * x + (1 - ratio) ** 0.5 * fresh, b)
            self.seen[Stage("disturb", b, cycle)] = x
            for k in range(b, r, -1):
                output = self.guided_in_cycles(x, k, mask)
                x = overwrite(self.ddim(x, output, k, self.config.eta, "cow construct", cycle), k - 1)
                self.seen[Stage("construct", k - 1, cycle)] = x
        for k in range(r, 0, -1):
            x = self.ddim(x, self.guided(x, k), k, self.config.final_eta, "cow finish", 0)
            if k - 1 == p:
                x = overwrite(x, p)
            self.seen[Stage("finish", k - 1)] = x
        return x


@pytest.mark.parametrize(
    ("conditioning", "prediction", "clip"),
    [("text", "sample", True), ("text", "epsilon", False), ("class", "v_prediction", False), ("none", "epsilon", True)],
)
def test_each_phase_is_that_of_a_plain_reference(
    build: Build, condition: Condition, conditioning: str, prediction: str, clip: bool
) -> None:
    model = build(conditioning, scheduler={"prediction_type": prediction, "clip_sample": clip})
    label = 2 if conditioning == "class" else None
    given = condition(3, side=4, prompt="a red heart" if conditioning == "text" else "", label=label)
    config = CowConfig(cycles=3)
    made, seen = watched(Generator(model), given, config)
    image = torch.from_numpy(np.asarray(given.image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
    keep = torch.from_numpy(np.asarray(given.mask, np.float32) / 255.0)
    seed = torch.where(keep == 1, image, torch.tensor(128 / 127.5 - 1))
    canvas = torch.full((1, 3, 8, 8), 128 / 127.5 - 1)
    canvas[..., 0:4, 2:6] = seed
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 0:4, 2:6] = keep
    plain = Plain(model, given.prompt, label, given.seed, config)
    x0 = plain.run(seed, canvas, mask, top=0, left=2)
    assert set(seen) == set(plain.seen)
    assert len(seen) == 8 + 6 + 3 * 3 + 5
    for stage, wanted in plain.seen.items():
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(seen[stage] / scale, wanted / scale, rtol=0, atol=2e-4, msg=str(stage))
    torch.testing.assert_close(made.pixels, x0.clamp(-1, 1), rtol=0, atol=1e-3)
    assert torch.equal(made.canvas, canvas)
    assert torch.equal(made.kept, mask[:, 0])


def test_a_latent_models_phases_are_those_of_a_plain_reference(stable_diffusion: Path, condition: Condition) -> None:
    generator = Generator.load(stable_diffusion)
    model, given, config = generator.model, condition(1, side=8, prompt="a cat"), CowConfig(cycles=2)
    made, seen = watched(generator, given, config)
    seed_state, canvas_state = seen[Stage("invert seed", 0)], seen[Stage("invert canvas", 0)]
    torch.testing.assert_close(canvas_state, model.codec.encode(made.canvas))
    assert seed_state.shape == (1, 4, 4, 4)
    mask = made.kept[:, None, ::2, ::2]
    plain = Plain(model, given.prompt, None, given.seed, config)
    x0 = plain.run(seed_state, canvas_state, mask, top=0, left=2)
    for stage, wanted in plain.seen.items():
        scale = max(1.0, float(wanted.abs().max()))
        torch.testing.assert_close(seen[stage] / scale, wanted / scale, rtol=0, atol=2e-4, msg=str(stage))
    wanted = model.codec.decode(x0).clamp(-1, 1)
    torch.testing.assert_close(made.pixels, wanted, rtol=0, atol=1e-3)


def test_inversion_is_that_of_diffusers(build: Build, condition: Condition) -> None:
    import diffusers

    model = build("none", scheduler={"prediction_type": "epsilon", "clip_sample": False})
    _, seen = watched(Generator(model), condition(side=8, prompt=""), CowConfig(cycles=0, placement=WHOLE))
    theirs = diffusers.DDIMInverseScheduler.from_config(
        model.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
    )
    theirs.set_timesteps(10)
    x = seen[Stage("invert canvas", 0)]
    with torch.no_grad():
        for k, timestep in enumerate(theirs.timesteps[:7]):
            x = theirs.step(model.denoiser(x, timestep).sample, timestep, x).prev_sample
            torch.testing.assert_close(seen[Stage("invert canvas", k + 1)], x, rtol=1e-4, atol=1e-4)


# -- Company -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm(build: Build) -> Generator:
    return Generator(build("text", scheduler=CALM))


@pytest.fixture(scope="module")
def some(condition: Condition) -> list[CowCondition]:
    prompts = ("a red heart", "the cat's face", "", "flag of France")
    return [condition(row, prompt=prompts[row]) for row in range(4)]


@pytest.fixture(scope="module")
def alone(calm: Generator, some: list[CowCondition]) -> list[Tensor]:
    return [cow(calm, [one], CowConfig(**QUICK)).pixels[0] for one in some]


@settings(max_examples=4)
@given(rows=st.lists(st.integers(0, 3), min_size=2, max_size=4))
def test_a_picture_is_the_same_in_any_company(
    calm: Generator, some: list[CowCondition], alone: list[Tensor], rows: list[int]
) -> None:
    """Bit for bit when pictures are made one at a time, within rounding when they share calls."""
    config = CowConfig(**QUICK)
    together = cow(calm, [some[row] for row in rows], config)
    wanted = torch.stack([alone[row] for row in rows])
    assert torch.equal(together.pixels, wanted)
    shared = cow(calm, [some[row] for row in rows], config, batch=3)
    torch.testing.assert_close(shared.pixels, wanted, rtol=0, atol=1e-3)
    assert shared.evaluations == together.evaluations
    assert shared.calls == together.calls // len(rows) * -(-len(rows) // 3)


def test_seeds_and_prompts_decide(calm: Generator, condition: Condition) -> None:
    config = CowConfig(**QUICK)
    same = condition(0)
    first, again, other_seed, other_words = cow(
        calm, [same, same, condition(0, seed=9), condition(0, prompt="flag of France")], config
    ).pixels
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    assert not torch.equal(first, other_words)


# -- Masks -------------------------------------------------------------------------------------------------------------


def test_soft_masks_blend_and_hard_ones_overwrite(calm: Generator, condition: Condition) -> None:
    weights = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    config = CowConfig(placement=WHOLE, edge="soft", **QUICK)
    _, seen = watched(calm, condition(mask=weights), config)
    _, free = watched(calm, condition(mask=np.full((8, 8), 1e-9, np.float32)), config)
    soft = torch.from_numpy(weights)
    start = Stage("disturb", 4, 0)
    state = seen[Stage("invert canvas", 4)]
    # What was there before: the disturbed canvas, which the seed has not touched.
    plan = Schedule.of(calm, config)
    disturbed = plan.disturb(
        seen[Stage("invert canvas", 2)], draw_noise((3, 8, 8), 0, ["cow disturb"], [plan.told(4)], [0])
    )
    torch.testing.assert_close(seen[start], soft * state + (1 - soft) * disturbed, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        free[start],
        plan.disturb(free[Stage("invert canvas", 2)], draw_noise((3, 8, 8), 0, ["cow disturb"], [plan.told(4)], [0])),
        rtol=0,
        atol=1e-5,
    )
    binary = (weights > 0.5).astype(np.float32)
    hard = cow(calm, [condition(mask=weights)], CowConfig(placement=WHOLE, **QUICK)).pixels
    for edge in ("hard", "soft"):
        asked = CowConfig(placement=WHOLE, edge=edge, **QUICK)
        assert torch.equal(cow(calm, [condition(mask=binary)], asked).pixels, hard)


def test_soft_masks_are_blended_once_at_the_end_too(calm: Generator, condition: Condition) -> None:
    weights = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    config = CowConfig(placement=WHOLE, edge="soft", strength=0.0, **QUICK)
    made, seen = watched(calm, condition(mask=weights), config)
    assert torch.equal(made.pixels, seen[Stage("finish", 0)].clamp(-1, 1))
    assert torch.equal(made.pixels[..., -1, -1], made.canvas[..., -1, -1])


def test_the_kept_area_is_the_condition_at_every_overwriting(calm: Generator, condition: Condition) -> None:
    made, seen = watched(calm, condition(), CowConfig(cycles=2))
    inner = (slice(None), slice(None), slice(0, 4), slice(2, 6))
    kept = made.kept[:, None][inner] == 1
    for stage, x in seen.items():
        if stage.phase in ("disturb", "construct") or stage == Stage("finish", 4):
            state = seen[Stage("invert seed", stage.step)]
            assert torch.equal(torch.where(kept, x[inner], state), state), stage


# -- Strength and early stop -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("edge", ["hard", "soft"])
def test_strength_goes_from_every_pixel_to_the_text(calm: Generator, condition: Condition, edge: Any) -> None:
    def preserved(**options: Any) -> tuple[CowResult, float]:
        made = cow(calm, [condition(side=4)], CowConfig(cycles=2, edge=edge, **options))
        return made, float(((made.pixels - made.canvas).abs() * made.kept[:, None]).max())

    none, error = preserved(strength=0.0)
    assert error == 0.0
    assert not torch.equal(none.pixels, none.canvas)
    paper, _ = preserved()
    assert torch.equal(preserved(strength=0.8)[0].pixels, paper.pixels)  # at N = 10
    text, error = preserved(strength=1.0)
    assert error > 0
    assert not torch.equal(text.pixels, paper.pixels)


def test_strength_zero_keeps_pixels_behind_an_autoencoder_too(stable_diffusion: Path, condition: Condition) -> None:
    made = cow(Generator.load(stable_diffusion), [condition(prompt="a cat")], CowConfig(strength=0.0, **QUICK))
    kept = made.kept[:, None].expand_as(made.pixels) == 1
    assert torch.equal(made.pixels[kept], made.canvas[kept])


def test_cycles_stop_when_the_boundary_is_still(calm: Generator, condition: Condition) -> None:
    some = [condition(key) for key in range(3)]
    full = cow(calm, some, CowConfig(cycles=6))
    assert full.cycles == (6, 6, 6)
    assert all(len(row) == 5 and min(row) > 0 for row in full.changes)
    # Between the least changes of the three, so that not all stop at once.
    tolerance = sorted(min(row) for row in full.changes)[1] * 1.001
    alone = cow(calm, some, CowConfig(cycles=6, tolerance=tolerance))
    expected = tuple(next((c + 2 for c, x in enumerate(row) if x < tolerance), 6) for row in full.changes)
    assert alone.cycles == expected
    assert min(expected) < max(expected)
    assert alone.calls == 3 * 17 + 2 * sum(expected)
    together = cow(calm, some, CowConfig(cycles=6, tolerance=tolerance), batch=3)
    assert together.cycles == expected
    torch.testing.assert_close(together.pixels, alone.pixels, rtol=0, atol=1e-3)


# -- Models ------------------------------------------------------------------------------------------------------------


def test_guidance_is_what_the_model_has(build: Build, dit: Path, condition: Condition) -> None:
    """None where there is nothing to lead away from; the class of guidance where there is one."""
    nothing = cow(Generator(build("none")), [condition(prompt="")], CowConfig(**QUICK))
    assert nothing.evaluations == nothing.calls
    by_class = cow(Generator(build("class")), [condition(prompt="", label=1)], CowConfig(**QUICK))
    assert by_class.evaluations == by_class.calls
    guided = cow(Generator.load(dit), [condition(prompt="", label=1)], CowConfig(**QUICK))
    assert guided.evaluations == 2 * guided.calls
    assert guided.pixels.isfinite().all()


def test_space_to_depth(build: Build, condition: Condition) -> None:
    model = build("text", space_to_depth=2, scheduler=CALM)
    made = cow(Generator(model), [condition(side=4)], CowConfig(strength=0.0))
    assert torch.equal(made.pixels[..., 0:4, 2:6][..., :2, :], made.canvas[..., 0:4, 2:6][..., :2, :])


def test_flow_models_are_refused(stable_diffusion_3: Path, condition: Condition) -> None:
    with pytest.raises(ConfigError, match="not for flow models"):
        cow(Generator.load(stable_diffusion_3), [condition()])


def test_quantised_generators(saved: Callable[..., Path], condition: Condition, tmp_path: Path) -> None:
    source = saved("text", scheduler=CALM)
    config = QuantisationConfig(
        variant="w8a8",
        steps=6,
        calibration=CalibrationConfig(pictures=2, every=2, batch=2),
        rounding=RoundingConfig(method="nearest"),
    )
    quantise(source, config, tmp_path)
    small = Generator.load(tmp_path, backend="simulated")
    asked = CowConfig(cycles=2)
    made = cow(small, [condition()], asked)
    assert made.calls == 4 + 3 + 2 * 1 + 3
    assert made.timesteps == (166, 332, 499, 666)
    mild = {"cycles": 2, "guidance": 2.0}
    made = cow(small, [condition()], CowConfig(**mild))
    full = cow(Generator.load(source), [condition()], CowConfig(steps=6, **mild))
    distance = (made.pixels - full.pixels).norm() / full.pixels.norm()
    assert 0 < float(distance) < 0.2
    for steps in (10, 12):
        with pytest.raises(ConfigError, match="made for 6 steps of sampler own"):
            cow(small, [condition()], CowConfig(steps=steps))
    compiled = Generator(small.model, small.variant, facts={"backend": "openvino"})
    with pytest.raises(ConfigError, match="set inversion to canvas, or load the generator with backend"):
        cow(compiled, [condition()])
    assert cow(compiled, [condition()], CowConfig(cycles=0, inversion="canvas")).calls == 4 + 3
    # Half as many steps lie on the same grid.
    assert cow(small, [condition()], CowConfig(cycles=1, steps=3)).timesteps == (332, 666)
