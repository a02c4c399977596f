"""The steps of Cyclic One-Way Diffusion: noise levels counted from the clean picture, and the moves between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from forebear.diffusion.noise import draw_noise, trailing_timesteps
from forebear.diffusion.process import VariancePreserving
from forebear.errors import ConfigError
from forebear_generators.cow.settings import PAPER_STEPS, CowConfig
from forebear_generators.generator import Generator
from forebear_generators.quantisation.network import QuantisedDenoiser


@dataclass(frozen=True)
class Schedule:
    """Step k of 0 .. N is a noise level: 0 the clean picture, N noise; the denoiser is told the timestep of k >= 1."""

    process: VariancePreserving
    timesteps: tuple[int | None, ...]
    """Of the steps 0 .. N; None of the clean picture."""
    replace: int
    """r, where cycles end."""
    back: int
    """b, where they begin."""
    preserved: frozenset[int]
    """The steps of the last way at which the kept area is overwritten."""

    @staticmethod
    def of(generator: Generator, config: CowConfig) -> "Schedule":
        """That of a generator; raises ConfigError when the settings contradict each other or its model."""
        process = generator.model.process
        if not isinstance(process, VariancePreserving):
            raise ConfigError(
                "Cyclic One-Way Diffusion is not for flow models: it adds and removes noise along a "
                "variance-preserving chain; take a model that was trained with a DDPM-type scheduler"
            )
        denoiser = generator.model.denoiser
        known = denoiser.clock.times if isinstance(denoiser, QuantisedDenoiser) else None
        count = config.steps or (PAPER_STEPS if known is None else len(known))
        if count > process.total_timesteps:
            raise ConfigError(f"steps is {count}; give 2 to {process.total_timesteps}")
        replace, back, preserve = (_index(each, count) for each in (config.replace, config.back, config.preserve))
        if not 1 <= replace < back:
            raise ConfigError(
                f"with {count} steps, cycles lead from step {back} to step {replace}; raise steps, or set replace and "
                "back so that int(back x steps) > int(replace x steps) >= 1"
            )
        if preserve > replace:
            raise ConfigError(f"preserve is {config.preserve}; set it to {config.replace}, which is replace, or less")
        timesteps = trailing_timesteps(count, process.total_timesteps).tolist()[::-1]
        if known is not None and not set(timesteps[:back]) <= set(known):
            raise ConfigError(
                f"this {generator.variant} generator is made for {len(known)} steps of sampler {generator.sampler}, "
                f"and {count} were asked for; leave steps out, or quantise the model again with --steps {count}"
            )
        last = config.strength
        preserved = [preserve] if last is None else range(round(last * replace), replace)
        return Schedule(process, (None, *timesteps), replace, back, frozenset(preserved))

    @property
    def steps(self) -> int:
        """N."""
        return len(self.timesteps) - 1

    def told(self, step: int) -> int:
        """The timestep of a step from 1 to N."""
        timestep = self.timesteps[step]
        if timestep is None:
            raise ConfigError("a clean picture has no timestep; ask for a step from 1")
        return timestep

    def up(self, x: Tensor, output: Tensor, step: int) -> Tensor:
        """DDIM inversion from x at `step` to the next noisier step, float[B, c, h, w].

        `output` is the denoiser's for x as told the noisier step's timestep, as in diffusers' DDIMInverseScheduler; it
        is read as what the denoiser sees there, so that models which predict x0 can be inverted from a clean picture.
        """
        _, noise = self.process.split(x, output, self.told(step + 1))
        signal, spread = self.process.level(self.timesteps[step])
        x0 = self.process.clipped((x - spread * noise) / signal)
        signal, spread = self.process.level(self.told(step + 1))
        return signal * x0 + spread * noise

    def down(self, x0: Tensor, noise: Tensor, step: int, deviation: float, fresh: Tensor | None) -> Tensor:
        """DDIM from `step` to the one below, from what the denoiser sees in x there (equation 12 of arXiv 2010.02502).

        `deviation` is that of the `fresh` normal numbers float32[B, c, h, w].
        """
        signal, spread = self.process.level(self.timesteps[step - 1])
        if fresh is None:
            return signal * x0 + spread * noise
        return signal * x0 + sqrt(spread**2 - deviation**2) * noise + deviation * fresh

    def deviation(self, step: int, eta: float) -> float:
        """Of the fresh noise between `step` and the one below (equation 16); 0 where that is clean."""
        signal, spread = self.process.level(self.timesteps[step])
        signal_below, spread_below = self.process.level(self.timesteps[step - 1])
        return eta * spread_below / spread * sqrt(max(1.0 - (signal / signal_below) ** 2, 0.0))

    def disturb(self, x: Tensor, fresh: Tensor) -> Tensor:
        """The forward chain from step r to step b: both float32[B, c, h, w]."""
        signal, _ = self.process.level(self.told(self.replace))
        signal_back, _ = self.process.level(self.told(self.back))
        kept = signal_back / signal
        return kept * x + sqrt(1.0 - kept**2) * fresh

    def calls(self, cycles: int, inverted_apart: bool) -> int:
        """Sequential calls of the denoiser: b + r + cycles (b - r) + r, without the first r where nothing is apart."""
        return self.back + self.replace * (1 + inverted_apart) + cycles * (self.back - self.replace)


def keyed_noise(like: Tensor, seeds: Sequence[int], phase: str, timestep: int, draw: int) -> Tensor:
    """Normal noise float32[B, c, h, w]; a row's is keyed by its seed, phase, timestep and draw (the cycle)."""
    shape = tuple(like.shape[1:])
    return torch.cat([draw_noise(shape, seed, [f"cow {phase}"], [timestep], [draw]) for seed in seeds])


def _index(fraction: float, steps: int) -> int:
    """int(fraction x steps), where 0.29 x 100 is 29."""
    return int(fraction * steps + 1e-9)
