"""How noise enters a picture and is led out of it again: a variance-preserving chain, or a straight line."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.diffusion.noise import trailing_timesteps
from forebear.errors import ModelError

FLOW_SCHEDULER = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True)
class Move:
    """One step of sampling."""

    time: Tensor
    """What the denoiser is told: int64[] or float32[]."""
    follow: Callable[[Tensor, Tensor], Tensor]
    """From x and the denoiser's output there to the next x; each float[B, c, h, w]."""
    clean: Callable[[Tensor, Tensor], Tensor]
    """From the same to the clean x0 that the denoiser sees in x, float[B, c, h, w]."""


class NoiseProcess(Protocol):
    """Noise levels numbered by timesteps t from 0 to total_timesteps - 1, noisier with t; timesteps are int64[B]."""

    prediction_type: str
    total_timesteps: int

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """x_t, float[B, c, h, w]."""

    def target(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """What the model is trained to predict, float[B, c, h, w]."""

    def times(self, timesteps: Tensor) -> Tensor:
        """What the denoiser is told for timesteps, [B]."""

    def schedule(self) -> NDArray[np.float32]:
        """The scheduler's own number for each timestep, float32[total_timesteps]: it identifies the noise levels."""

    def moves(self, steps: int) -> list[Move]:
        """The way of sampling from noise to a clean picture in 1 to total_timesteps steps."""


def noise_process(scheduler: Any) -> NoiseProcess:
    """The process of a diffusers scheduler; raises ModelError for a kind or prediction type that is not supported."""
    if type(scheduler).__name__ == FLOW_SCHEDULER:
        return RectifiedFlow(scheduler)
    if getattr(scheduler, "alphas_cumprod", None) is None:
        raise ModelError(unsupported_scheduler(type(scheduler).__name__))
    return VariancePreserving(scheduler)


def unsupported_scheduler(name: str) -> str:
    return (
        f"scheduler {name} has no alphas_cumprod; supported are DDPM-type ones (DDPM, DDIM, PNDM ...) and "
        f"{FLOW_SCHEDULER}"
    )


class VariancePreserving:
    """x_t = sqrt(alpha_t) x0 + sqrt(1 - alpha_t) noise, with the scheduler's own cumulative alphas.

    Sampling is DDIM with eta 0 (Song et al., "Denoising Diffusion Implicit Models", equation 12).
    """

    def __init__(self, scheduler: Any) -> None:
        self.prediction_type = str(scheduler.config.prediction_type)
        self.total_timesteps = int(scheduler.config.num_train_timesteps)
        if self.prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ModelError(f"prediction type {self.prediction_type!r} is not epsilon, v_prediction or sample")
        self._alphas: Tensor = scheduler.alphas_cumprod
        clips = scheduler.config.get("clip_sample", False)
        self._limit = float(scheduler.config.get("clip_sample_range", 1.0)) if clips else None

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        signal, spread = self._signal_and_spread(timesteps, x0)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Noise, x0, or v = sqrt(alpha) noise - sqrt(1 - alpha) x0, by the prediction type."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x0
        signal, spread = self._signal_and_spread(timesteps, x0)
        return signal * noise - spread * x0

    def times(self, timesteps: Tensor) -> Tensor:
        return timesteps

    def schedule(self) -> NDArray[np.float32]:
        """The cumulative alphas."""
        return np.asarray(self._alphas.cpu(), dtype="<f4")

    def moves(self, steps: int) -> list[Move]:
        timesteps: list[int | None] = [*trailing_timesteps(steps, self.total_timesteps).tolist(), None]
        return [
            Move(
                torch.tensor(now),
                partial(self._ddim_step, timestep=now, following=following),
                partial(self.clean, timestep=now),
            )
            for now, following in pairwise(timesteps)
            if now is not None
        ]

    def clean(self, x: Tensor, output: Tensor, timestep: int) -> Tensor:
        """The x0 that the denoiser sees in x at `timestep`, float[B, c, h, w]."""
        return self._ddim_step(x, output, timestep, None)

    def _signal_and_spread(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alphas = self._alphas.to(like.device)[timesteps].float().view(-1, 1, 1, 1)
        return alphas.sqrt(), (1.0 - alphas).sqrt()

    def split(self, x: Tensor, output: Tensor, timestep: int) -> tuple[Tensor, Tensor]:
        """The clean x0, clipped as the scheduler says, and the noise that an output at `timestep` sees in x there."""
        signal, spread = self.level(timestep)
        if self.prediction_type == "epsilon":
            x0, noise = (x - spread * output) / signal, output
        elif self.prediction_type == "sample":
            x0, noise = output, (x - signal * output) / spread
        else:
            x0, noise = signal * x - spread * output, signal * output + spread * x
        return self.clipped(x0), noise

    def clipped(self, x0: Tensor) -> Tensor:
        """x0 within the scheduler's range, if it has one."""
        return x0 if self._limit is None else x0.clamp(-self._limit, self._limit)

    def level(self, timestep: int | None) -> tuple[float, float]:
        """sqrt(alpha) and sqrt(1 - alpha) of a timestep; 1 and 0 of a clean picture, None."""
        alpha = 1.0 if timestep is None else float(self._alphas[timestep])
        return alpha**0.5, (1.0 - alpha) ** 0.5

    def _ddim_step(self, x: Tensor, output: Tensor, timestep: int, following: int | None) -> Tensor:
        """From x at `timestep` to x at `following`, or to the clean x0 when that is None."""
        x0, noise = self.split(x, output, timestep)
        if following is None:
            return x0
        signal, spread = self.level(following)
        return signal * x0 + spread * noise


class RectifiedFlow:
    """x_t = (1 - sigma_t) x0 + sigma_t noise, and the model predicts noise - x0 (Esser et al., arXiv 2403.03206).

    sigma_t is the (t + 1)th smallest of the sigmas that the scheduler holds for training, its `shift` included: noise
    ascends with t, and t = total_timesteps - 1 is noise alone. The denoiser is told the timestep that the scheduler
    holds for that sigma. Sampling is Euler's method along the sigmas that the scheduler sets for so many steps, which
    lie between those of training.
    """

    prediction_type = "flow"

    def __init__(self, scheduler: Any) -> None:
        for name in ("use_dynamic_shifting", "invert_sigmas"):
            if scheduler.config.get(name):
                raise ModelError(
                    f"the scheduler has {name}, with which a timestep has no noise level of its own; "
                    "supported are models trained with a fixed shift"
                )
        self.total_timesteps = int(scheduler.config.num_train_timesteps)
        self._fresh = partial(type(scheduler).from_config, scheduler.config)
        untouched = self._fresh()  # the given one has lost its training sigmas if it has sampled
        self._sigmas: Tensor = untouched.sigmas.flip(0)
        self._times: Tensor = untouched.timesteps.flip(0)

    def noised(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        sigmas = self._sigmas.to(x0.device)[timesteps].view(-1, 1, 1, 1)
        return (1.0 - sigmas) * x0 + sigmas * noise

    def target(self, x0: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        """The line's direction, noise - x0, the same at every timestep."""
        return noise - x0

    def times(self, timesteps: Tensor) -> Tensor:
        return self._times.to(timesteps.device)[timesteps]

    def schedule(self) -> NDArray[np.float32]:
        """The sigmas."""
        return np.asarray(self._sigmas, dtype="<f4")

    def moves(self, steps: int) -> list[Move]:
        scheduler = self._fresh()
        scheduler.set_timesteps(steps)
        sigmas: list[float] = scheduler.sigmas.tolist()
        return [
            Move(time, partial(_euler_step, change=following - now), partial(_euler_step, change=-now))
            for time, (now, following) in zip(scheduler.timesteps, pairwise(sigmas), strict=True)
        ]


def _euler_step(x: Tensor, output: Tensor, change: float) -> Tensor:
    return x + change * output
