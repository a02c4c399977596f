"""AdaRound: whether each weight is rounded up or down, learned through a soft share (arXiv 2004.10568)."""

import torch
from torch import Tensor, nn

from forebear_generators.quantisation.grids import Levels, decode, per_channel

STRETCH = (-0.1, 1.1)
"""The sigmoid is stretched to this interval and cut to [0, 1], so that shares reach both ends (equation 23)."""


class SoftRounding(nn.Module):
    """Weights float32[out, ...] whose codes are floor(w / scale) + h + zero, with learned shares h in [0, 1]."""

    def __init__(self, weight: Tensor, scale: Tensor, zero: Tensor, codes: Levels) -> None:
        super().__init__()
        self.codes_range = codes
        self.scale, self.zero = per_channel(scale, weight), per_channel(zero, weight)
        steps = weight / self.scale
        self.base = steps.floor()
        share = (steps - self.base).clamp(1e-6, 1 - 1e-6)
        low, high = STRETCH
        # The share starts as what rounding takes away, so that nothing is rounded yet.
        self.logits = nn.Parameter(-torch.log((high - low) / (share - low) - 1.0))

    def share(self) -> Tensor:
        """h = clamp((high - low) sigmoid(v) + low, 0, 1), float[out, ...]."""
        low, high = STRETCH
        return (torch.sigmoid(self.logits) * (high - low) + low).clamp(0.0, 1.0)

    def weight(self) -> Tensor:
        """The softly rounded weights, with gradients to the shares."""
        code = (self.base + self.share() + self.zero).clamp(self.codes_range.low, self.codes_range.high)
        return decode(code, self.scale, self.zero)

    def codes(self) -> Tensor:
        """The codes after learning, int16[out, ...]: up where the share is at least a half."""
        up = (self.share() >= 0.5).to(self.base)
        return (self.base + up + self.zero).clamp(self.codes_range.low, self.codes_range.high).to(torch.int16)

    def regulariser(self, beta: float) -> Tensor:
        """sum(1 - |2 h - 1| ** beta), which draws every share to an end (equation 24)."""
        return (1.0 - (2.0 * self.share() - 1.0).abs().pow(beta)).sum()


def annealed(iteration: int, iterations: int, warmup: float, beta: tuple[float, float]) -> float | None:
    """The regulariser's exponent at an iteration; None during the warm-up."""
    begin = warmup * iterations
    if iteration < begin:
        return None
    passed = (iteration - begin) / max(iterations - begin, 1.0)
    return beta[1] + (beta[0] - beta[1]) * max(0.0, 1.0 - passed)
