"""Cyclic One-Way Diffusion: invert the condition, let it flow into its surroundings in cycles, and finish."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from forebear.diffusion.sampling import decoded
from forebear.errors import ConfigError
from forebear.images import to_picture
from forebear_generators.cow.condition import CowCondition, check_words
from forebear_generators.cow.guidance import Guide, Tally
from forebear_generators.cow.placement import Placed, Placement, place
from forebear_generators.cow.schedule import Schedule, keyed_noise
from forebear_generators.cow.settings import CowConfig
from forebear_generators.generator import Generator


@dataclass(frozen=True)
class Stage:
    """Where the sampler is."""

    phase: str
    """`invert seed`, `invert canvas`, `disturb`, `construct` or `finish`."""
    step: int
    """Of 0 .. N; 0 is clean."""
    cycle: int | None = None


Watch = Callable[[Stage, Tensor], None]
"""Is shown x float32[B, c, h, w] at every stage, after the kept area has been overwritten there."""


@dataclass(frozen=True)
class CowResult:
    """B pictures, and what they took."""

    pixels: Tensor
    """float32[B, C, H, W] in [-1, 1]."""
    canvas: Tensor
    """float32[B, C, H, W]: the conditions on their grey canvases."""
    kept: Tensor
    """float32[B, H, W] in [0, 1]: where the conditions were to be kept."""
    calls: int
    """Calls of the denoiser, one after another."""
    evaluations: int
    """Rows of all these calls."""
    timesteps: tuple[int, ...]
    """All that the denoiser was told, rising."""
    changes: tuple[tuple[float, ...], ...]
    """For each picture and cycle from the second on, how much the boundary changed, as a part of itself."""
    cycles: tuple[int, ...]
    """Cycles that each picture went through."""

    def pictures(self) -> list[Image.Image]:
        return [to_picture(array) for array in self.pixels.numpy()]


def cow(
    generator: Generator,
    conditions: Sequence[CowCondition],
    config: CowConfig | None = None,
    *,
    batch: int = 1,
    on_call: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> CowResult:
    """One picture for each condition (docs/cow.md; Wang et al., arXiv 2306.08247).

    Every noise is keyed by the picture's seed. With `batch` 1 each picture has calls of its own, so that it is the same
    bit for bit whatever is made beside it; a larger `batch` is quicker and agrees within rounding. `on_call` hears the
    calls made so far. Raises ConfigError for settings, masks and words that do not fit the model, DataError for what is
    no picture.
    """
    settings = config or CowConfig()
    if not conditions:
        raise ConfigError("no condition was given; give at least one image")
    if batch < 1:
        raise ConfigError(f"batch is {batch}; give 1 or more")
    for condition in conditions:
        check_words(generator.model, condition)
    schedule = Schedule.of(generator, settings)
    groups = [conditions[first : first + batch] for first in range(0, len(conditions), batch)]
    placed = [place(generator.model, group, settings) for group in groups]  # refused before anything is made
    _check_backend(generator, settings, placed[0].placement)
    tally = Tally(on_call)
    pixels, changes = [], []
    for group, there in zip(groups, placed, strict=True):
        guide = Guide.of(generator.model, group, settings, tally)
        seeds = tuple(condition.seed for condition in group)
        made, moved = _Flow(generator, settings, schedule, guide, there, seeds, watch).pictures()
        pixels.append(made)
        changes += moved
    return CowResult(
        pixels=torch.cat(pixels),
        canvas=torch.cat([there.canvas for there in placed]),
        kept=torch.cat([there.kept for there in placed]),
        calls=tally.calls,
        evaluations=tally.evaluations,
        timesteps=tuple(sorted(tally.timesteps)),
        changes=tuple(tuple(row[1:]) for row in changes),
        cycles=tuple(len(row) for row in changes),
    )


def planned_calls(generator: Generator, count: int, config: CowConfig, batch: int = 1) -> int:
    """Calls of the denoiser for `count` pictures when no cycle is left out; raises what `cow` raises."""
    schedule = Schedule.of(generator, config)
    where = Placement.of(generator.model, config)
    _check_backend(generator, config, where)
    apart = config.inversion == "alone" and not where.whole
    return schedule.calls(config.cycles, apart) * -(-count // batch)


def _check_backend(generator: Generator, config: CowConfig, where: Placement) -> None:
    """Raise ConfigError when what computes the denoiser cannot read the condition by itself."""
    if generator.facts.get("backend") == "openvino" and config.inversion == "alone" and not where.whole:
        raise ConfigError(
            "OpenVINO compiles the denoiser for pictures of the canvas's size, and the condition is to be inverted "
            f"alone at {where.size} of {where.canvas} pixels; set inversion to canvas, or load the generator with "
            "backend onednn-int8 or simulated"
        )


@dataclass(frozen=True)
class _Flow:
    """B pictures on their way, all at the same step."""

    generator: Generator
    config: CowConfig
    schedule: Schedule
    guide: Guide
    placed: Placed
    seeds: tuple[int, ...]
    watch: Watch | None
    states: tuple[Tensor, ...] = ()
    """The condition at the steps 0 .. b, float32[B, c, s, s]."""

    @torch.no_grad()
    def pictures(self) -> tuple[Tensor, list[list[float]]]:
        """Pixels float32[B, C, H, W], and for each picture the change in each cycle, infinite in the first."""
        flow, x = self.seeded()
        x, changes = flow.cycled(x)
        pixels = decoded(self.generator.model, flow.finished(x))
        if self.config.strength == 0.0:  # an autoencoder does not give back what it was given
            pixels = torch.where(self.placed.kept[:, None] == 1.0, self.placed.canvas, pixels)
        return pixels, changes

    def seeded(self) -> tuple["_Flow", Tensor]:
        """The flow with the condition's states, and the canvas at step r: float32[B, c, h, w]."""
        encode, where = self.generator.model.codec.encode, self.placed.placement
        replace_at, back = self.schedule.replace, self.schedule.back
        if where.whole or self.config.inversion == "canvas":
            canvas = self._inverted(encode(self.placed.canvas), back, "invert canvas")
            states = [where.positions_in(x) for x in canvas]
        else:
            states = self._inverted(encode(self.placed.seed), back, "invert seed")
            canvas = self._inverted(encode(self.placed.canvas), replace_at, "invert canvas")
        return replace(self, states=tuple(states)), canvas[replace_at]

    def cycled(self, x: Tensor) -> tuple[Tensor, list[list[float]]]:
        """x at step r after the cycles, and how much the boundary changed in each cycle of each picture."""
        flow, places = self, torch.arange(len(x))
        ended = x.clone()
        changes: list[list[float]] = [[] for _ in self.seeds]
        before: Tensor | None = None
        for cycle in range(self.config.cycles):
            x, seen = flow.cycle(x, cycle)
            change = flow.change(before, seen)
            for place_in_batch, amount in zip(places.tolist(), change.tolist(), strict=True):
                changes[place_in_batch].append(amount)
            ended[places] = x
            moving = (~(change < self.config.tolerance)).nonzero().flatten()
            if not len(moving):
                break
            if len(moving) < len(places):
                flow, places, x, seen = flow.rows(moving), places[moving], x[moving], seen[moving]
            before = seen
        return ended, changes

    def cycle(self, x: Tensor, cycle: int) -> tuple[Tensor, Tensor]:
        """One round from step r back to b and down to r again: x there, and the last clean picture seen."""
        plan = self.schedule
        fresh = keyed_noise(x, self.seeds, "disturb", plan.told(plan.back), cycle)
        x = self.overwritten(plan.disturb(x, fresh), plan.back)
        self._show("disturb", plan.back, cycle, x)
        seen = x
        for step in range(plan.back, plan.replace, -1):
            output = self.guide.within_cycles(x, plan.told(step), self.placed.mask)
            x, seen = self._down(x, output, step, self.config.eta, "construct", cycle)
            x = self.overwritten(x, step - 1)
            self._show("construct", step - 1, cycle, x)
        return x, seen

    def finished(self, x: Tensor) -> Tensor:
        """The clean x0, float32[B, c, h, w], from x at step r."""
        plan = self.schedule
        if plan.replace in plan.preserved:
            x = self.overwritten(x, plan.replace)
        for step in range(plan.replace, 0, -1):
            output = self.guide.plain(x, plan.told(step))
            x, _ = self._down(x, output, step, self.config.final_eta, "finish", 0)
            if step - 1 in plan.preserved:
                x = self.overwritten(x, step - 1)
            self._show("finish", step - 1, None, x)
        return x

    def overwritten(self, x: Tensor, step: int) -> Tensor:
        """x with the condition's state in the kept area, blended where the mask is soft."""
        x = x.clone()
        part = self.placed.placement.positions_in(x)
        mask = self.placed.placement.positions_in(self.placed.mask)
        state = self.states[step]
        mixed = mask * state + (1.0 - mask) * part
        part[:] = torch.where(mask == 1.0, state, torch.where(mask == 0.0, part, mixed))
        return x

    def change(self, before: Tensor | None, seen: Tensor) -> Tensor:
        """How much of the clean picture changed at the boundary since the last cycle, float32[B]; at first infinite."""
        if before is None:
            return torch.full((len(seen),), torch.inf)
        boundary = self.placed.boundary
        moved, size = (((each * boundary).square().flatten(1).sum(1)) for each in (seen - before, seen))
        return (moved / size.clamp(min=1e-12)).sqrt()

    def rows(self, index: Tensor) -> "_Flow":
        """The chosen pictures, int64[R]."""
        placed = replace(
            self.placed,
            seed=self.placed.seed[index],
            canvas=self.placed.canvas[index],
            kept=self.placed.kept[index],
            mask=self.placed.mask[index],
        )
        return replace(
            self,
            guide=self.guide.rows(index),
            placed=placed,
            seeds=tuple(self.seeds[row] for row in index.tolist()),
            states=tuple(state[index] for state in self.states),
        )

    def _inverted(self, x0: Tensor, last: int, phase: str) -> list[Tensor]:
        """The states 0 .. last of clean x0, each float32[B, c, h, w]."""
        states = [x0]
        self._show(phase, 0, None, x0)
        for step in range(last):
            output = self.guide.plain(states[-1], self.schedule.told(step + 1))
            states.append(self.schedule.up(states[-1], output, step))
            self._show(phase, step + 1, None, states[-1])
        return states

    def _down(self, x: Tensor, output: Tensor, step: int, eta: float, phase: str, draw: int) -> tuple[Tensor, Tensor]:
        """x at the step below, and the clean picture that the denoiser saw."""
        plan = self.schedule
        x0, noise = plan.process.split(x, output, plan.told(step))
        deviation = plan.deviation(step, eta)
        fresh = keyed_noise(x, self.seeds, phase, plan.told(step), draw) if deviation else None
        return plan.down(x0, noise, step, deviation, fresh), x0

    def _show(self, phase: str, step: int, cycle: int | None, x: Tensor) -> None:
        if self.watch is not None:
            self.watch(Stage(phase, step, cycle), x)
