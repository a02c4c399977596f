"""Which layers of a 4-bit variant get 8 bits: those that predictions feel most for their bytes, while bytes last."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from forebear_generators.quantisation.grids import decode, per_channel
from forebear_generators.quantisation.layout import PlannedLayer
from forebear_generators.quantisation.reconstruction import LearnedLayer
from forebear_generators.quantisation.settings import WeightsConfig

DESCRIBED = 1_100
"""Bytes of a layer in the JSON description and in the head of the file of tensors, rather too many."""


def extra_bytes(plan: PlannedLayer, weights: int) -> int:
    """What 8 bits add to a layer of so many weights."""
    return 0 if plan.bits == 8 else weights // 2


@torch.no_grad()
def felt(
    denoiser: Any,
    plans: Sequence[PlannedLayer],
    passes: Callable[[], Iterable[Callable[[], Tensor]]],
    config: WeightsConfig,
    tick: Callable[[], None],
) -> Tensor:
    """Squared error of the predictions of `passes` when each layer alone is rounded to the nearest: float64[L]."""
    wanted = [forward() for forward in passes()]
    found = torch.zeros(len(plans), dtype=torch.float64)
    for place, plan in enumerate(plans):
        layer = denoiser.get_submodule(plan.name)
        rounded = LearnedLayer(layer, plan, config).rounded("nearest")
        own = layer.weight.data
        wide = per_channel(rounded.scale, own), per_channel(rounded.zero, own)
        layer.weight.data = decode(rounded.codes, *wide)
        for forward, before in zip(passes(), wanted, strict=True):
            found[place] += (forward() - before).square().sum(dtype=torch.float64)
        layer.weight.data = own
        tick()
    return found


def chosen(errors: Tensor, extra: Sequence[int], left: float) -> list[int]:
    """Places of the layers to widen: by falling error for each extra byte, those that still fit in the bytes left."""
    taken = []
    for place in sorted(range(len(extra)), key=lambda each: (-float(errors[each]) / max(extra[each], 1), each)):
        if 0 < extra[place] <= left:
            taken.append(place)
            left -= extra[place]
    return sorted(taken)
