"""What is measured of a picture made around a condition: the step across the boundary, adherence, diversity."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forebear.diffusion.model import DiffusionModel
from forebear.diffusion.noise import SHARED, draw_noise, stratified_timesteps
from forebear_generators.cow.evaluation.cases import Case, Words

Floats = NDArray[np.float64]


def jumps(pixels: Tensor, kept: Tensor) -> Floats:
    """Mean step of levels across the boundary of each of B kept areas, float64[B].

    The mean of |x_p - x_q| over channels and over the pairs of pixels p, q, side by side, of which one is kept. NaN
    where there is no such pair. `pixels` is [B, C, H, W], with NaN where pairs are left out, `kept` [B, H, W].
    """
    inside = kept >= 0.5
    sums, counts = torch.zeros(len(pixels), dtype=torch.float64), torch.zeros(len(pixels), dtype=torch.float64)
    for axis in (1, 2):
        steps = pixels.double().diff(dim=axis + 1).abs().mean(1)
        first, second = (inside.narrow(axis, start, inside.shape[axis] - 1) for start in (0, 1))
        crossing = (first ^ second) & ~steps.isnan()
        sums += torch.where(crossing, steps, 0.0).flatten(1).sum(1)
        counts += crossing.flatten(1).sum(1)
    return np.asarray((sums / counts).numpy())


def real_jumps(images: Tensor, kept: Tensor) -> Floats:
    """The same at the boundaries of B kept areas in real images [R, C, H, W], the mean over these: float64[B]."""
    return np.array([float(np.mean(jumps(images, one.expand(len(images), -1, -1)))) for one in kept])


@torch.no_grad()
def word_losses(
    model: DiffusionModel, pixels: Tensor, cases: Sequence[Case], timesteps: int, draws: int, seed: int = 0
) -> Tensor:
    """The model's loss on each of B pictures under its right words, first, and under wrong ones: float32[B, 1 + W].

    The classifier that a diffusion model is (Li et al., arXiv 2303.16203): the mean over stratified timesteps with
    `draws` noises each, which are the same for all pictures and words. NaN where a case has fewer wrong words.
    """
    found = torch.full((len(pixels), 1 + max(len(case.wrong) for case in cases)), torch.nan)
    at = stratified_timesteps(timesteps, model.total_timesteps).tolist()
    for row, case in enumerate(cases):
        words: tuple[Words, ...] = (case.right, *case.wrong)
        condition = model.condition([caption for caption, _ in words], [label for _, label in words])
        clean = model.codec.encode(pixels[row : row + 1]).expand(len(words), -1, -1, -1)
        losses = torch.zeros(len(words))
        for timestep in at:
            for draw in range(draws):
                noise = draw_noise(model.x0_shape, seed, [SHARED], [timestep], [draw]).expand_as(clean)
                losses += model.per_sample_loss(clean, torch.full((len(words),), timestep), noise, condition)
        found[row, : len(words)] = losses / (len(at) * draws)
    return found


def adherence(losses: Tensor) -> dict[str, Floats]:
    """Of word losses [B, 1 + W]: `accuracy` (the right words have the least), `margin` and `rank`, float64[B] each.

    The margin is by how much the right words' loss is below the mean of the wrong ones', as a part of that; the rank
    counts from 1, equal losses half. Nothing without wrong words.
    """
    if losses.shape[1] < 2:
        return {}
    exact = losses.double().numpy()
    right, wrong = exact[:, :1], exact[:, 1:]
    ahead, tied = (wrong < right).sum(1), (wrong == right).sum(1)
    rank = 1.0 + ahead + tied / 2.0
    margin = 1.0 - right[:, 0] / np.nanmean(wrong, axis=1)
    return {"accuracy": (rank == 1.0).astype(np.float64), "margin": margin, "rank": rank}


def diversity(pictures: Sequence[Tensor], kept: Tensor) -> Floats:
    """Mean distance between S pictures of each of B conditions outside the kept area, float64[B].

    `pictures` are S times [B, C, H, W] in [-1, 1], a distance the root mean square over the pixels that are not kept
    [B, H, W]; NaN where all are.
    """
    around = (kept < 0.5).double()[:, None]
    count = around.flatten(1).sum(1) * pictures[0].shape[1]
    apart = [
        ((first.double() - second.double()).square() * around).flatten(1).sum(1).div(count).sqrt()
        for first, second in combinations(pictures, 2)
    ]
    return np.asarray(torch.stack(apart).mean(0).numpy())
