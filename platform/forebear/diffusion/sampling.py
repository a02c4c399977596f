"""Pictures from a model by its process's own sampling with classifier-free guidance, each a function of its seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import draw_noise
from forebear.diffusion.process import Move
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

    The way from noise to picture is deterministic: DDIM with eta 0 for DDPM-type models, Euler's method for flow models
    (`process`). Guidance 1 switches classifier-free guidance off, and a model without captions or a class of guidance
    has none. The starting noise is keyed by the seed alone, so a picture does not depend on the others of its batch.
    Raises ConfigError for impossible settings.
    """
    if not 1 <= steps <= model.total_timesteps:
        raise ConfigError(f"steps is {steps}; give 1 to {model.total_timesteps}")
    if not len(captions) == len(labels) == len(seeds) > 0:
        raise ConfigError(
            f"{len(captions)} captions, {len(labels)} labels and {len(seeds)} seeds; give one of each per picture"
        )
    x = denoise_along(
        model,
        starting_noise(model, seeds),
        model.process.moves(steps),
        captions,
        labels,
        guidance,
        None if on_step is None else lambda step: on_step(step.made),
    )
    return decoded(model, x)


def starting_noise(model: DiffusionModel, seeds: Sequence[int]) -> Tensor:
    """The noise that pictures start from, float32[B, c, h, w]; each row is keyed by its seed alone."""
    return torch.cat([draw_noise(model.x0_shape, seed, ["generate"], [model.total_timesteps], [0]) for seed in seeds])


@dataclass(frozen=True)
class Step:
    """Where a move has led, and how it came about."""

    move: Move
    made: int
    """Moves so far, this one included."""
    before: Tensor
    """x before the move, float[B, c, h, w]."""
    output: Tensor
    """Of the denoiser there, guided."""
    x: Tensor
    """After the move."""

    def clean(self) -> Tensor:
        """The clean x0 that the denoiser saw, float[B, c, h, w]: what the picture will be, ever more surely."""
        return self.move.clean(self.before, self.output)


@torch.no_grad()
def denoise_along(
    model: DiffusionModel,
    x: Tensor,
    moves: Sequence[Move],
    captions: Sequence[str],
    labels: Sequence[int | None],
    guidance: float,
    on_move: Callable[[Step], None] | None = None,
) -> Tensor:
    """Where `moves` lead B noisy x, float[B, c, h, w], with classifier-free guidance; `on_move` hears of each."""
    condition = model.condition(captions, labels)
    empty = None if guidance == 1.0 else model.conditioner.unconditional(len(x))
    both = condition if empty is None else Condition.joined([condition, empty])
    for made, move in enumerate(moves):
        batch = x if empty is None else torch.cat([x, x])  # [B or 2 B, c, h, w]
        output = model.denoise(batch, move.time.repeat(len(batch)), both)
        if empty is not None:
            told, untold = output.chunk(2)
            output = untold + guidance * (told - untold)
        before, x = x, move.follow(x, output)
        if on_move is not None:
            on_move(Step(move, made + 1, before, output, x))
    return x


@torch.no_grad()
def decoded(model: DiffusionModel, x0: Tensor) -> Tensor:
    """Pixels float32[B, C, H, W] in [-1, 1] of clean x0, float[B, c, h, w]."""
    return model.codec.decode(x0).clamp(-1.0, 1.0)
