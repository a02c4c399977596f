"""Samplers by name: the model's own way from noise to picture, and diffusers' schedulers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.process import Move, VariancePreserving
from forebear.errors import ConfigError

OWN = "own"
"""DDIM with eta 0 for models trained with a variance-preserving scheduler, Euler's method for flow models."""
DPM_SOLVER = "dpm-solver++"
DIFFUSERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    DPM_SOLVER: ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpm-solver++3": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 3}),
}
"""diffusers' class of each sampler, and what it is told beside the model's own scheduler settings."""
SAMPLERS: tuple[str, ...] = (OWN, *DIFFUSERS)
MEMORYLESS = (OWN, "ddim")
"""Samplers whose next x follows from the present one alone: their trajectories can be taken up at any step."""


def moves(model: DiffusionModel, sampler: str, steps: int) -> list[Move]:
    """The `steps` moves of a sampler for a model, fresh: those of multistep samplers are followed in order, once.

    diffusers' schedulers take the model's own scheduler settings with trailing timesteps, and draw no noise.
    Raises ConfigError for a sampler that is unknown or not for this kind of model, and for impossible steps.
    """
    if not 1 <= steps <= model.total_timesteps:
        raise ConfigError(f"steps is {steps}; give 1 to {model.total_timesteps}")
    if sampler == OWN:
        return model.process.moves(steps)
    if sampler not in DIFFUSERS:
        raise ConfigError(f"sampler {sampler!r} is unknown; the samplers are {', '.join(SAMPLERS)}")
    process = model.process
    if not isinstance(process, VariancePreserving):
        raise ConfigError(f"sampler {sampler} is not for flow models; use {OWN}, which is Euler's method for them")
    return _Scheduled(_scheduler(model, sampler), steps).moves(process)


def times(asked: Sequence[Move]) -> list[float]:
    """What the denoiser is told at each move."""
    return [float(move.time) for move in asked]


def _scheduler(model: DiffusionModel, sampler: str) -> Any:
    import diffusers

    name, settings = DIFFUSERS[sampler]
    kind = getattr(diffusers, name)
    return kind.from_config(model.scheduler.config, timestep_spacing="trailing", **settings)


class _Scheduled:
    """A diffusers scheduler set to a number of steps, whose `step` keeps count of the moves made."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) != steps:
            raise ConfigError(
                f"{type(scheduler).__name__} makes {len(scheduler.timesteps)} steps where {steps} were asked for; "
                "ask for another number"
            )
        self._scheduler = scheduler

    def moves(self, process: VariancePreserving) -> list[Move]:
        return [
            Move(time, self._follow(time), partial(process.clean, timestep=int(time)))
            for time in self._scheduler.timesteps
        ]

    def _follow(self, time: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def follow(x: Tensor, output: Tensor) -> Tensor:
            following: Tensor = self._scheduler.step(output, time, x, return_dict=False)[0]
            return following

        return follow
