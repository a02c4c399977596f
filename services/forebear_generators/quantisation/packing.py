"""Codes on disk: 8-bit ones as they are, 4-bit ones two in a byte."""

from math import prod

import torch
from torch import Tensor


def pack4(codes: Tensor, low: int) -> Tensor:
    """uint8[ceil(n / 2)] of n codes from `low` to `low` + 15: the first of each two in the low four bits."""
    flat = (codes.flatten().to(torch.int16) - low).to(torch.uint8)
    if flat.numel() % 2:
        flat = torch.cat([flat, flat.new_zeros(1)])
    return flat[0::2] | (flat[1::2] << 4)


def unpack4(packed: Tensor, low: int, shape: tuple[int, ...]) -> Tensor:
    """int16[shape] of what `pack4` made."""
    both = torch.stack([packed & 15, packed >> 4], dim=1).flatten()[: prod(shape)]
    return both.to(torch.int16).reshape(shape) + low
