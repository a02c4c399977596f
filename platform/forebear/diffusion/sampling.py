"""Pictures from a model by DDIM with classifier-free guidance, each a function of its own seed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.errors import ConfigError


@torch.no_grad()
def generate(
    model: DiffusionModel,
    captions: Sequence[str],
    labels: Sequence[int | None],
    seeds: Sequence[int],
    steps: int = 50,
    guidance: float = 1.0,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate one picture per seed: float32[B, C, H, W] in [-1, 1]; captions and labels have B entries too.

    DDIM with eta 0 (Song et al., "Denoising Diffusion Implicit Models", equation 12) on the scheduler's own alphas.
    Guidance 1 switches classifier-free guidance off, and a model without captions has none. The starting noise is keyed
    by the seed alone, so a picture does not depend on the others of its batch. Raises ConfigError for impossible
    settings.
    """
    if not 1 <= steps <= model.total_timesteps:
        raise ConfigError(f"steps is {steps}; give 1 to {model.total_timesteps}")
    if not len(captions) == len(labels) == len(seeds) > 0:
        raise ConfigError(
            f"{len(captions)} captions, {len(labels)} labels and {len(seeds)} seeds; give one of each per picture"
        )
    condition = model.condition(captions, labels)
    empty = None if guidance == 1.0 else model.conditioner.unconditional(len(seeds))
    both = condition if empty is None else Condition.joined([condition, empty])
    x = torch.cat([draw_noise(model.x0_shape, seed, ["generate"], [model.total_timesteps], [0]) for seed in seeds])
    timesteps = trailing_timesteps(steps, model.total_timesteps).tolist()
    for step, (timestep, following) in enumerate(zip(timesteps, [*timesteps[1:], None], strict=True)):
        batch = x if empty is None else torch.cat([x, x])  # [B or 2 B, c, h, w]
        output = model.predict(batch, torch.full((len(batch),), timestep), both)
        if empty is not None:
            told, untold = output.chunk(2)
            output = untold + guidance * (told - untold)
        x = _ddim_step(model, output, x, timestep, following)
        if on_step is not None:
            on_step(step + 1)
    return model.codec.decode(x).clamp(-1.0, 1.0)


def trailing_timesteps(steps: int, total: int) -> NDArray[np.int64]:
    """`steps` timesteps from total - 1 down, evenly spaced ("trailing"): int64[steps], strictly descending."""
    return np.rint(total * np.arange(steps, 0, -1) / steps).astype(np.int64) - 1


def _ddim_step(model: DiffusionModel, output: Tensor, x: Tensor, timestep: int, following: int | None) -> Tensor:
    """From x at `timestep` to x at `following`, or to the clean x0 when that is None."""
    signal, spread = _signal_and_spread(model, timestep)
    if model.prediction_type == "epsilon":
        x0, noise = (x - spread * output) / signal, output
    elif model.prediction_type == "sample":
        x0, noise = output, (x - signal * output) / spread
    else:
        x0, noise = signal * x - spread * output, signal * output + spread * x
    if model.scheduler.config.get("clip_sample", False):
        limit = float(model.scheduler.config.get("clip_sample_range", 1.0))
        x0 = x0.clamp(-limit, limit)
    if following is None:
        return x0
    signal, spread = _signal_and_spread(model, following)
    return signal * x0 + spread * noise


def _signal_and_spread(model: DiffusionModel, timestep: int) -> tuple[float, float]:
    alpha = float(model.scheduler.alphas_cumprod[timestep])
    return alpha**0.5, (1.0 - alpha) ** 0.5
