"""Attention whose probabilities are rounded to 8 bits, as TFMQ-DM's code does it: computed step by step, not fused."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PROBABILITY_LEVELS = 255.0
"""Codes 0 .. 255 of the range [0, 1]: the zero point is 0, so that what attention leaves out stays left out."""


def rounded_probabilities(probabilities: Tensor) -> Tensor:
    """Probabilities to the nearest of 256 levels between 0 and 1."""
    return torch.round(probabilities * PROBABILITY_LEVELS) / PROBABILITY_LEVELS


def round_attention(denoiser: nn.Module) -> int:
    """Let every attention of a denoiser round its probabilities, in place; returns how many there are."""
    from diffusers.models.attention_processor import Attention

    found = [module for module in denoiser.modules() if isinstance(module, Attention)]
    for module in found:
        module.set_processor(_processor()())
    return len(found)


class _Rounding:
    """An attention module seen by its processor: itself, but for its scores."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def get_attention_scores(self, *given: Any) -> Tensor:
        return rounded_probabilities(self._module.get_attention_scores(*given))


@cache
def _processor() -> type[Any]:
    """A class of its own, because diffusers is imported only where it is used."""
    from diffusers.models.attention_processor import AttnProcessor

    class RoundedAttention(AttnProcessor):  # type: ignore[misc]
        """diffusers' plain processor, reading rounded probabilities."""

        def __call__(self, attn: Any, *given: Any, **named: Any) -> Tensor:
            attended: Tensor = super().__call__(_Rounding(attn), *given, **named)
            return attended

    return RoundedAttention
