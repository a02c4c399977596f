"""A full-precision and a quantised generator side by side: temporal features, and the ways of the same seeds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear_generators.generator import Generator, Request, Trajectory
from forebear_generators.quantisation.network import QuantisedDenoiser
from forebear_generators.quantisation.temporal import TemporalBlock


@dataclass(frozen=True)
class Comparison:
    """What two generators made of one request."""

    full_precision: Trajectory
    quantised: Trajectory
    pixels: tuple[Tensor, Tensor]
    """Full-precision and quantised pictures, each float32[B, C, H, W]."""
    features: tuple[dict[str, Tensor], dict[str, Tensor]]
    """Their temporal features at the S steps for the first picture's class: float32[S, C_i] by layer name."""

    def deviation(self) -> Tensor:
        """Of each picture after each step: float32[S + 1, B]."""
        return deviation(self.full_precision.latents, self.quantised.latents)


def deviation(wanted: Tensor, found: Tensor) -> Tensor:
    """||x_t - xhat_t|| / ||x_t|| of latents [S + 1, B, c, h, w]: float32[S + 1, B] (TFMQ-DM's trajectory deviation)."""
    relative: Tensor = (found - wanted).flatten(2).norm(dim=2) / wanted.flatten(2).norm(dim=2)
    return relative


def compare(full: Generator, quantised: Generator, request: Request, batch: int | None = None) -> Comparison:
    """Run both generators from the same noise; raises ConfigError for steps that the quantised one is not made for."""
    first, second = (each.run(request, batch=batch, keep_trajectory=True) for each in (full, quantised))
    label = request.labels[0]
    features = [step_features(each.model, first.way.times, label) for each in (full, quantised)]
    return Comparison(first.way, second.way, (first.pixels, second.pixels), (features[0], features[1]))


@torch.no_grad()
def step_features(model: DiffusionModel, times: tuple[float, ...], label: int | None = None) -> dict[str, Tensor]:
    """The temporal features of a model at these times, computed or cached as its pictures get them: float32[S, C]."""
    denoiser = model.denoiser
    clock = denoiser.clock if isinstance(denoiser, QuantisedDenoiser) else None
    block = TemporalBlock(denoiser.inner if isinstance(denoiser, QuantisedDenoiser) else denoiser)
    by_class = bool(block.class_embeddings)
    labels = torch.tensor([label or 0]) if by_class else None
    rows = []
    for time in times:
        told = torch.tensor([time])
        told = told.long() if time == int(time) else told
        if clock is not None:
            clock.set(told, labels)
        rows.append(block.compute(told, labels))
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
