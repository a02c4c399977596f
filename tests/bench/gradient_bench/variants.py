"""What is measured: each variant does one batch's work each time it is called."""

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from processor import multiplies_bfloat16
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from forebear.gradients import GradientBatch, GradientEngine, Precision, ProjectionConfig
from forebear.jobs.doctor_costs import Work
from gradient_bench.models import Batch

STEP = "training step"
"""R: what every cost is a ratio to."""

DIMS = (1024, 4096, 16384)
"""Of the mode `default`; the other modes are measured at the second."""


@dataclass(frozen=True)
class Sketch:
    """One setting of the gradient engine."""

    mode: Literal["fast", "default", "exact"]
    dim: int
    precision: Precision

    @property
    def name(self) -> str:
        return f"forebear {self.mode}, k={self.dim}, {self.precision}"

    @classmethod
    def parse(cls, name: str) -> "Sketch | None":
        """The sketch of that name; None when it is another variant's."""
        found = re.fullmatch(r"forebear (\w+), k=(\d+), (\w+)", name)
        return cls(found[1], int(found[2]), found[3]) if found else None  # type: ignore[arg-type]

    def engine(self, module: nn.Module, seed: int = 0) -> GradientEngine:
        config = ProjectionConfig(dim=self.dim, seed=seed, mode=self.mode)
        return GradientEngine(module, config, precision=self.precision)

    def measure(self, batch: Batch, seed: int = 0) -> GradientBatch:
        return self.engine(batch.model.denoiser, seed).measure(batch.losses)


def sketches(dims: tuple[int, ...] = DIMS) -> tuple[Sketch, ...]:
    precisions: tuple[Precision, ...] = ("float32", "bfloat16") if multiplies_bfloat16() else ("float32",)
    middle = dims[len(dims) // 2]
    return tuple(
        Sketch(mode, dim, precision)
        for mode in ("fast", "default", "exact")
        for dim in (dims if mode == "default" else (middle,))
        for precision in precisions
    )


def works(batch: Batch, chosen: tuple[Sketch, ...]) -> Mapping[str, Callable[[], Work]]:
    """By name, what makes a variant ready; the training step first. Those that change the model own a copy of it."""
    return {
        STEP: lambda: _step(batch),
        "training step, channels last": lambda: _step(_copy(batch, channels_last=True)),
        **({"training step, bfloat16 autocast": lambda: _step(batch, autocast=True)} if multiplies_bfloat16() else {}),
        "forward": lambda: _forward(batch),
        "activations-only backward": lambda: _activations(_copy(batch)),
        "torch.func vmap(grad)": lambda: _vmap(batch),
        **{sketch.name: lambda sketch=sketch: _sketch(batch, sketch) for sketch in chosen},
    }


def _copy(batch: Batch, *, channels_last: bool = False) -> Batch:
    model = copy.copy(batch.model)
    model.denoiser = copy.deepcopy(batch.model.denoiser)
    if channels_last:
        model.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Batch(model, batch.x0, batch.timesteps, batch.noise)


def _step(batch: Batch, *, autocast: bool = False) -> Work:
    """Forward and backward with weight gradients; no optimiser."""

    def work() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = batch.losses().sum()
        loss.backward()
        batch.model.denoiser.zero_grad(set_to_none=True)

    return work


def _forward(batch: Batch) -> Work:
    def work() -> None:
        with torch.no_grad():
            batch.losses()

    return work


def _activations(batch: Batch) -> Work:
    """Backward to the input with the parameters frozen: what every per-sample method has to pay."""
    batch.model.denoiser.requires_grad_(False)

    def work() -> None:
        x0 = batch.x0.clone().requires_grad_(True)
        Batch(batch.model, x0, batch.timesteps, batch.noise).losses().sum().backward()

    return work


def _vmap(batch: Batch) -> Work:
    """Whole per-sample gradients of every parameter, not projected."""
    denoiser = batch.model.denoiser
    noised = batch.model.noised(batch.x0, batch.timesteps, batch.noise)
    target = batch.model.target(batch.x0, batch.timesteps, batch.noise)
    parameters = {name: parameter.detach() for name, parameter in denoiser.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor, timestep: Tensor, wanted: Tensor) -> Tensor:
        predicted = functional_call(denoiser, weights, (row[None], timestep[None])).sample[0]
        return (predicted - wanted).square().mean()

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0, 0))
    return lambda: per_sample(parameters, noised, batch.timesteps, target)


def _sketch(batch: Batch, sketch: Sketch) -> Work:
    engine = sketch.engine(batch.model.denoiser)
    return lambda: engine.measure(batch.losses)
