"""Which layers of a pass multiply in 16 bits."""

import torch
from torch import nn

from forebear.gradients import GradientEngine, ProjectionConfig
from forebear.gradients.arithmetic import LowPrecision, low_precision


def test_multiplications_are_counted_by_type() -> None:
    convolution = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)  # 9 * 2 multiplications for each output
    transposed = nn.ConvTranspose2d(6, 5, 2, stride=2)  # 5 * 4 for each input
    linear = nn.Linear(5, 7).bfloat16()
    x = torch.ones(3, 4, 8, 8)

    def run() -> None:
        y = transposed(convolution(x))  # [3, 5, 8, 8] by way of [3, 6, 4, 4]
        linear(y.movedim(1, -1).bfloat16())

    high = 3 * 6 * 4 * 4 * 18 + 3 * 6 * 4 * 4 * 20
    low = 3 * 8 * 8 * 5 * 7
    assert low_precision(run) == LowPrecision(3, 1, low / (high + low))


def test_layers_that_the_patterns_take_out_stay_in_float32() -> None:
    module = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    engine = GradientEngine(module, ProjectionConfig(dim=64), ("*", "!0.*"), precision="bfloat16")
    found = low_precision(lambda: engine.measure(lambda: module(torch.ones(2, 8)).square().sum(1)))
    assert (found.layers, found.low) == (4, 2)  # not the first, and not the output layer
