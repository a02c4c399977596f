"""Integer grids: codes and the numbers they stand for, and the search for a channel's range."""

from dataclasses import dataclass

import torch
from torch import Tensor

TINY = 1e-12
"""The least scale: that of a channel whose weights are all 0."""


@dataclass(frozen=True)
class Levels:
    """The codes of a number format: whole numbers from `low` to `high`."""

    low: int
    high: int
    symmetric: bool
    """Whether code 0 stands for 0; else a zero point does, which is a code."""


def levels(bits: int, symmetric: bool, reduced: bool = False) -> Levels:
    """Codes of so many bits: -(2^(b-1) - 1) .. 2^(b-1) - 1 or 0 .. 2^b - 1; reduced, of one bit less."""
    top = 2 ** (bits - reduced)
    return Levels(-(top // 2 - 1), top // 2 - 1, True) if symmetric else Levels(0, top - 1, False)


def range_grid(least: Tensor, most: Tensor, codes: Levels) -> tuple[Tensor, Tensor]:
    """Scale float32[...] and zero point int32[...] of ranges from `least` to `most`, widened to hold 0; float[...]."""
    least, most = least.clamp(max=0.0), most.clamp(min=0.0)
    if codes.symmetric:
        scale = (torch.maximum(-least, most) / codes.high).clamp(min=TINY)
        return scale.float(), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((most - least) / (codes.high - codes.low)).clamp(min=TINY).float()
    zero = (codes.low - torch.round(least / scale)).clamp(codes.low, codes.high)
    return scale, zero.to(torch.int32)


def encode(x: Tensor, scale: Tensor, zero: Tensor, codes: Levels) -> Tensor:
    """clamp(round(x / scale) + zero, low, high), as whole floating numbers; halves go to the even neighbour."""
    return (torch.round(x / scale) + zero).clamp(codes.low, codes.high)


def decode(code: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (code - zero) * scale


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[out] as [out, 1, ...], to go with weights `like`, [out, ...]."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def channel_grid(
    weight: Tensor, codes: Levels, search: str = "error", candidates: int = 80, exponent: float = 2.4
) -> tuple[Tensor, Tensor]:
    """Scale float32[out] and zero point int32[out] for weights float32[out, ...].

    `minmax` spans each channel's least to largest weight. `error` shrinks that range by (candidates - i) / candidates
    for i = 0 .. candidates - 1 and keeps the one with the least sum of |rounding error| ** exponent (TFMQ-DM's code).
    """
    rows = weight.flatten(1)
    least, most = rows.amin(1), rows.amax(1)
    scale, zero = range_grid(least, most, codes)
    if search == "minmax":
        return scale, zero
    best = torch.full_like(scale, torch.inf)
    for tried in range(candidates):
        shrink = (candidates - tried) / candidates
        new_scale, new_zero = range_grid(least * shrink, most * shrink, codes)
        wide_scale, wide_zero = new_scale[:, None], new_zero[:, None]
        error = (decode(encode(rows, wide_scale, wide_zero, codes), wide_scale, wide_zero) - rows).abs()
        error = error.pow(exponent).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        scale, zero = torch.where(better, new_scale, scale), torch.where(better, new_zero, zero)
    return scale, zero


def value_grid(values: Tensor, codes: Levels, candidates: int = 80) -> tuple[Tensor, Tensor]:
    """Scale float32[1] and zero point int32[1] for a tensor's values, float[n], by the least squared error."""
    return channel_grid(values.reshape(1, -1), codes, "error", candidates, 2.0)
