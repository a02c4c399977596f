"""Other ways to make a picture that keeps a part: pasting, SDEdit and RePaint, over the same model and steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor

from forebear.diffusion.sampling import decoded
from forebear.errors import ConfigError
from forebear_generators.cow.condition import CowCondition, check_words
from forebear_generators.cow.guidance import Guide, Tally
from forebear_generators.cow.placement import Placed, place
from forebear_generators.cow.sampler import CowResult
from forebear_generators.cow.schedule import Schedule, keyed_noise
from forebear_generators.cow.settings import CowConfig
from forebear_generators.generator import Generator


def paste(generator: Generator, conditions: Sequence[CowCondition], config: CowConfig) -> CowResult:
    """The conditions on their grey canvases as they are."""
    placed = place(generator.model, conditions, config)
    return _result(placed, placed.canvas.clone(), Tally())


@torch.no_grad()
def sdedit(generator: Generator, conditions: Sequence[CowCondition], config: CowConfig, strength: float) -> CowResult:
    """The canvas noised to step round(strength N) and led back with eta 1 (Meng et al., arXiv 2108.01073).

    Strength 0 is the pasted canvas; 1 begins with noise and follows the words alone. Raises ConfigError.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"the strength of SDEdit is {strength}; give 0 to 1")
    walk = _Walk.of(generator, conditions, config, "sdedit")
    first = round(strength * walk.schedule.steps)
    if not first:
        return _result(walk.placed, walk.placed.canvas.clone(), walk.tally)
    x = walk.noised(generator.model.codec.encode(walk.placed.canvas), first, 0)
    for step in range(first, 0, -1):
        x = walk.down(x, step, 0)
    return _result(walk.placed, decoded(generator.model, x), walk.tally)


@torch.no_grad()
def repaint(
    generator: Generator, conditions: Sequence[CowCondition], config: CowConfig, jump: int, resamplings: int
) -> CowResult:
    """From noise, the kept area replaced by the noised canvas at every step (Lugmayr et al., arXiv 2201.09865).

    Every `jump` steps the way goes back by as many, so that each stretch is walked `resamplings` times. At the end the
    kept pixels are the condition's own.
    """
    walk = _Walk.of(generator, conditions, config, "repaint")
    schedule, placed = walk.schedule, walk.placed
    canvas = generator.model.codec.encode(placed.canvas)
    x = keyed_noise(canvas, walk.seeds, "repaint start", schedule.told(schedule.steps), 0)
    way = repaint_way(schedule.steps, jump, resamplings)
    for draw, (step, following) in enumerate(pairwise(way)):
        if following > step:
            x = walk.up(x, step, draw)
        else:
            # The kept area is that of the step below: equation 8 of the paper.
            known = walk.noised(canvas, following, draw)
            x = placed.mask * known + (1.0 - placed.mask) * walk.down(x, step, draw)
    pixels = decoded(generator.model, x)
    pixels = torch.where(placed.kept[:, None] == 1.0, placed.canvas, pixels)  # an autoencoder gives back others
    return _result(placed, pixels, walk.tally)


def repaint_way(steps: int, jump: int, resamplings: int) -> list[int]:
    """The steps that RePaint passes, from N to 0, going back at each multiple of `jump` but the clean picture.

    Raises ConfigError for a jump that is not from 1 to N, or fewer than one resampling.
    """
    if not 1 <= jump <= steps or resamplings < 1:
        raise ConfigError(
            f"RePaint jumps {jump} of {steps} steps, {resamplings} times; give 1 or more, at most {steps}"
        )
    left = dict.fromkeys(range(jump, steps - jump + 1, jump), resamplings - 1)
    way = [steps]
    while way[-1]:
        way.append(way[-1] - 1)
        if left.get(way[-1]):
            left[way[-1]] -= 1
            way += range(way[-1] + 1, way[-1] + jump + 1)
    return way


@dataclass(frozen=True)
class _Walk:
    """B pictures on their way, one step at a time."""

    schedule: Schedule
    guide: Guide
    placed: Placed
    seeds: tuple[int, ...]
    phase: str

    @staticmethod
    def of(generator: Generator, conditions: Sequence[CowCondition], config: CowConfig, phase: str) -> "_Walk":
        for condition in conditions:
            check_words(generator.model, condition)
        guide = Guide.of(generator.model, conditions, config, Tally())
        placed = place(generator.model, conditions, config)
        seeds = tuple(condition.seed for condition in conditions)
        return _Walk(Schedule.of(generator, config), guide, placed, seeds, phase)

    @property
    def tally(self) -> Tally:
        return self.guide.tally

    def noised(self, clean: Tensor, step: int, draw: int) -> Tensor:
        """The clean picture at a step, float32[B, c, h, w]; at 0 itself."""
        if step == 0:
            return clean
        signal, spread = self.schedule.process.level(self.schedule.told(step))
        return signal * clean + spread * self._fresh(clean, "noised", step, draw)

    def up(self, x: Tensor, step: int, draw: int) -> Tensor:
        """x at the next noisier step by the exact forward chain."""
        signal, _ = self.schedule.process.level(self.schedule.timesteps[step])
        signal_above, _ = self.schedule.process.level(self.schedule.told(step + 1))
        kept = signal_above / signal
        return kept * x + sqrt(1.0 - kept**2) * self._fresh(x, "up", step + 1, draw)

    def down(self, x: Tensor, step: int, draw: int) -> Tensor:
        """x at the step below, by DDIM with eta 1, which is DDPM's own step."""
        plan = self.schedule
        x0, noise = plan.process.split(x, self.guide.plain(x, plan.told(step)), plan.told(step))
        deviation = plan.deviation(step, 1.0)
        fresh = self._fresh(x, "down", step, draw) if deviation else None
        return plan.down(x0, noise, step, deviation, fresh)

    def _fresh(self, like: Tensor, move: str, step: int, draw: int) -> Tensor:
        return keyed_noise(like, self.seeds, f"{self.phase} {move}", self.schedule.told(step), draw)


def _result(placed: Placed, pixels: Tensor, tally: Tally) -> CowResult:
    told = tuple(sorted(tally.timesteps))
    none: tuple[tuple[float, ...], ...] = ((),) * len(pixels)
    return CowResult(pixels, placed.canvas, placed.kept, tally.calls, tally.evaluations, told, none, (0,) * len(pixels))
