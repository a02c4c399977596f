"""Pictures from a model by DDIM with classifier-free guidance, each a function of its own seed."""

from collections.abc import Callable, Sequence

import torch
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
    guidance: float = 3.0,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate one picture per seed: float32[B, C, H, W] in [-1, 1].

    DDIM with eta 0 on the scheduler's own alphas; guidance 1 switches classifier-free guidance off. The starting noise
    is keyed by the seed alone, so a picture does not depend on the others of its batch. Raises ConfigError for
    impossible settings.
    """
    from diffusers import DDIMScheduler  # noqa: PLC0415 - slow to import

    if not 1 <= steps <= model.total_timesteps:
        raise ConfigError(f"steps is {steps}; give 1 to {model.total_timesteps}")
    scheduler = DDIMScheduler.from_config(model.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    condition = model.condition(captions, labels)
    empty = None if guidance == 1.0 else _unconditional(model, len(seeds))
    both = condition if empty is None else Condition.joined([condition, empty])
    x = torch.cat([draw_noise(model.x0_shape, seed, ["generate"], [model.total_timesteps], [0]) for seed in seeds])
    for step, timestep in enumerate(scheduler.timesteps):
        batch = x if empty is None else torch.cat([x, x])
        output = model.predict(batch, timestep.expand(len(batch)), both)
        if empty is not None:
            told, untold = output.chunk(2)
            output = untold + guidance * (told - untold)
        x = scheduler.step(output, timestep, x).prev_sample
        if on_step is not None:
            on_step(step + 1)
    return model.codec.decode(x).clamp(-1.0, 1.0)


def _unconditional(model: DiffusionModel, count: int) -> Condition | None:
    with torch.no_grad():
        return model.conditioner.unconditional(count)
