"""Calls of the denoiser with the prompts of each phase, and how many there were."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.settings import CowConfig


@dataclass
class Tally:
    """Counts what was asked of the denoiser."""

    on_call: Callable[[int], None] | None = None
    """Hears the number of calls after each."""
    calls: int = 0
    evaluations: int = 0
    """Rows of all calls."""
    timesteps: set[int] = field(default_factory=set)
    """All that the denoiser was told."""

    def count(self, rows: int, timestep: int) -> None:
        self.calls += 1
        self.evaluations += rows
        self.timesteps.add(timestep)
        if self.on_call is not None:
            self.on_call(self.calls)


@dataclass(frozen=True)
class Guide:
    """The denoiser as guided by B pictures' prompts."""

    model: DiffusionModel
    tally: Tally
    scale: float
    told: Condition
    """Of the pictures' own prompts or labels."""
    untold: Condition | None
    """What guidance leads away from outside the cycles; None without guidance."""
    cyclic: tuple[Condition, ...]
    """What it leads away from within the cycles: one condition, or negative, suppress and diverse."""

    @staticmethod
    def of(model: DiffusionModel, conditions: Sequence[CowCondition], config: CowConfig, tally: Tally) -> "Guide":
        """For B pictures. Without text there is no negative prompt: cycles are guided as all else is."""
        count = len(conditions)
        told = model.condition([each.prompt for each in conditions], [each.label for each in conditions])
        with torch.no_grad():
            untold = None if config.guidance == 1.0 else model.conditioner.unconditional(count)
        if untold is None:
            return Guide(model, tally, 1.0, told, None, ())
        words = [config.negative]
        if config.suppress != config.diverse:
            words += [config.suppress, config.diverse]
        if model.conditioner.kind == "text":
            cyclic = tuple(model.condition([word] * count, [None] * count) for word in words)
        else:
            cyclic = (untold,)
        return Guide(model, tally, config.guidance, told, untold, cyclic)

    def rows(self, index: Tensor) -> "Guide":
        """For the chosen pictures, int64[R]."""
        return Guide(
            self.model,
            self.tally,
            self.scale,
            self.told.rows(index),
            None if self.untold is None else self.untold.rows(index),
            tuple(each.rows(index) for each in self.cyclic),
        )

    def plain(self, x: Tensor, timestep: int) -> Tensor:
        """The guided output for x float32[B, c, h, w], outside the cycles."""
        if self.untold is None:
            return self._outputs(x, timestep, [self.told])[0]
        untold, told = self._outputs(x, timestep, [self.untold, self.told])
        return untold + self.scale * (told - untold)

    def within_cycles(self, x: Tensor, timestep: int, mask: Tensor) -> Tensor:
        """The guided output within the cycles; mask float32[B, 1, h, w] is 1 where the condition is kept.

        With negative, suppress and diverse prompts: e = e_n + scale (e_told - e_n), where e_n is e_negative in the kept
        area and e_negative + e_suppress - e_diverse outside of it.
        """
        if not self.cyclic:
            return self.plain(x, timestep)
        negative, told, *rest = self._outputs(x, timestep, [self.cyclic[0], self.told, *self.cyclic[1:]])
        away = negative
        if rest:
            suppress, diverse = rest
            away = mask * negative + (1.0 - mask) * (negative + suppress - diverse)
        return away + self.scale * (told - away)

    def _outputs(self, x: Tensor, timestep: int, conditions: list[Condition]) -> tuple[Tensor, ...]:
        """One call of the denoiser for x under each condition."""
        batch = x.repeat(len(conditions), 1, 1, 1)
        both = conditions[0] if len(conditions) == 1 else Condition.joined(conditions)
        output = self.model.denoise(batch, torch.full((len(batch),), timestep), both)
        self.tally.count(len(batch), timestep)
        return output.chunk(len(conditions))
