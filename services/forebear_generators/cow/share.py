"""The condition's own part in a picture that was made from it: how alike they are, and how much loss it explains."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from forebear.diffusion.conditioning import Condition
from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise, stratified_timesteps
from forebear.diffusion.process import VariancePreserving
from forebear.errors import ConfigError
from forebear_generators.cow.condition import CowCondition
from forebear_generators.cow.sampler import CowResult
from forebear_generators.evaluation.measures import PIXEL_RANGE, PSNR_CEILING, similarity_map, window_side


@dataclass(frozen=True)
class Similarity:
    """How alike picture and condition are where the condition was to be kept."""

    psnr: float
    """dB, at most 100."""
    ssim: float | None
    """The mean over windows whose centre is kept; None when there is none."""
    correlation: float | None
    """Of pixel levels, all channels together, -1 to 1; None when one of both is even."""


@dataclass(frozen=True)
class ConditionShare:
    """A condition as a source of its picture, beside the training images."""

    similarity: Similarity
    loss: float
    """The model's loss on the picture under its prompt or label, the mean over timesteps and noises."""
    loss_inside: float
    """The part of it in the kept area; with that outside it is the whole."""
    explained: float
    """How much of `loss_inside` goes when the condition takes part in the prediction, 0 to 1."""
    share: float
    """The same of the whole loss: `explained` x `loss_inside` / `loss`."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-like values."""
        return asdict(self)


def similarity(result: CowResult) -> list[Similarity]:
    """Of each picture and its condition, weighted by the mask."""
    found, wanted = result.pixels.double(), result.canvas.double()
    weights = result.kept.double()[:, None].expand_as(found)
    total = weights.flatten(1).sum(1)

    def mean(values: Tensor) -> Tensor:
        return (values * weights).flatten(1).sum(1) / total

    error = mean((found - wanted).square())
    psnr = (10.0 * torch.log10(PIXEL_RANGE**2 / error)).clamp(max=PSNR_CEILING)
    apart = [each - mean(each).view(-1, 1, 1, 1) for each in (found, wanted)]
    correlation = mean(apart[0] * apart[1]) / (mean(apart[0].square()) * mean(apart[1].square())).sqrt()
    height, width = found.shape[2:]
    edge = window_side(height, width) // 2
    centres = result.kept.double()[:, None, edge : height - edge, edge : width - edge]
    windows = similarity_map(result.canvas, result.pixels).mean(1, keepdim=True)
    ssim = (windows * centres).flatten(1).sum(1) / centres.flatten(1).sum(1)
    rows = zip(psnr.tolist(), ssim.tolist(), correlation.tolist(), strict=True)
    return [Similarity(one, _number(two), _number(three)) for one, two, three in rows]


@torch.no_grad()
def condition_shares(
    model: DiffusionModel,
    result: CowResult,
    conditions: Sequence[CowCondition],
    *,
    timesteps: int = 16,
    draws: int = 2,
    seed: int = 0,
) -> list[ConditionShare]:
    """The share of each of B conditions in its picture (docs/cow.md has the formulas).

    Measured at `timesteps` stratified timesteps with `draws` noises each, which are the same for all pictures.
    Raises ConfigError for a flow model.
    """
    process = model.process
    if not isinstance(process, VariancePreserving):
        raise ConfigError("the condition's share is not defined for flow models; take a DDPM-type one")
    alike = similarity(result)
    shares = []
    for row, condition in enumerate(conditions):
        told = model.condition([condition.prompt], [condition.label])
        picture, given = (model.codec.encode(each[row : row + 1]) for each in (result.pixels, result.canvas))
        mask = F.avg_pool2d(result.kept[row : row + 1, None], model.codec.factor)
        sums = np.zeros(3)
        for timestep in stratified_timesteps(timesteps, model.total_timesteps).tolist():
            for draw in range(draws):
                noise = draw_noise(model.x0_shape, seed, [SHARED], [timestep], [draw])
                sums += _measured(model, process, picture, given, mask, timestep, noise, told)
        whole, inside, explained = sums / (timesteps * draws)
        part = float(explained / inside) if inside else 0.0
        share = float(explained / whole) if whole else 0.0
        shares.append(ConditionShare(alike[row], float(whole), float(inside), part, share))
    return shares


def _measured(
    model: DiffusionModel,
    process: VariancePreserving,
    picture: Tensor,
    given: Tensor,
    mask: Tensor,
    timestep: int,
    noise: Tensor,
    told: Condition,
) -> tuple[float, float, float]:
    """Loss, loss inside the mask and the explained part of that, of clean `picture` float32[1, c, h, w]."""
    at = torch.tensor([timestep])
    x = model.noised(picture, at, noise)
    signal, spread = process.level(timestep)
    output = model.predict(x, at, told)
    left = model.target(picture, at, noise) - output
    # What the model would have to predict, were the condition the clean picture in x.
    toward = model.target(given, at, (x - signal * given) / spread) - output
    count = left.numel()
    inside = float((mask * left.square()).sum()) / count
    along, length = float((mask * left * toward).sum()), float((mask * toward.square()).sum())
    part = min(max(along / length, 0.0), 1.0) if length else 0.0
    explained = (2.0 * part * along - part**2 * length) / count
    return float(left.square().sum()) / count, inside, explained


def _number(value: float) -> float | None:
    """None for what is no number, which JSON does not have."""
    return value if isfinite(value) else None
